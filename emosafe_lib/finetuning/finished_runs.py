"""Finished training runs on disk: where they lie, what is kept of them, and how they are read again.

A network of both tasks is kept as two, each with its own rows of the head, so that whoever reads a run reads one task.
"""

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from emosafe_lib.finetuning.objective import columns_of, probabilities_of
from emosafe_lib.finetuning.plan import Plan, as_learned, weights_of
from emosafe_lib.models import checkpoints
from emosafe_lib.models.backbone import quiet
from emosafe_lib.models.classifier import head_alone
from emosafe_lib.study import files
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.taxonomy import TASK_LABELS


@dataclass(frozen=True)
class Finetuned:
    """What one training run leaves behind; probabilities are uncalibrated, thresholds are the caller's to fit.

    Attributes
    ----------
    validation_ids, test_ids : row identifiers, in the order of the probabilities
    validation_probabilities, test_probabilities : shape (n, 3) or (n, 6)
    test_outcomes : "ok" or "truncated" per test row
    history : one mapping per epoch: epoch, train_loss, validation_loss
    facts : rows, positives per label, tokens, padding, seconds (its share, of a network of both tasks), hardware,
        parameters trained
    folder : where the adapter (or the encoder's weights) is kept
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


def home_of(plan: Plan, folder: Path, identity: dict) -> Path:
    """The folder of a plan below `folder`, named so that a person finds it and no other plan shares it."""
    digest = checkpoints.text_digest(json.dumps(identity, sort_keys=True))[:8]
    home = Path(folder) / "-".join(filter(None, [plan.task, f"seed{plan.seed}", plan.variant, digest]))
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextmanager
def alone_in(home: Path, plan: Plan):
    """Keep other runs out of a plan's folder while the block trains there: they would remove each other's checkpoints. Of
    processes that train together the first one holds it, and the system frees it however that one ends.

    Raises
    ------
    TrainingError : another run trains there
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        held = FileLock(home / ".lock", timeout=0).acquire()
    except Timeout:
        raise TrainingError(plan.where, "another run is training it", "wait for that one to end, or stop it") from None
    with held:
        yield


@quiet()
def save_final(plan: Plan, network, tokenizer, home: Path, state: dict | None = None) -> None:
    """Keep the trained weights of each task: always an adapter, a whole encoder only for the main variant, since it is
    large.
    """
    if plan.model.training.method == "lora" or not plan.variant:
        for task, columns in columns_of(plan.task).items():
            facts = {"base": checkpoints.base_digest(plan.model), "task": task, "labels": TASK_LABELS[task]}
            with head_alone(network, TASK_LABELS[task], columns, state) as weights:
                checkpoints.save_classifier(network, tokenizer, folder_of(plan, home, task) / "model", weights, **facts)


def folder_of(plan: Plan, home: Path, task: str) -> Path:
    """Where the weights of one task lie, in the home of a plan that learned it alone or among others."""
    return home if plan.task == task else home / task


def write_finished(home: Path, identity: dict, scores: dict[str, np.ndarray], history: list[dict], facts: dict) -> None:
    """Write the result; `done.json` comes last."""
    with files.replacing(home / "scores.npz", TrainingError) as partial, open(partial, "wb") as stream:
        np.savez(stream, **scores)
    digest = files.file_sha256(home / "scores.npz")
    done = {"identity": identity, "history": history, "facts": facts, "scores": digest}
    files.write_json(home / "done.json", done)


def facts_of_task(facts: dict, learned: str, task: str) -> dict:
    """A run's facts as one of its tasks has them: its own labels, and its share of the seconds."""
    parts = columns_of(learned)
    seconds = {name: round(facts[name] / len(parts), 2) for name in ("seconds", "processor_seconds")}
    positives = {label: facts["positives"][label] for label in TASK_LABELS[task]}
    return facts | seconds | {"positives": positives, "label_weights": facts["label_weights"][parts[task]]}


def read_finished(plan: Plan, home: Path, identity: dict) -> Finetuned:
    """The result of a finished run for the plan of one task.

    Raises
    ------
    TrainingError : it belongs to another plan, or its scores were changed
    """
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    checkpoints.refuse_other(done["identity"], identity, home)
    if files.file_sha256(home / "scores.npz") != done["scores"]:
        raise TrainingError(home / "scores.npz", "was changed after training", "delete this folder and rerun")
    scores, weights = np.load(home / "scores.npz", allow_pickle=False), weights_of(plan)
    learned = as_learned(plan)
    columns = columns_of(learned.task)[plan.task]
    return Finetuned(
        task=plan.task,
        seed=plan.seed,
        variant=plan.variant,
        validation_ids=plan.validation["id"].tolist(),
        validation_probabilities=probabilities_of(scores["validation"][:, columns], weights, plan.task),
        test_ids=plan.test["id"].tolist(),
        test_probabilities=probabilities_of(scores["test"][:, columns], weights, plan.task),
        test_outcomes=["truncated" if cut else "ok" for cut in scores["truncated"]],
        history=done["history"],
        facts=facts_of_task(done["facts"], learned.task, plan.task),
        folder=folder_of(learned, home, plan.task),
    )
