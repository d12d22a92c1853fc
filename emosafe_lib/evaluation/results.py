"""From prediction files to `results.csv`: which runs exist, which are missing, and what each is worth.

A headline number of a model and setting is the average over its prompt wordings and seeds, and it exists only if all of
them do: a missing run is listed as a gap, and nothing is averaged over the rest. A study may ask its slow settings fewer
rows than its quick ones; the numbers of one table then rest on the rows that all of them answered, since other rows hold
other sources. Comparisons are made on common rows as well, and on the same resamples of groups.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import metrics, predictions
from emosafe_lib.evaluation.baselines import BASELINES
from emosafe_lib.evaluation.bootstrap import Bootstrap, interval
from emosafe_lib.evaluation.metrics import UNDEFINED, Answers, Truth
from emosafe_lib.evaluation.paired_tests import Difference, difference
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.rows import take, tasks_asked
from emosafe_lib.study.taxonomy import CATEGORIES, FIVE_SHOTS, LEFT_OUT, TASKS

RESULT_COLUMNS = tuple(
    "model family parameters task setting variant metric category value low high n coverage seeds".split()
)
PROMPTED = ("zero-shot", "few-shot", FIVE_SHOTS)
FIRST_SEED, NO_LADDER = "first-seed", "none"
# The settings of each file that a study asks of every model; five shots are asked where a context has room for them.
FILES = {"prompting": ("zero-shot", "few-shot"), "finetuning": ("fine-tuned", "probe")}


class Key(NamedTuple):
    """One run."""

    model: str
    task: str
    setting: str
    variant: str
    seed: int


class Cell(NamedTuple):
    """What a table shows as one number: a model on a task in a setting.

    An empty variant means the headline: all wordings of a prompted setting, the main training run of the others. With a
    seed, one run stands for all seeds: the fair rival of a variant that was run with that seed alone.
    """

    model: str
    task: str
    setting: str
    variant: str = ""
    seed: int | None = None

    @property
    def shown(self) -> str:
        """The variant as tables name it; the main run with one seed is none that was asked for under a name."""
        return self.variant if self.seed is None or self.variant else FIRST_SEED


@dataclass
class Score:
    """A cell's scores on certain rows, averaged over its runs.

    Attributes
    ----------
    values : (metric, category) -> value, NaN where undefined
    draws : (metric, category) -> array (resamples,)
    n : rows; `coverage` : share of usable answers; `runs` : the values of each run, in the order of `keys`
    """

    keys: list[Key]
    values: dict[tuple[str, str], float]
    draws: dict[tuple[str, str], np.ndarray]
    n: int
    coverage: float
    runs: list[dict[tuple[str, str], float]]


@dataclass
class Evidence:
    """All that the analysis knows: the test rows' labels, every run's answers, and what is missing.

    Attributes
    ----------
    study : its parameters
    models : name -> ModelParams for the study's models (baselines are not in it)
    parameters : name -> number of parameters, None where unknown
    truth : labels of the test rows, without re-interpretations
    support : category -> known positives among training rows
    answers : Key -> Answers
    gaps : table with the columns model, task, setting, missing
    tasks : those that the rows ask about; see `rows.tasks_asked`
    """

    study: StudyParams
    models: dict[str, ModelParams]
    parameters: dict[str, int | None]
    truth: Truth
    support: dict[str, int]
    answers: dict[Key, Answers]
    gaps: pd.DataFrame
    bootstrap: Bootstrap
    cache: dict = field(default_factory=dict, repr=False)
    tasks: tuple[str, ...] = TASKS

    def family(self, model: str) -> str:
        """The model's family; baselines are a family of their own."""
        return self.models[model].family if model in self.models else "baseline"

    def ladder(self, name: str) -> list[str]:
        """The models of a ladder from small to large; those whose number of parameters is unknown come in no order. Models
        that belong to no ladder are not one.
        """
        on_it = [model for model, params in self.models.items() if params.ladder == name != NO_LADDER]
        return sorted(on_it, key=lambda model: self.parameters[model] or 0)

    def sized(self, name: str) -> list[str]:
        """The models of a ladder whose number of parameters is known, from small to large."""
        return [model for model in self.ladder(name) if self.parameters[model]]

    @property
    def encoders(self) -> list[str]:
        """The study's encoders, which stand in BERT's place."""
        return [name for name in self.models if self.family(name) == "encoder"]

    def keys(self, cell: Cell) -> list[Key]:
        """The runs that make up a cell; empty if one of those that the study asks for is missing. A cell of one seed needs
        that seed's run alone.
        """
        here = [key for key in self.answers if key[:3] == cell[:3]]
        if cell.variant or cell.setting not in PROMPTED:
            here = [key for key in here if key.variant == cell.variant]
        if cell.seed is not None:
            return sorted(key for key in here if key.seed == cell.seed)
        return [] if missing_runs(self.study, cell, here) else sorted(here)

    def cells(self) -> list[Cell]:
        """Every headline cell that exists, by model, task and setting."""
        found = dict.fromkeys(Cell(key.model, key.task, key.setting) for key in self.answers)
        return [cell for cell in found if self.keys(cell)]

    def variants(self) -> list[Cell]:
        """Cells of single wordings, training budgets and ablations."""
        found = dict.fromkeys(Cell(*key[:4]) for key in self.answers if key.variant)
        return [cell for cell in found if self.keys(cell)]

    def answered(self, *cells: Cell) -> np.ndarray:
        """Which test rows every run of these cells answered, bool array over the truth."""
        mask = np.ones(len(self.truth), bool)
        for key in (key for cell in cells for key in self.keys(cell)):
            here = np.zeros(len(self.truth), bool)
            here[self.answers[key].rows] = True
            mask &= here
        return mask

    def common(self, task: str) -> np.ndarray:
        """Which test rows every headline run of a task answered, bool array over the truth."""
        place = ("common", task)
        if place not in self.cache:
            self.cache[place] = self.answered(*(cell for cell in self.cells() if cell.task == task))
        return self.cache[place]

    def score(self, cell: Cell, mask: np.ndarray | None = None, build: Callable | None = None) -> Score | None:
        """The cell's scores on the rows of `mask`, on all its own rows if omitted; None if the cell has a gap.

        `build` makes other scores than those of `results.csv`, as `bootstrap.safety_measure` makes these.
        """
        keys = self.keys(cell)
        if not keys:
            return None
        mask = self.answered(cell) if mask is None else mask
        parts = [self.run_score(key, mask, build) for key in keys]
        names = list(parts[0][1])
        values = {name: float(np.mean([part[0][name] for part in parts])) for name in names}
        draws = {name: np.mean([part[1][name] for part in parts], axis=0) for name in names}
        coverage = float(np.mean([part[2] for part in parts]))
        return Score(keys, values, draws, int(mask.sum()), coverage, [part[0] for part in parts])

    def run_score(self, key: Key, mask: np.ndarray, build: Callable | None = None) -> tuple[dict, dict, float]:
        """One run's values, draws and coverage on the rows of `mask`; computed once."""
        place = (key, mask.tobytes(), build)
        if place not in self.cache:
            answers = self.answers[key].on(mask)
            measure = self.bootstrap.measure(self.truth, answers, build)
            draws = dict(zip(measure.names, self.bootstrap.draws(measure).T, strict=True))
            self.cache[place] = (measure.values(self.bootstrap.groups), draws, answers.coverage)
        return self.cache[place]

    def contrast(self, terms: list[tuple[float, Cell]], metric="macro_f1", category="", mask=None) -> Difference | None:
        """A weighted sum of cells' scores, with its paired interval and p-value, on the rows of `mask`, or where it is
        omitted, on those that all of the cells answered.

        None if a cell has a gap. With weights 1 and -1 this is the paired difference of two models or settings.
        """
        cells = [cell for _, cell in terms]
        if any(not self.keys(cell) for cell in cells):
            return None
        mask = self.answered(*cells) if mask is None else mask
        scores = [self.score(cell, mask) for cell in cells]
        value = sum(weight * score.values[metric, category] for (weight, _), score in zip(terms, scores, strict=True))
        draws = sum(weight * score.draws[metric, category] for (weight, _), score in zip(terms, scores, strict=True))
        return difference(float(value), draws, self.study.analysis.confidence)


def missing_runs(study: StudyParams, cell: Cell, keys: list[Key]) -> list[str]:
    """Which wordings and seeds a cell lacks of those that the study asks for; all are named."""
    if not keys:
        return ["all runs"]
    study = study.for_model(cell.model)
    wordings = dict.fromkeys(PROMPTED, study.prompting.few_shot_variants) | {"zero-shot": study.prompting.variants}
    seeds = dict.fromkeys(PROMPTED[1:], study.prompting.exemplar_seeds) | {"fine-tuned": study.finetuning.seeds}
    seeds = seeds.get(cell.setting, [])
    if cell.setting == "fine-tuned" and cell.variant:  # ablations and training budgets
        seeds = seeds[:1]
    asked = wordings.get(cell.setting, []) if not cell.variant else []
    found = [f"wording {name}" for name in asked if name not in {key.variant for key in keys}]
    for variant in sorted({key.variant for key in keys}):
        have = {key.seed for key in keys if key.variant == variant}
        found += [f"seed {seed} {variant}".strip() for seed in seeds if seed not in have]
    return found


def read_files(paths: dict[tuple[str, str], object], data_sha256: str) -> pd.DataFrame:
    """Read prediction files and refuse what does not belong together.

    Parameters
    ----------
    paths : (model, kind) -> path of a prediction file
    data_sha256 : the hash in the study's data card

    Raises
    ------
    PredictionError : a file names another model or was made from other data, or two files hold runs under one key
    """
    tables = []
    for (model, _), path in paths.items():
        table = predictions.read(path)
        where = f"{model}/predictions/{path.name}"
        if set(table["data_sha256"]) - {data_sha256}:
            raise PredictionError(where, "was made from other data or another split", "rerun this model's notebooks")
        if set(table["model"]) - {model}:
            raise PredictionError(where, f"holds runs of {table['model'].iloc[0]}", "each folder holds one model")
        tables.append(table)
    if not tables:
        raise PredictionError("predictions", "none found", "run notebooks 03 and 04 for at least one model")
    table = pd.concat(tables, ignore_index=True)
    twice = table[table.duplicated(["model", *predictions.KEY])]
    if len(twice):
        first = twice.iloc[0]
        key = ", ".join(str(first[name]) for name in ("model", "task", "setting", "variant", "seed"))
        raise PredictionError("predictions", f"two runs under one key: {key}", "keep one of them")
    return table


def expected_ids(rows: pd.DataFrame, study: StudyParams, setting: str, model: str = "") -> pd.Series:
    """The ids that a model must answer in a setting: test rows without re-interpretations, up to the cap of both."""
    study = study.for_model(model)
    caps = dict.fromkeys(PROMPTED, study.prompting.evaluation_rows)
    caps |= dict.fromkeys(FILES["finetuning"], study.finetuning.evaluation_rows)
    return take(rows, "test", caps.get(setting), originals_only=True)["id"]


def gather(
    study: StudyParams, models: dict[str, ModelParams], parameters: dict, rows: pd.DataFrame, table: pd.DataFrame
) -> Evidence:
    """Align every run with the test rows and list the gaps.

    `table` holds the runs of all models and baselines, as `read_files` returns them.
    """
    test = take(rows, "test", originals_only=True)
    truth = metrics.truth_of(test)
    bootstrap = Bootstrap(truth.group, study.analysis.resamples, study.analysis.seed)
    answers = {}
    pairs = table[["setting", "model"]].drop_duplicates().itertuples(index=False, name=None)
    ids = {pair: expected_ids(rows, study, *pair) for pair in pairs}
    for parts, run in table.groupby(["model", "task", "setting", "variant", "seed"], sort=False):
        key = Key(*parts[:4], int(parts[4]))
        known = ids[key.setting, key.model] if key.variant != LEFT_OUT else []
        answers[key] = metrics.align(run, truth, known, " ".join(str(part) for part in parts if part != ""))
    train = metrics.truth_of(rows[rows["split"] == "train"])
    support = dict(zip(CATEGORIES, (train.categories & train.known).sum(axis=0).tolist(), strict=True))
    evidence = Evidence(study, models, parameters, truth, support, answers, pd.DataFrame(), bootstrap)
    evidence.tasks = tasks_asked(rows)
    evidence.gaps = gaps_of(evidence)
    return evidence


def gaps_of(evidence: Evidence) -> pd.DataFrame:
    """Every model, task and setting that the study asks for and does not have in full; one row a gap."""
    asked = [(model, setting) for model in evidence.models for settings in FILES.values() for setting in settings]
    asked += [(name, "baseline") for name in BASELINES]
    found = []
    for (model, setting), task in ((pair, task) for pair in asked for task in evidence.tasks):
        cell = Cell(model, task, setting)
        keys = [key for key in evidence.answers if key[:3] == cell[:3] and (setting in PROMPTED or not key.variant)]
        missing = missing_runs(evidence.study, cell, keys)
        found += [(model, task, setting, ", ".join(missing))] if missing else []
    variants = {each: variants_asked(evidence.study.for_model(each), evidence.tasks) for each in evidence.models}
    for model, (task, variant) in ((each, pair) for each, pairs in variants.items() for pair in pairs):
        main = Cell(model, task, "fine-tuned", seed=evidence.study.finetuning.seeds[0])
        if evidence.keys(main) and not evidence.keys(main._replace(variant=variant)):  # else the main run's gap says it
            found.append((model, task, "fine-tuned", variant))
    return pd.DataFrame(found, columns=["model", "task", "setting", "missing"])


def variants_asked(study: StudyParams, tasks: tuple[str, ...] = TASKS) -> list[tuple[str, str]]:
    """(task, variant) of the fine-tuning runs that a study asks for beside the main ones."""
    settings = study.finetuning
    ablations = (
        [(task, "no-augmentation") for task in settings.ablation_tasks if task in tasks] if settings.ablation else []
    )
    return ablations + [(task, f"budget-{rows}") for task in tasks for rows in settings.budgets]


def results_table(evidence: Evidence) -> pd.DataFrame:
    """`results.csv`: one row a number; the columns are `RESULT_COLUMNS`.

    Headline rows have an empty `variant`. `low` and `high` are the bootstrap interval over groups, except for
    `variant_spread_*` and `seed_spread_*`, where `value` is the width and `low` and `high` the smallest and largest
    value among wordings or seeds. `source_macro_f1` and `origin_*` have the source or origin in `category`. Variant
    `FIRST_SEED` is the main training run with the first seed alone, beside which budgets and ablations stand.

    All scores of a task rest on the rows that every headline run of it answered; `n` counts those of them that a number
    is made of: for a source its own rows, for a category the rows in which it is known.
    """
    records, first = [], evidence.study.finetuning.seeds[0]
    variants = evidence.variants()
    alone = dict.fromkeys(cell._replace(variant="", seed=first) for cell in variants if cell.setting == "fine-tuned")
    for cell in [*evidence.cells(), *variants, *alone]:
        mask = evidence.common(cell.task) & evidence.answered(cell)
        score = evidence.score(cell, mask) if mask.any() else None
        if score is None:
            continue
        records += metric_records(evidence, cell, score, evidence.truth.at(mask))
        if not cell.shown:
            records += spread_records(evidence, cell, score) + origin_records(evidence, cell, mask)
    return pd.DataFrame(records, columns=list(RESULT_COLUMNS))


def record(evidence: Evidence, cell: Cell, score: Score, metric: str, category: str, value, low, high) -> dict:
    """One row of `results.csv`."""
    model = cell.model, evidence.family(cell.model), evidence.parameters.get(cell.model) or ""
    number = cell.task, cell.setting, cell.shown, metric, category, value, low, high
    basis = score.n, score.coverage, len({key.seed for key in score.keys})
    return dict(zip(RESULT_COLUMNS, (*model, *number, *basis), strict=True))


def metric_records(evidence: Evidence, cell: Cell, score: Score, truth: Truth) -> list[dict]:
    """All metrics of a cell with their sampling intervals; `truth` holds the rows that they are made of."""
    found = []
    for (metric, category), value in score.values.items():
        limits = limits_of(score, (metric, category), evidence.study.analysis.confidence)
        row = record(evidence, cell, score, metric, category, value, *limits)
        found.append(row | {"n": rows_behind(truth, metric, category)})
    return found


def limits_of(score: Score, key: tuple[str, str], confidence: float) -> tuple[float, float]:
    """The sampling interval of one of a cell's numbers, NaN twice where it is undefined, as for the calibration error: a
    sum of absolute gaps is larger in nearly every resample than in the sample, so that their range would not hold the value.
    """
    return (UNDEFINED, UNDEFINED) if key[0] == "calibration_error" else interval(score.draws[key], confidence)


def rows_behind(truth: Truth, metric: str, category: str) -> int:
    """How many rows a number is made of: those of its source, those in which its category is known, else all."""
    if metric == "source_macro_f1":
        return int((truth.source == category).sum())
    return int(truth.known[:, CATEGORIES.index(category)].sum()) if category in CATEGORIES else len(truth)


def spread_records(evidence: Evidence, cell: Cell, score: Score) -> list[dict]:
    """How far macro-F1 moves between prompt wordings and between seeds: width, smallest, largest."""
    found = []
    for metric in ("macro_f1", "within_source_macro_f1"):
        for name in ("variant", "seed"):
            means = run_means(score, metric, name)
            if len(means) > 1:
                low, high = means.min(), means.max()
                found.append(record(evidence, cell, score, f"{name}_spread_{metric}", "", high - low, low, high))
    return found


def run_means(score: Score, metric: str, by: str) -> pd.Series:
    """The metric of a cell's runs by prompt wording (`variant`), averaged over seeds, or by seed, averaged over wordings."""
    values = pd.Series([run[metric, ""] for run in score.runs])
    return values.groupby([getattr(key, by) for key in score.keys]).mean()


def origin_records(evidence: Evidence, cell: Cell, mask: np.ndarray) -> list[dict]:
    """Macro-F1 of the rows of each origin apart: human-authored, synthetic, re-interpretation."""
    found, labels = [], evidence.truth.origin
    for name in sorted(set(labels[mask])):
        score = evidence.score(cell, mask & (labels == name))
        limits = interval(score.draws["macro_f1", ""], evidence.study.analysis.confidence)
        found.append(record(evidence, cell, score, "origin_macro_f1", name, score.values["macro_f1", ""], *limits))
    return found
