"""What one training run is made of, decided before anything is loaded.

A plan names the model, the rows, the seed and the settings. Digests of these and of the code are its identity, by which
a folder of kept work is known to belong to it or not.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.finetuning.objective import BOTH, label_weights, targets
from emosafe_lib.models import checkpoints, precision
from emosafe_lib.models.precision import mixes_precision
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.parameters import FinetuningParams, ModelParams, StudyParams
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import TASKS

RECIPE = {"epochs", "min_steps", "max_length", "early_stopping_patience", "class_weights", "tasks"}
HERE, MODELS = Path(__file__).parent, Path(checkpoints.__file__).parent
# What decides the numbers of a run beside its rows and parameters; thresholds and metrics are computed from them anew.
CODE = (
    *(HERE / f"{name}.py" for name in ("plan", "network", "objective", "probes", "probe_head", "trainer", "finetune")),
    *(
        MODELS / f"{name}.py"
        for name in ("batching", "backbone", "gguf_files", "precision", "quantization", "classifier", "pooling")
    ),
)


@dataclass(frozen=True)
class Plan:
    """All that determines one training run: who learns what from which rows, with which seed, in which precision.

    `task` is one of `TASKS`, or `objective.BOTH`.
    """

    model: ModelParams
    settings: FinetuningParams
    task: str
    seed: int
    variant: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def where(self) -> str:
        """What errors call this run."""
        return f"{self.model.name}/{self.task}"


def make_plan(
    model: ModelParams,
    study: StudyParams,
    rows: pd.DataFrame,
    task: str,
    seed: int,
    *,
    budget: int | None = None,
    augmentation: bool = True,
) -> Plan:
    """Choose the rows of one run; budgets are nested, and leaving augmentation out only takes its rows away.

    Raises
    ------
    TrainingError : a budget above the training rows, or texts longer than the model can read
    """
    settings, where = study.finetuning, f"{model.name}/{task}"
    if settings.max_length > model.context_tokens:
        what = f"finetuning.max_length {settings.max_length} is above its {model.context_tokens} context_tokens"
        raise TrainingError(where, what, f"use {model.context_tokens} at most")
    train = take(rows, "train", budget or settings.train_rows)
    most = min(len(train), settings.train_rows or len(train))
    if budget and most < budget:
        what = f"a budget of {budget} is above the {most} training rows"
        raise TrainingError(where, what, "take it out of finetuning.budgets")
    if not augmentation:
        train = train[train["origin"] != "reinterpretation"].reset_index(drop=True)
    train = repeated(train, settings.repeats)
    variant = f"budget-{budget}" if budget else "" if augmentation else "no-augmentation"
    validation = take(rows, "validation", settings.validation_rows, originals_only=True)
    test = take(rows, "test", settings.evaluation_rows, originals_only=True)
    return Plan(model, settings, task, seed, variant, train, validation, test)


def repeated(rows: pd.DataFrame, repeats: dict[str, int]) -> pd.DataFrame:
    """Rows, those of some sources several times over: rows that are few and teach what nothing else does. A
    re-interpretation, which has its parent's source, stays one row.
    """
    times = rows["source"].map(repeats).where(rows["origin"] != "reinterpretation").fillna(1).astype(int)
    return rows.loc[rows.index.repeat(times)].reset_index(drop=True)


def as_learned(plan: Plan) -> Plan:
    """The plan of the network that answers this one: of both tasks where the study has them learned together and the rows
    teach them, else of the task alone.
    """
    taught = all(targets(rows, task)[1].any() for rows in (plan.train, plan.validation) for task in TASKS)
    return replace(plan, task=BOTH) if plan.settings.tasks == "both" and taught else plan


def refuse_unlearnable(plan: Plan) -> None:
    """Stop before training on nothing.

    Raises
    ------
    TrainingError : a split has no row, or training or validation rows have no known label, or one level only
    """
    for name, rows in (("training", plan.train), ("validation", plan.validation), ("test", plan.test)):
        if not len(rows):
            raise TrainingError(plan.where, f"there is no {name} row", "raise the study's caps or budgets")
        if name != "test" and not targets(rows, plan.task)[1].any():
            remedy = f"give {name} rows known labels"
            raise TrainingError(plan.where, "0 % of the labels of its rows are known", remedy)
    if plan.train["safety"].nunique() < 2 and plan.task != "categories":
        raise TrainingError(plan.where, "all training rows have one level", "raise train_rows or the budget")


def runs_of(settings: FinetuningParams, tasks: tuple[str, ...] = TASKS) -> list[dict]:
    """The runs that a study asks for, as arguments of `finetune`: every seed on all rows; with the first seed alone, the
    ablation without re-interpretations and the learning curve's budgets. `tasks` come from `rows.tasks_asked`.
    """
    runs, first = [{"task": task, "seed": seed} for task in tasks for seed in settings.seeds], settings.seeds[0]
    if settings.ablation:
        runs += [
            {"task": task, "seed": first, "augmentation": False} for task in settings.ablation_tasks if task in tasks
        ]
    return runs + [{"task": task, "seed": first, "budget": rows} for task in tasks for rows in settings.budgets]


def trainings_of(settings: FinetuningParams) -> list[dict]:
    """Of the runs that a study asks for, those that a network is trained for: one of both tasks answers two."""
    runs = runs_of(settings)
    alone = [{name: value for name, value in run.items() if name != "task"} for run in runs]
    return [run for at, run in enumerate(runs) if settings.tasks == "one" or alone.index(alone[at]) == at]


def weights_of(plan: Plan) -> np.ndarray:
    """The label weights of a plan's training rows, one a column of its head."""
    return label_weights(*targets(plan.train, plan.task), plan.task, plan.settings.class_weights)


def identity_of(plan: Plan) -> dict:
    """Digests of what went in; two runs with the same identity are the same run.

    Work on the same plan goes on where it stopped, finished work is returned as it is, and nothing made from other data,
    parameters or code is ever mixed in.
    """
    rows = pd.concat([plan.train, plan.validation, plan.test])
    labels = [str(row) for row in np.hstack(targets(rows, plan.task))]
    recipe = plan.settings.model_dump_json(include=RECIPE) + plan.model.training.model_dump_json()
    ran_in = f"{precision.precision(plan.model)} {mixes_precision(plan.model)}"
    return {
        "data": checkpoints.text_digest(*rows["id"], *rows["text"], *labels),
        "parameters": checkpoints.text_digest(recipe, ran_in),
        "base": checkpoints.base_digest(plan.model),
        "code": checkpoints.code_digest(*CODE),
        "task": plan.task,
        "seed": plan.seed,
        "variant": plan.variant,
    }
