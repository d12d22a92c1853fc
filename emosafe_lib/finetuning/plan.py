"""What one training run is made of, decided before anything is loaded.

A plan names the model, the rows, the seed and the settings; its digest names the folder of the run, so that two runs
with the same plan are the same run.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib.finetuning.objective import label_weights, targets
from emosafe_lib.models.batching import Encoded
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.parameters import FinetuningParams, ModelParams, StudyParams
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import TASKS


@dataclass(frozen=True)
class Plan:
    """All that determines one training run: who learns what from which rows, with which seed, in which precision."""

    model: ModelParams
    settings: FinetuningParams
    task: str
    seed: int
    variant: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


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
    if budget and len(train) < budget:
        what = f"a budget of {budget} is above the {len(train)} training rows"
        raise TrainingError(where, what, "take it out of finetuning.budgets")
    if not augmentation:
        train = train[train["origin"] != "reinterpretation"].reset_index(drop=True)
    variant = f"budget-{budget}" if budget else "" if augmentation else "no-augmentation"
    validation = take(rows, "validation", settings.validation_rows, human_only=True)
    test = take(rows, "test", settings.evaluation_rows, human_only=True)
    return Plan(model, settings, task, seed, variant, train, validation, test)


def refuse_unlearnable(plan: Plan, encoded: Encoded, special: int) -> None:
    """Stop before training on nothing.

    Raises
    ------
    TrainingError : no training row has a known label, or none has a token left after truncation; the share is named
    """
    where = f"{plan.model.name}/{plan.task}"
    for name, rows in (("training", plan.train), ("validation", plan.validation), ("test", plan.test)):
        if not len(rows):
            raise TrainingError(where, f"there is no {name} row", "raise the study's caps or budgets")
        share = float(targets(rows, plan.task)[1].mean())
        if share == 0 and name != "test":
            raise TrainingError(where, "0 % of the labels of its rows are known", f"give {name} rows known labels")
    if plan.train["safety"].nunique() < 2 and plan.task == "safety":
        raise TrainingError(where, "all training rows have one level", "raise train_rows or the budget")
    if not (encoded.lengths > special).any():
        raise TrainingError(where, "truncation leaves 0 % of the rows a token", "raise finetuning.max_length")


def runs_of(settings: FinetuningParams) -> list[dict]:
    """The runs that a study asks for, as arguments of `finetune`: every seed on all rows; with the first seed alone, the
    ablation without re-interpretations and the learning curve's budgets.
    """
    runs, first = [{"task": task, "seed": seed} for task in TASKS for seed in settings.seeds], settings.seeds[0]
    if settings.ablation:
        runs += [{"task": task, "seed": first, "augmentation": False} for task in settings.ablation_tasks]
    return runs + [{"task": task, "seed": first, "budget": rows} for task in TASKS for rows in settings.budgets]


def weights_of(plan: Plan) -> np.ndarray:
    """The label weights of a plan's training rows, shape (3,) or (6,)."""
    return label_weights(*targets(plan.train, plan.task), plan.task, plan.settings.class_weights)
