"""Classification training: LoRA for LLaMA models (arXiv 2106.09685), all weights for the encoder, one recipe for both.

Every size gets the same rows, the same rule for epochs and early stopping, class weights, and a loss that leaves out
the categories that a row's source never asked about. `finetune` is the whole story; module `training` takes its steps.
What is trained is decided by one `Plan`, and its digest names the folder: work on the same plan goes on where it
stopped, finished work is returned as it is, and nothing made from other data, parameters or code is ever mixed in.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import (
    Trainer,
    set_seed,
)

from emosafe_lib import batching, checkpoints, metrics, models, predictions, training
from emosafe_lib.batching import Encoded, budget_batches, encode, padding_share
from emosafe_lib.errors import ModelError, TrainingError
from emosafe_lib.models import (
    hardware,
    load_classifier,
    mixes_precision,
    quiet,
    use_threads,
)
from emosafe_lib.params import FinetuningParams, ModelParams, StudyParams
from emosafe_lib.rows import take
from emosafe_lib.taxonomy import TASK_LABELS, TASKS
from emosafe_lib.training import (
    history_of,
    logits_of,
    make_trainer,
    readable_failures,
    readable_loading,
    refuse_broken,
    sealed_identity,
    targets,
    train_on,
    weights_of,
)

# What decides the numbers of a run beside its rows and parameters; thresholds and metrics are computed from them anew.
CODE = (sys.modules[__name__], training, batching, models)


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

    @property
    def identity(self) -> dict:
        """Digests of what went in; two runs with the same identity are the same run."""
        rows = pd.concat([self.train, self.validation, self.test])
        labels = [str(row) for row in np.hstack([targets(rows, self.task)[0], targets(rows, self.task)[1]])]
        recipe = self.settings.model_dump_json(include=RECIPE) + self.model.training.model_dump_json()
        ran_in = f"{models.precision(self.model)} {mixes_precision(self.model)}"
        return {
            "data": checkpoints.text_digest(*rows["id"], *rows["text"], *labels),
            "parameters": checkpoints.text_digest(recipe, ran_in),
            "base": checkpoints.base_digest(self.model),
            "code": checkpoints.code_digest(*CODE),
            "task": self.task,
            "seed": self.seed,
            "variant": self.variant,
        }


RECIPE = {"epochs", "min_steps", "max_length", "early_stopping_patience", "class_weights"}


@dataclass(frozen=True)
class Finetuned:
    """What one training run leaves behind; probabilities are uncalibrated, thresholds are the caller's to fit.

    Attributes
    ----------
    validation_ids, test_ids : row identifiers, in the order of the probabilities
    validation_probabilities, test_probabilities : shape (n, 3) or (n, 6)
    test_outcomes : "ok" or "truncated" per test row
    history : one mapping per epoch: epoch, train_loss, validation_loss
    facts : rows, positives per label, tokens, padding, seconds, hardware, parameters trained
    folder : where the adapter (or the encoder's weights) and this result are kept
    """

    task: str
    seed: int
    variant: str
    validation_ids: list[str]
    validation_probabilities: np.ndarray
    test_ids: list[str]
    test_probabilities: np.ndarray
    test_outcomes: list[str]
    history: list[dict]
    facts: dict
    folder: Path = field(repr=False)


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


def add_lora(network, model: ModelParams):
    """Freeze the backbone and put low-rank adapters beside its linear layers; the head trains in full.

    Raises
    ------
    ModelError : a target module matches no layer
    """
    from peft import LoraConfig, TaskType, get_peft_model

    lora = model.training.lora
    wanted = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    names = [name for name, _ in network.named_modules()]
    lost = [part for part in wanted if part != "all-linear" and not any(n.split(".")[-1] == part for n in names)]
    if lost:
        raise ModelError(model.name, f"lora.target_modules {lost[0]!r} matches no layer", "use all-linear, or q_proj")
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=wanted[0] if wanted == ["all-linear"] else wanted,
    )
    return get_peft_model(network, config)


@quiet()
def build(plan: Plan):
    """The network to train and its tokenizer; head and adapters are drawn from the plan's seed, what trains is float32."""
    set_seed(plan.seed)
    use_threads(plan.model)
    network, tokenizer = load_classifier(plan.model, TASK_LABELS[plan.task])
    if plan.model.training.method == "lora":
        network = add_lora(network, plan.model)
    for parameter in trainable(network):
        parameter.data = parameter.data.float()
    return network, tokenizer


def trainable(network) -> list:
    """The parameters that training moves."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def probabilities_of(logits: np.ndarray, plan: Plan) -> np.ndarray:
    """Softmax over the levels, or a sigmoid for each category.

    Weighting positives by w teaches logits that are too high by log w, so this is taken off a category again. The
    levels keep their weights, because their label is the largest probability and has no threshold to make up for it.
    """
    task = plan.task
    logits = torch.from_numpy(logits if task == "safety" else logits - np.log(weights_of(plan)))
    return (logits.softmax(-1) if task == "safety" else logits.sigmoid()).numpy()


def encode_splits(plan: Plan, tokenizer) -> dict[str, Encoded]:
    """Token ids of the three splits, after checking that there is something to learn."""
    parts = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    encoded = {name: encode(tokenizer, rows["text"], plan.settings.max_length) for name, rows in parts.items()}
    refuse_unlearnable(plan, encoded["train"], tokenizer.num_special_tokens_to_add())
    return encoded


def since(started: float, clock) -> float:
    """Seconds on a clock since a reading of it."""
    return round(clock() - started, 2)


def facts_of(plan: Plan, network, encoded: dict[str, Encoded], notes: list[str]) -> dict:
    """What a reader needs to judge a run, as JSON values."""
    labels, known = targets(plan.train, plan.task)
    lengths = encoded["train"].lengths
    batches = budget_batches(lengths, plan.model.training.tokens_per_batch)
    return {
        "train_rows": len(plan.train),
        "positives": dict(zip(TASK_LABELS[plan.task], (labels * known).sum(axis=0).astype(int).tolist(), strict=True)),
        "known_share": round(float(known.mean()), 4),
        "tokens_per_epoch": int(lengths.sum()),
        "padding_share": round(padding_share(lengths, batches), 4),
        "label_weights": [round(float(weight), 4) for weight in weights_of(plan)],
        "trainable_parameters": sum(parameter.numel() for parameter in trainable(network)),
        "notes": notes,
        "mixed_precision": mixes_precision(plan.model),
        **hardware(plan.model),
    }


def finetune(
    model: ModelParams,
    study: StudyParams,
    rows: pd.DataFrame,
    task: str,
    seed: int,
    folder: Path,
    *,
    budget: int | None = None,
    augmentation: bool = True,
) -> Finetuned:
    """Train a classifier and score the validation and test rows; finished or interrupted work is taken up, not redone.

    Parameters
    ----------
    rows : merged rows with re-interpretations among them
    folder : where runs are kept; each plan gets its own folder below, named by its digest
    budget : train on that many rows only
    augmentation : False leaves the re-interpretations out of training

    Raises
    ------
    TrainingError : nothing to learn, a loss that is not finite, memory or disk exhausted, foreign checkpoints
    ModelError : the model is absent or damaged, or LoRA targets match nothing
    """
    plan = make_plan(model, study, rows, task, seed, budget=budget, augmentation=augmentation)
    home = home_of(plan, folder)
    if (home / "done.json").is_file():
        return read_finished(plan, home)
    started = time.monotonic(), time.process_time()
    with readable_loading(plan):
        network, tokenizer = build(plan)
    encoded = encode_splits(plan, tokenizer)
    with quiet(), readable_failures(plan, int(encoded["train"].lengths.max())):
        trainer = make_trainer(plan, network, tokenizer, encoded, home / "checkpoints")
        newest, notes = checkpoints.newest_usable(home / "checkpoints", sealed_identity(plan, trainer.args))
        train_on(trainer, newest)
    facts = facts_of(plan, network, encoded, notes) | {"processes": trainer.args.world_size}
    facts |= {"seconds": since(started[0], time.monotonic), "processor_seconds": since(started[1], time.process_time)}
    with readable_failures(plan, int(encoded["test"].lengths.max())):
        trained, state = trained_state(trainer, network)
        scores = scores_of(plan, trained, tokenizer, encoded)
        if not all(np.isfinite(scores[part]).all() for part in ("validation", "test")):
            refuse_broken(plan, "the trained model's answers are not finite")
        if trainer.is_world_process_zero():
            save_final(plan, network, tokenizer, home, state)
            write_finished(plan, home, scores, encoded, history_of(trainer), facts)
            shutil.rmtree(home / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return read_finished(plan, home)


def trained_state(trainer: Trainer, network) -> tuple:
    """The network to score with, and its gathered weights to save where FSDP spreads them over processes, else None.

    A restored network answers without the autocast that accelerate leaves around a trained one, so scores do too.
    """
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False), None
    return trainer.model_wrapped, trainer.accelerator.get_state_dict(trainer.model_wrapped)


def runs_of(settings: FinetuningParams) -> list[dict]:
    """The runs that a study asks for, as arguments of `finetune`: every seed on all rows; with the first seed alone, the
    ablation without re-interpretations and the learning curve's budgets.
    """
    runs, first = [{"task": task, "seed": seed} for task in TASKS for seed in settings.seeds], settings.seeds[0]
    if settings.ablation:
        runs += [{"task": task, "seed": first, "augmentation": False} for task in settings.ablation_tasks]
    return runs + [{"task": task, "seed": first, "budget": rows} for task in TASKS for rows in settings.budgets]


def home_of(plan: Plan, folder: Path) -> Path:
    """The folder of a plan below `folder`, named so that a person finds it and no other plan shares it."""
    digest = checkpoints.text_digest(json.dumps(plan.identity, sort_keys=True))[:8]
    home = Path(folder) / "-".join(filter(None, [plan.task, f"seed{plan.seed}", plan.variant, digest]))
    home.mkdir(parents=True, exist_ok=True)
    return home


@quiet()
def save_final(plan: Plan, network, tokenizer, home: Path, state: dict | None = None) -> None:
    """Keep the trained weights: always an adapter, a whole encoder only for the main variant, since it is large."""
    if plan.model.training.method == "lora" or not plan.variant:
        facts = {"base": checkpoints.base_digest(plan.model), "task": plan.task, "labels": TASK_LABELS[plan.task]}
        checkpoints.save_classifier(network, tokenizer, home / "model", state, **facts)


def scores_of(plan: Plan, network, tokenizer, encoded: dict[str, Encoded]) -> dict[str, np.ndarray]:
    """Logits of validation and test rows; under FSDP every process has to take part in it."""
    budget = 4 * plan.model.training.tokens_per_batch
    return {name: logits_of(network, tokenizer, encoded[name], budget) for name in ("validation", "test")}


def write_finished(plan: Plan, home: Path, scores: dict, encoded, history: list[dict], facts: dict) -> None:
    """Write the result; `done.json` comes last."""
    partial = home / ".scores.partial.npz"
    np.savez(partial, truncated=encoded["test"].truncated, **scores)
    os.replace(partial, home / "scores.npz")
    digest = checkpoints.file_sha256(home / "scores.npz")
    done = {"identity": plan.identity, "history": history, "facts": facts, "scores": digest}
    checkpoints.write_json(home / "done.json", done)


def read_finished(plan: Plan, home: Path) -> Finetuned:
    """The result of a finished run.

    Raises
    ------
    TrainingError : it belongs to another plan, or its scores were changed
    """
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    checkpoints.refuse_other(done["identity"], plan.identity, home)
    if checkpoints.file_sha256(home / "scores.npz") != done["scores"]:
        raise TrainingError(home / "scores.npz", "was changed after training", "delete this folder and rerun")
    scores = np.load(home / "scores.npz", allow_pickle=False)
    return Finetuned(
        task=plan.task,
        seed=plan.seed,
        variant=plan.variant,
        validation_ids=plan.validation["id"].tolist(),
        validation_probabilities=probabilities_of(scores["validation"], plan),
        test_ids=plan.test["id"].tolist(),
        test_probabilities=probabilities_of(scores["test"], plan),
        test_outcomes=["truncated" if cut else "ok" for cut in scores["truncated"]],
        history=done["history"],
        facts=done["facts"],
        folder=home,
    )


def reload_difference(model: ModelParams, study: StudyParams, rows: pd.DataFrame, result: Finetuned) -> pd.Series:
    """The largest difference in test probability between the trained model and the same model read back from disk.

    Merging is left out over quantized weights: it takes the full ones, for which there may be no room.
    """
    plan = make_plan(model, study, rows, result.task, result.seed)
    ways = {"unmerged": False, "merged": True} if model.training.method == "lora" else {"whole": False}
    if hardware(model)["quantization"] != "none":
        del ways["merged"]
    found = {}
    for way, merge in ways.items():
        labels = TASK_LABELS[result.task]
        network, tokenizer = checkpoints.restore_classifier(model, result.folder / "model", labels, merge=merge)
        encoded = encode(tokenizer, plan.test["text"], plan.settings.max_length)
        logits = logits_of(network, tokenizer, encoded, 4 * model.training.tokens_per_batch)
        found[way] = float(np.abs(probabilities_of(logits, plan) - result.test_probabilities).max())
    return pd.Series(found, name="largest difference")


def calibrate(result, rows: pd.DataFrame) -> dict:
    """Temperature (safety) or decision thresholds (categories), fitted on validation rows only.

    `result` is a `Finetuned` or a `probes.Probed`.
    """
    validation = rows.set_index("id").loc[result.validation_ids]
    labels, known = targets(validation, result.task)
    if result.task == "categories":
        return {"thresholds": metrics.fit_thresholds(result.validation_probabilities, labels, known).tolist()}
    logs = np.log(np.maximum(result.validation_probabilities, 1e-12))
    return {"temperature": metrics.fit_temperature(logs, labels.argmax(axis=1))}


def predictions_of(result, rows: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The test rows' predictions in the common schema, calibrated on validation; `setting` is fine-tuned or probe."""
    fitted, probabilities = calibrate(result, rows), result.test_probabilities
    if result.task == "safety":
        logs = np.log(np.maximum(probabilities, 1e-12))
        probabilities = metrics.apply_temperature(logs, fitted["temperature"])
    return predictions.make(
        result.test_ids,
        result.task,
        setting,
        probabilities,
        variant=getattr(result, "variant", ""),
        seed=getattr(result, "seed", 0),
        thresholds=fitted.get("thresholds"),
        outcomes=result.test_outcomes,
    )


def label_scores(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every label in a prediction table, one row a (task, setting, variant, seed, label); unknown cells left out.

    `support` counts the label's known positive test rows; F1 is NaN where there is none and none was claimed, as in
    `metrics.scores`.
    """
    found = []
    for (task, setting, variant, seed), part in table.groupby(["task", "setting", "variant", "seed"]):
        truth, known = targets(rows.set_index("id").loc[part["id"]], task)
        for number, label in enumerate(TASK_LABELS[task]):
            real, asked = truth[:, number] > 0, known[:, number] > 0
            guess = part["label"].map(lambda names, label=label: label in names).to_numpy()
            hits, total = (real & guess & asked).sum(), (real & asked).sum() + (guess & asked).sum()
            f1 = 2 * hits / total if total else float("nan")
            keys = {"task": task, "setting": setting, "variant": variant, "seed": seed, "label": label}
            found.append(keys | {"f1": f1, "support": int((real & asked).sum())})
    return pd.DataFrame(found)
