"""What a model's card says, gathered where the model was trained: its rows, their licences, and its scores on test rows.

Every number is worked out from the run's own answers to the test rows, by the same functions and the same resamples as the
tables of notebook 05; `model_card` tells it where nothing of this is installed.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.data.sources.registry import known_sources
from emosafe_lib.evaluation import harmless, metrics, operating, results, use
from emosafe_lib.evaluation.results import Cell, Evidence
from emosafe_lib.finetuning.finished_runs import Finetuned
from emosafe_lib.finetuning.plan import Plan, make_plan
from emosafe_lib.finetuning.scores import calibrated_predictions
from emosafe_lib.models.seals import read_seal
from emosafe_lib.ondevice.exports import WEIGHTS
from emosafe_lib.ondevice.model_card import AT, CARD, FORMAT, SOURCE, WISHES, name_of
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.files import write_json
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.taxonomy import CATEGORIES, CATEGORY_TITLES, TASKS

SCORES = {
    "safety": {
        ("macro_f1", ""): "levels, macro-F1",
        ("within_source_macro_f1", ""): "levels, macro-F1 within sources",
        ("auroc", "loose"): "unsafe against the others, AUROC",
        ("recall", "loose"): "unsafe messages labelled unsafe",
        ("false_alarms", "loose"): "other messages labelled unsafe",
    },
    "categories": {
        ("macro_f1", ""): "categories, macro-F1",
        ("macro_auprc", ""): "categories, average precision",
        **{("f1", name): f"{CATEGORY_TITLES[name]}, F1" for name in CATEGORIES},
    },
}
FAILURES = {
    ("unsafe_called_safe", ""): "unsafe messages labelled safe",
    ("calibration_error", ""): "distance of its probabilities from the truth",
}


def write_card(
    folder: Path, model: ModelParams, study: StudyParams, runs: dict[str, Finetuned], rows: pd.DataFrame
) -> Path:
    """Write the card of an export into its folder.

    Parameters
    ----------
    folder : as `export.export` has written it
    runs : by task, the runs that were exported; rows : what they were trained on

    Raises
    ------
    ModelError : the folder holds no export
    """
    runs = {task: runs[task] for task in TASKS if task in runs}
    seals = {task: read_seal(Path(folder) / task, unread=WEIGHTS) for task in runs}
    plan = make_plan(model, study, rows, "safety", runs["safety"].seed)
    card = {
        "format": FORMAT,
        "weights": {task: facts["files"]["model.safetensors"] for task, facts in seals.items()},
        "facts": facts_of(plan, study, runs),
        "sources": sources_of(plan, study),
        "numbers": numbers_of(plan, study, runs, rows, seals["safety"]["alarms"]),
    }
    write_json(Path(folder) / CARD, card)
    return Path(folder) / CARD


def facts_of(plan: Plan, study: StudyParams, runs: dict[str, Finetuned]) -> list[tuple[str, str]]:
    """What the model is and what it learned from, in words; of weights at an absolute path, no more than their name."""
    train = plan.train.drop_duplicates("id")  # a row that a pass meets several times over is one row
    origins = ", ".join(f"{count:,} {name}" for name, count in train["origin"].value_counts().items())
    recipe = plan.model.training
    how = f"LoRA of rank {recipe.lora.rank}" if recipe.method == "lora" else "all weights"
    path = Path(plan.model.path)
    facts = {
        "model": f"{plan.model.title or plan.model.name} ({plan.model.family})",
        "pre-trained weights": f"{plan.model.weights}, {path.name if path.is_absolute() else path}",
        "tasks": " and ".join({"safety": "three levels", "categories": "six risk categories"}[task] for task in runs),
        "study": f"{study.name} ({study.title or 'untitled'})",
        "training": f"{how}, seed {plan.seed}, a message cut at {plan.settings.max_length} tokens",
        "training rows": f"{len(train):,} ({origins})",
        "validation rows": f"{len(plan.validation):,}",
        "test rows": f"{len(plan.test):,}",
    }
    return list(facts.items())


def sources_of(plan: Plan, study: StudyParams) -> list[dict]:
    """The sources of the training rows, most rows first, each with its licence; a row counts once."""
    known = known_sources(study.data)
    found = []
    for name, part in plan.train.drop_duplicates("id").groupby("source"):
        source = known.get(name)
        about = {key: getattr(source, key) if source else "" for key in SOURCE} | {"name": name}
        found.append(about | {"origin": " and ".join(sorted(set(part["origin"]))), "rows": len(part)})
    return sorted(found, key=lambda each: -each["rows"])


def numbers_of(
    plan: Plan, study: StudyParams, runs: dict[str, Finetuned], rows: pd.DataFrame, curve: dict
) -> list[dict]:
    """All that was measured on test rows; none where there are none."""
    if not len(plan.test):
        return []
    tables = [calibrated_predictions(run, rows, "fine-tuned") for run in runs.values()]
    answers = pd.concat(tables, ignore_index=True).assign(model=plan.model.name)
    evidence = results.gather(study, {plan.model.name: plan.model}, {plan.model.name: None}, rows, answers)
    cells = {task: Cell(plan.model.name, task, "fine-tuned", seed=run.seed) for task, run in runs.items()}
    found = [entry for task, cell in cells.items() for entry in part_of("scores", evidence, cell, SCORES[task])]
    found += failures_of(evidence, cells["safety"], runs["safety"])
    return found + at_points(evidence, cells["safety"], curve) + harmless_of(evidence, cells["safety"])


def measured(part: str, name: str, value: float, low: float, high: float, rows: int) -> dict:
    """A number of a card; what is undefined is null."""
    limits = {"value": value, "low": low, "high": high}
    told = {key: None if pd.isna(number) else round(float(number), 6) for key, number in limits.items()}
    return {"part": part, "name": name, **told, "rows": int(rows)}


def with_limits(evidence: Evidence, score: results.Score, key: tuple[str, str]) -> tuple[float, float, float]:
    """A score and its interval."""
    return score.values[key], *results.limits_of(score, key, evidence.study.analysis.confidence)


def rows_of(truth: metrics.Truth, key: tuple[str, str]) -> int:
    """How many rows a score is a share of."""
    if key[0] in ("recall", "unsafe_called_safe", "false_alarms"):
        return int(((truth.safety == 2) == (key[0] != "false_alarms")).sum())
    return results.rows_behind(truth, *key)


def part_of(part: str, evidence: Evidence, cell: Cell, named: dict[tuple[str, str], str]) -> list[dict]:
    """Scores of one task on its test rows, those that have a name."""
    score, truth = evidence.score(cell), evidence.truth.at(evidence.answered(cell))
    return [measured(part, named[key], *with_limits(evidence, score, key), rows_of(truth, key)) for key in named]


def failures_of(evidence: Evidence, cell: Cell, run: Finetuned) -> list[dict]:
    """Where the levels fail: dangers called safe, the source that it knows least, and what it could not read whole."""
    score, named = evidence.score(cell), dict(FAILURES)
    by_source = {key: value for key, value in score.values.items() if key[0] == "source_macro_f1"}
    if by_source:
        worst = min(by_source, key=by_source.get)
        named[worst] = f"weakest source, {worst[1]}: macro-F1"
    cut = np.mean([outcome == "truncated" for outcome in run.test_outcomes])
    told = measured("failures", "messages whose end was cut off", cut, np.nan, np.nan, score.n)
    return [*part_of("failures", evidence, cell, named), told]


def at_points(evidence: Evidence, cell: Cell, curve: dict) -> list[dict]:
    """What each usual wish gives on test rows, where the validation rows allow it."""
    wished = {}
    for aim, wanted in WISHES:
        try:
            wished[name_of(aim, wanted)] = operating.pick(curve, aim, wanted, "").threshold
        except ModelError:
            continue
    build = partial(use.alarm_measure, thresholds=tuple(wished.values()))
    score = evidence.score(cell, build=build)
    return [
        measured(AT, f"{wish}, {rate}", *with_limits(evidence, score, (rate, str(place))), score.n)
        for place, wish in enumerate(wished)
        for rate in operating.AIMS
    ]


def harmless_of(evidence: Evidence, cell: Cell) -> list[dict]:
    """False alarms on the harmless requests among the test rows, where the study holds any."""
    table = harmless.false_alarms(evidence, [cell])
    whole = table[table["kind"] == harmless.ALL]
    return [
        measured("harmless", harmless.READINGS[row.reading], row.value, row.low, row.high, row.n)
        for row in whole.itertuples()
    ]
