"""From rows to label probabilities, by prompting, for every kind of model: a causal language model, an encoder, a chat
server.

All three answer the same question, "how likely is each verbalizer", as an array (rows, questions, answers) of
log-probabilities; safety is one question with three answers, the categories are six questions with two. What follows
is common: shards that survive a killed run, calibration on validation rows, predictions without text.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.data import pseudonyms
from emosafe_lib.models import backbone, checkpoints, precision
from emosafe_lib.prompting import wordings
from emosafe_lib.study.errors import PromptError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.parameters import ModelParams, PromptingParams
from emosafe_lib.study.progress import bar
from emosafe_lib.study.rows import tasks_asked
from emosafe_lib.study.taxonomy import FIVE_SHOTS, TASKS

SHARD_ROWS, SERVED_ROWS = 256, 32
NO_MATTER = {"resources", "training", "title", "tokens_per_batch", "proxy"}  # of a model's parameters, to its scores
SETTINGS = ("zero-shot", "few-shot")


@dataclass(frozen=True)
class Asked:
    """One way of asking: the question in the form that a backend needs, and how it came about."""

    question: object
    task: str
    setting: str
    variant: str
    seed: int = 0
    shots: int = 0


@dataclass(frozen=True)
class Scores:
    """Answers of a model to n rows.

    Attributes
    ----------
    log_probabilities : array (n, questions, answers)
    outcomes : n outcomes; those outside `USABLE_OUTCOMES` carry equal probabilities
    facts : rows, seconds of scoring, notes
    """

    asked: Asked
    ids: list[str]
    log_probabilities: np.ndarray
    outcomes: list[str]
    facts: dict = field(default_factory=dict)


def ways_of_asking(settings: PromptingParams, tasks: tuple[str, ...] = TASKS) -> list[dict]:
    """Every (task, setting, variant, seed) that a study asks for; `tasks` from `rows.tasks_asked`."""
    zero = [{"setting": "zero-shot", "variant": variant, "seed": 0} for variant in settings.variants]
    few = [
        {"setting": setting, "variant": variant, "seed": seed}
        for setting in ("few-shot", FIVE_SHOTS)[: 1 + settings.five_shots]
        for variant in settings.few_shot_variants
        for seed in settings.exemplar_seeds
    ]
    return [{"task": task, **way} for task in tasks for way in zero + few]


def pose(backend, settings: PromptingParams, rows: pd.DataFrame, task, setting, variant, seed=0) -> Asked:
    """One way of asking; exemplars come from the train split of `rows`.

    Raises
    ------
    PromptError : an unknown setting or wording, or exemplars that cannot be had or do not fit
    """
    if setting not in (*SETTINGS, FIVE_SHOTS):
        raise PromptError(f"setting {setting}", "is not a way of prompting", f"use one of {', '.join(SETTINGS)}")
    if setting == "zero-shot":
        question, shots = backend.ask(task, variant, settings)
    else:
        train = rows[rows["split"] == "train"]
        wanted = shots_of(settings, setting)
        question, shots = backend.show(
            task, variant, settings.model_copy(update={"shots_per_class": wanted}), train, seed
        )
        if setting == FIVE_SHOTS and shots < wanted:
            raise PromptError(f"{setting}, {task}", *too_few_shots(backend.model, train, task, shots, wanted))
    return Asked(question, task, setting, variant, seed, shots)


def too_few_shots(model: ModelParams, train: pd.DataFrame, task: str, shots: int, wanted: int) -> tuple[str, str]:
    """What keeps a prompt from showing as many exemplars of each class as wanted, and what to do about it."""
    if (there := wordings.most_shots(train, task)) < wanted:
        return f"training rows give {there} exemplars of the rarest class, not {wanted}", "add rows of that class"
    room = f"{model.context_tokens} tokens (`context_tokens`) hold {shots} exemplars a class, not {wanted}"
    return room, "raise context_tokens as far as the model was made for, or use one with a longer context"


def shots_of(settings: PromptingParams, setting: str) -> int:
    """How many exemplars of each class a setting shows at most."""
    return {"zero-shot": 0, FIVE_SHOTS: 5}.get(setting, settings.shots_per_class)


def pose_all(backend, settings: PromptingParams, rows: pd.DataFrame) -> tuple[list[Asked], pd.DataFrame]:
    """Every way of asking that a study asks for, and those of five exemplars a class that this model's context refuses.

    Returns
    -------
    the ways, and a table with the columns task, setting, variant, seed and reason

    Raises
    ------
    PromptError : a way of any other setting cannot be posed
    """
    posed, refused = [], []
    for way in ways_of_asking(settings, tasks_asked(rows)):
        try:
            posed.append(pose(backend, settings, rows, **way))
        except PromptError as error:
            if way["setting"] != FIVE_SHOTS:
                raise
            refused.append(way | {"reason": error.what})
    return posed, pd.DataFrame(refused, columns=["task", "setting", "variant", "seed", "reason"])


def score_rows(backend, asked: Asked, rows: pd.DataFrame, folder: Path | None = None) -> Scores:
    """Ask a model about rows, shard by shard, shortest messages first.

    Parameters
    ----------
    folder : where finished shards are kept; a killed run goes on from them. They lie in a folder named by a digest of
        model, question and rows, so that whatever changes starts anew and leaves the old ones alone.

    Raises
    ------
    PromptError : an exemplar, or a row of its group, is among the rows
    """
    wordings.refuse_leak(asked.question, rows)
    order = rows["text"].str.len().to_numpy().argsort(kind="stable")
    size = shard_rows(backend.model)
    shards = [order[start : start + size] for start in range(0, len(rows), size)]
    home = folder / digest_of(backend, asked, rows) if folder else None
    label = f"{asked.task} {asked.setting} {asked.variant}"
    found = [one_shard(backend, asked, rows.iloc[s], home, n) for n, s in enumerate(bar(shards, label))]
    back = np.concatenate(shards).argsort() if shards else []
    outcomes = [outcome for shard in found for outcome in shard["outcomes"]]
    return Scores(
        asked,
        rows["id"].to_list(),
        np.concatenate([shard["scores"] for shard in found])[back],
        [outcomes[place] for place in back],
        {"rows": len(rows), "seconds": float(sum(s["seconds"] for s in found)), "notes": list(backend.notes)},
    )


def shard_rows(model: ModelParams) -> int:
    """Rows that are scored and kept together; few of a server's, whose answers are paid for and would be lost with them."""
    return SERVED_ROWS if model.backend == "openai" else SHARD_ROWS


def one_shard(backend, asked: Asked, rows: pd.DataFrame, home: Path | None, number: int) -> dict:
    """Read a finished shard, or score it and keep it by rename.

    A shard with a row that a server failed to answer is not kept: whoever runs the stage again asks for it again. A kept
    one is of the kind that the others have, or a server's backend refuses it.
    """
    path = home / f"shard-{number:05d}.npz" if home else None
    if path and (kept := read_shard(path, len(rows))):
        if kept["kind"]:
            backend.settle(str(kept["kind"]))
        return kept
    start = time.perf_counter()
    scores, outcomes = backend.score(asked.question, rows["text"].to_list())
    shard = {"scores": scores, "outcomes": np.array(outcomes), "seconds": time.perf_counter() - start}
    shard["kind"] = backend.kind
    if path and "api_error" not in outcomes:
        with replacing(path) as partial, open(partial, "wb") as stream:
            np.savez(stream, **shard)
    return shard


def read_shard(path: Path, rows: int) -> dict | None:
    """A kept shard, or None where there is none or it is damaged."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as kept:
            shard = {name: kept[name] for name in ("scores", "outcomes", "seconds", "kind")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return shard if len(shard["scores"]) == len(shard["outcomes"]) == rows else None


def digest_of(backend, asked: Asked, rows: pd.DataFrame) -> str:
    """A name for (model, question, rows, code) that changes when any of them does, the machine's own precision included.

    Comments and docstrings are no code: whoever words them better keeps the shards of a model that took days.
    """
    model = backend.model.model_dump(mode="json", exclude=NO_MATTER)
    facts = {"code": checkpoints.code_digest(*scoring_code(backend.model))}
    facts["hardware"] = precision.precision(backend.model)
    if backend.model.backend == "transformers":  # a server is known by its address, which is among the parameters
        facts["weights"] = checkpoints.base_digest(backend.model)
    texts = hashlib.sha256("\x00".join([*rows["id"], *rows["text"]]).encode()).hexdigest()
    parts = json.dumps([model, facts, asdict(asked.question), texts, shard_rows(backend.model)], sort_keys=True)
    return f"{asked.task}-{asked.setting}-{asked.variant}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def scoring_code(model: ModelParams) -> list[Path]:
    """The files whose code decides a model's scores."""
    here, models, data = Path(__file__).parent, Path(backbone.__file__).parent, Path(pseudonyms.__file__).parent
    common = [here / f"{name}.py" for name in ("scoring", "backends", "wordings")]
    if model.backend == "openai":
        return [*common, here / "served.py", here / "label_reading.py", data / "pseudonyms.py"]
    local = [models / f"{name}.py" for name in ("backbone", "gguf_files", "precision", "quantization", "batching")]
    return [*common, *local, models / "pooling.py" if model.family == "encoder" else here / "shared_prefix.py"]
