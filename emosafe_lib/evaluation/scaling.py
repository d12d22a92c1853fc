"""Does size help, where, and at what cost: scores against parameters and compute, ranks, tests and a cautious curve.

Four sizes fix no law. So intervals, rank stability and paired tests come first. A curve is fitted only to four or more
sizes whose scores rise, with a band from the bootstrap, and it is never drawn beyond the sizes that it was fitted to.
The same functions serve the nano ladder and LLaMA's results; which one a number belongs to stands in every table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.bootstrap import interval
from emosafe_lib.evaluation.intervals import side_of_zero
from emosafe_lib.evaluation.paired_tests import holm, mcnemar, right_rows
from emosafe_lib.evaluation.power import detectable
from emosafe_lib.evaluation.results import Cell, Evidence, Key
from emosafe_lib.models.capacity import count_parameters
from emosafe_lib.study.errors import EmosafeError
from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.paths import ASSETS
from emosafe_lib.study.taxonomy import LEFT_OUT, TASK_LABELS, TASKS

SCALED_SETTINGS = ("zero-shot", "few-shot", "probe", "fine-tuned")
METRICS = ("macro_f1", "within_source_macro_f1")
MIN_SIZES = 3
MIN_CURVE_SIZES = 4
CURVE_DRAWS = 100
CEILING_LIMIT = 0.99
EXPONENTS = (0.01, 2.0)
INSIDE = (1.01 * EXPONENTS[0], 0.99 * EXPONENTS[1])  # a fit comes close to its bounds and does not meet them
INSUFFICIENT = "insufficient"

# Pre-training tokens as the model cards state them (Llama 3.2: "up to 9 trillion", Llama 3.1 and 3.3: "15 trillion+").
STATED_TOKENS = {
    **{"llama-1b": 9e12, "llama-3b": 9e12, "llama-8b": 15e12, "llama-70b": 15e12},
    **{"smollm2-135m": 2e12, "smollm2-360m": 4e12, "smollm2-1.7b": 11e12},
}


def sizes(models: dict[str, ModelParams]) -> pd.DataFrame:
    """What is known of each model's size and compute, one row a model.

    Columns: model, title, family, ladder, parameters (tied embeddings once), non_embedding, pretraining_tokens,
    pretraining_flops (6 N D) and inference_flops_per_token (2 N), N without embeddings (Kaplan et al. 2020,
    arXiv 2001.08361, section 2.1). NaN where unknown.
    """
    rows = []
    for name, model in models.items():
        try:
            counts = count_parameters(model)
        except EmosafeError:
            counts = {}  # weights that are not at hand and no shape in the parameter file
        total, inner = counts.get("total", np.nan), counts.get("non_embedding", np.nan)
        tokens = pretraining_tokens(model)
        flops = {"pretraining_flops": 6 * inner * tokens, "inference_flops_per_token": 2 * inner}
        row = {"model": name, "title": model.title or name, "family": model.family, "ladder": model.ladder}
        row |= {"parameters": total, "non_embedding": inner, "pretraining_tokens": tokens}
        rows.append(row | flops)
    return pd.DataFrame(rows)


def pretraining_tokens(model: ModelParams) -> float:
    """Tokens seen in pre-training: from the record beside our own weights, from the model card for LLaMA, else NaN."""
    if model.weights != "assets":
        return STATED_TOKENS.get(model.name, np.nan)
    weights = ASSETS / model.path
    record = weights.parent / "curves.json"
    runs = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
    return next((float(sum(run["tokens"].values())) for run in runs if run["rung"] == weights.name), np.nan)


def points(table: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The headline rows of `results.csv` that belong on a size axis, with the facts of `sizes` joined; models of unknown
    size have no place on it.
    """
    chosen = table[(table["variant"] == "") & table["setting"].isin(SCALED_SETTINGS)]
    known = facts.drop(columns=["family", "parameters"]).merge(facts[["model", "parameters"]], on="model")
    joined = chosen.drop(columns="parameters").merge(known, on="model").dropna(subset="parameters")
    return joined.sort_values("parameters", kind="stable")


def kendall(sizes_: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Kendall's tau-a between sizes (k,) and scores (k, ...): concordant minus discordant pairs, by all pairs."""
    pairs = list(combinations(range(len(sizes_)), 2))
    signs = [np.sign(sizes_[j] - sizes_[i]) * np.sign(values[j] - values[i]) for i, j in pairs]
    return np.mean(signs, axis=0)


def trend_of(count: np.ndarray, draws: np.ndarray, confidence: float) -> int:
    """1 where scores (k, resamples) rise with size, -1 where they fall, else 0.

    A tau above zero only says that more pairs rise than fall. So the largest must be clearly above the smallest too, and
    no step from one size to the next may clearly go the other way.
    """
    changes = kendall(count, draws), draws[-1] - draws[0], *np.diff(draws, axis=0)
    ranks, ends, *steps = (side_of_zero(*interval(change, confidence)) for change in changes)
    return ranks if ranks == ends and -ranks not in steps else 0


def rank_stability(evidence: Evidence, models: list[str], task: str, setting: str, metric: str = "macro_f1") -> dict:
    """How well size orders the scores.

    Returns
    -------
    status ("ok", or "insufficient" for fewer than three sizes, or scores that are equal or undefined) and how many sizes;
    tau (Kendall's tau-a) with its bootstrap interval low and high; same_order, the share of resamples that rank the models
    exactly as the point values do; trend, 1 where the score rises with size, -1 where it falls, else 0 (see `trend_of`)
    """
    found = {"status": INSUFFICIENT, "sizes": len(with_runs(evidence, models, task, setting))}
    found |= dict.fromkeys(("tau", "low", "high", "same_order"), np.nan) | {"trend": 0}
    stacked, level = ladder_scores(evidence, models, task, setting, metric), evidence.study.analysis.confidence
    if stacked is None:
        return found
    count, values, draws = stacked
    low, high = interval(kendall(count, draws), level)
    same = (draws.argsort(axis=0) == values.argsort()[:, None]).all(axis=0).mean()
    found |= {"status": "ok", "tau": float(kendall(count, values)), "low": low, "high": high}
    return found | {"same_order": float(same), "trend": trend_of(count, draws, level)}


def with_runs(evidence: Evidence, models: list[str], task: str, setting: str) -> list[str]:
    """The models that have this cell in full and whose size is known."""
    return [name for name in models if evidence.parameters[name] and evidence.keys(Cell(name, task, setting))]


def ladder_scores(evidence: Evidence, models: list[str], task: str, setting: str, metric: str):
    """Parameters (k,), scores (k,) and draws (k, resamples) on common rows, or None where they support no statement:
    fewer than `MIN_SIZES` different sizes, an undefined score, or scores that are all the same.
    """
    names = with_runs(evidence, models, task, setting)
    cells = [Cell(name, task, setting) for name in names]
    if len({evidence.parameters[name] for name in names}) < MIN_SIZES:
        return None
    mask = evidence.answered(*cells) & evidence.common(task)
    scores = [evidence.score(cell, mask) for cell in cells] if mask.any() else []
    values = np.array([score.values[metric, ""] for score in scores])
    if not len(values) or np.isnan(values).any() or np.ptp(values) == 0:
        return None
    count = np.array([evidence.parameters[name] for name in names], float)
    return count, values, np.array([score.draws[metric, ""] for score in scores], float)


@dataclass(frozen=True)
class Curve:
    """A saturating power law, score = ceiling - scale * (N / smallest N) ** -exponent, or the reason why there is none.

    `grid`, `middle`, `low` and `high` span the fitted sizes and nothing beyond. `status` is "fitted", "insufficient" or
    "not honest".
    """

    status: str
    reason: str
    ceiling: float = np.nan
    scale: float = np.nan
    exponent: float = np.nan
    grid: tuple = ()
    middle: tuple = ()
    low: tuple = ()
    high: tuple = ()


def power_law(size, ceiling, scale, exponent):
    """The saturating power law in sizes relative to the smallest, which lies `scale` below the ceiling."""
    return ceiling - scale * np.asarray(size, float) ** -exponent


def saturating_curve(count: np.ndarray, values: np.ndarray, draws: np.ndarray, confidence: float = 0.95) -> Curve:
    """Fit the curve where that is honest.

    Parameters
    ----------
    count : parameters (k,), rising
    values : scores (k,)
    draws : bootstrap scores (k, resamples)
    """
    if len(set(count)) < MIN_SIZES or np.ptp(values) == 0:
        return Curve(INSUFFICIENT, "fewer than three sizes, or equal scores")
    if len(count) < MIN_CURVE_SIZES:
        return Curve("not honest", "three sizes cannot test a curve of three parameters")
    if (np.diff(values) <= 0).any() or trend_of(count, draws, confidence) < 1:
        return Curve("not honest", "the scores do not clearly rise with size")
    smallest, step = count.min(), max(1, draws.shape[1] // CURVE_DRAWS)
    best, *fits = (fit_once(count / smallest, each) for each in (values, *draws.T[::step]))
    tails = (1 - confidence) / 2, (1 + confidence) / 2
    # A draw without a fit, or with one at the edge of what is allowed, has shown no ceiling: it counts as one out of reach.
    ceilings = [1.0 if fit is None or not INSIDE[0] < fit[2] < INSIDE[1] else fit[0] for fit in (best, *fits)]
    if ceilings[0] > CEILING_LIMIT or np.quantile(ceilings, tails[1]) > CEILING_LIMIT:
        return Curve("not honest", "these sizes show no ceiling, so it would be a guess")
    grid = np.geomspace(1, count.max() / smallest, 40)
    band = np.quantile([power_law(grid, *fit) for fit in fits if fit is not None], tails, axis=0)
    return Curve("fitted", "", *best, tuple(grid * smallest), tuple(power_law(grid, *best)), *map(tuple, band))


def fit_once(size: np.ndarray, values: np.ndarray):
    """One least-squares fit (ceiling, scale, exponent) to sizes relative to the smallest, or None where there is none."""
    from scipy.optimize import curve_fit

    start = (min(0.99, values.max() + 0.05), max(1e-3, np.ptp(values)), 0.3)
    bounds = ((0, 0, EXPONENTS[0]), (1, 1, EXPONENTS[1]))
    try:
        return tuple(curve_fit(power_law, size, values, start, bounds=bounds, maxfev=2000)[0])
    except (RuntimeError, ValueError):
        return None


def curve_of(evidence: Evidence, models: list[str], task: str, setting: str, metric: str = "macro_f1") -> Curve:
    """The curve of one ladder, task and setting; fitted once."""
    place = ("curve", tuple(models), task, setting, metric)
    if place not in evidence.cache:
        stacked = ladder_scores(evidence, models, task, setting, metric)
        none = Curve(INSUFFICIENT, "fewer than three sizes, or scores that are equal or undefined")
        level = evidence.study.analysis.confidence
        evidence.cache[place] = none if stacked is None else saturating_curve(*stacked, level)
    return evidence.cache[place]


def curve_table(evidence: Evidence, ladder: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """The honest curves as points to draw: task, metric, setting, ladder, parameters, value, low, high; empty if there are
    none.
    """
    numbers = dict.fromkeys(("parameters", "value", "low", "high"), float)
    parts = [
        pd.DataFrame(columns=["task", "metric", "setting", "ladder", *numbers]).astype(numbers)
    ]  # figures need numbers
    for task, setting, metric in product(TASKS, SCALED_SETTINGS, metrics):
        curve = curve_of(evidence, evidence.ladder(ladder), task, setting, metric)
        if curve.status == "fitted":
            columns = {"parameters": curve.grid, "value": curve.middle, "low": curve.low, "high": curve.high}
            parts.append(pd.DataFrame(columns).assign(task=task, metric=metric, setting=setting, ladder=ladder))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def rank_table(evidence: Evidence, ladder: str, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Rank stability and what became of the curve, one row a metric, task and setting."""
    models, rows = evidence.ladder(ladder), []
    for metric, task, setting in product(metrics, evidence.tasks, SCALED_SETTINGS):
        ranks = rank_stability(evidence, models, task, setting, metric)
        curve = curve_of(evidence, models, task, setting, metric)
        row = {"ladder": ladder, "task": task, "setting": setting, "metric": metric, **ranks}
        row |= {"curve": curve.status, "reason": curve.reason}
        rows.append(row | {"exponent": curve.exponent, "ceiling": curve.ceiling})
    return pd.DataFrame(rows)


def planned(evidence: Evidence) -> list[tuple[str, Cell, Cell]]:
    """The comparisons that the study makes, fixed before any score is seen: (family of tests, first, second).

    Ablations were run with the first seed alone, so that seed stands for the main run beside them.
    """
    plan, seed = [], evidence.study.finetuning.seeds[0]
    for task in evidence.tasks:
        for ladder in ladders(evidence):
            models = evidence.ladder(ladder)
            sized = evidence.sized(ladder)
            steps = [*pairwise(sized), (sized[0], sized[-1])] if len(sized) > 2 else list(pairwise(sized))
            plan += [("size", Cell(b, task, s), Cell(a, task, s)) for s in SCALED_SETTINGS for a, b in steps]
            plan += [
                ("encoder", Cell(m, task, "fine-tuned"), Cell(e, task, "fine-tuned"))
                for m in models
                for e in evidence.encoders
                if m != e
            ]
        for name in evidence.models:
            tuned, zero = Cell(name, task, "fine-tuned"), Cell(name, task, "zero-shot")
            plan += [("setting", tuned, zero), ("setting", Cell(name, task, "few-shot"), zero)]
            plan += [("setting", tuned, Cell(name, task, "probe"))]
            plan += [("baseline", tuned, Cell("tfidf", task, "baseline"))]
            alone = tuned._replace(seed=seed)
            plan += [("augmentation", alone, alone._replace(variant="no-augmentation"))]
        by_source, tfidf = Cell("source", task, "baseline"), Cell("tfidf", task, "baseline")
        runs = [Cell(name, task, setting) for name in evidence.models for setting in SCALED_SETTINGS]
        plan += [("source name", cell, by_source) for cell in [*runs, tfidf]]
        plan += [("augmentation", tfidf, tfidf._replace(variant="no-augmentation"))]
        whole = [tfidf, *(Cell(name, task, "probe") for name in evidence.models)]
        whole += [Cell(name, task, "fine-tuned", seed=seed) for name in evidence.models]
        plan += [("unseen source", cell._replace(variant=LEFT_OUT), cell) for cell in whole]
    return plan


def ladders(evidence: Evidence) -> list[str]:
    """The ladders that the study has models on, the one with most models that ran first, then the longest."""
    names, ran = (
        {params.ladder for params in evidence.models.values()} - {"none"},
        {key.model for key in evidence.answers},
    )
    lengths = {name: (len(ran & set(evidence.ladder(name))), len(evidence.ladder(name))) for name in names}
    return sorted(names, key=lambda name: (*(-length for length in lengths[name]), name))


def comparisons(evidence: Evidence) -> pd.DataFrame:
    """All planned comparisons that the runs allow, one row a comparison and metric.

    Columns: family, task, metric, first, first_setting, first_variant, second, second_setting, second_variant, value
    (first minus second), low, high, p (paired bootstrap over groups), p_holm, gained, lost, mcnemar_p, mcnemar_p_holm,
    cohens_g (rows taken as independent, first run of each side), n, error (bootstrap standard error), detectable (the
    smallest true difference that would have been found with 80 % power). Holm's correction runs over a family and metric.
    """
    rows = []
    for family, first, second in planned(evidence):
        if evidence.keys(first) and evidence.keys(second):
            rows += [paired_comparison(evidence, family, first, second, metric) for metric in METRICS]
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    for name in ("p", "mcnemar_p"):
        corrected = table.groupby(["family", "metric"])[name].transform(holm)
        table[f"{name}_holm"] = corrected
    tests = table.groupby(["family", "metric"])["p"].transform("count").clip(lower=1)
    return table.assign(detectable=detectable(table["error"], tests, evidence.study.analysis.confidence))


COMPARISON_COLUMNS = (
    *("family", "task", "metric", "first", "first_setting", "first_variant"),
    *("second", "second_setting", "second_variant", "value", "low", "high", "p", "p_holm"),
    *("gained", "lost", "mcnemar_p", "mcnemar_p_holm", "cohens_g", "n", "error"),
)


def paired_comparison(evidence: Evidence, family: str, first: Cell, second: Cell, metric: str) -> dict:
    """One paired comparison: first minus second on the rows that both answered; McNemar's test is of one run of each, of the
    same wording and seed where both have one.

    What is held against the source's name stands beside the headline scores, and so rests on their rows.
    """
    mask = evidence.answered(first, second)
    if family == "source name":
        mask &= evidence.common(first.task)
    found = evidence.contrast([(1, first), (-1, second)], metric, mask=mask)
    sides = [evidence.answers[key].on(mask) for key in runs_alike(evidence.keys(first), evidence.keys(second))]
    flips = mcnemar(*(right_rows(evidence.truth, side) for side in sides))
    row = {"family": family, "task": first.task, "metric": metric}
    row |= {"first": first.model, "first_setting": first.setting, "first_variant": first.shown}
    row |= {"second": second.model, "second_setting": second.setting, "second_variant": second.shown}
    row |= {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
    row |= {"gained": flips.gained, "lost": flips.lost, "mcnemar_p": flips.p, "cohens_g": flips.g}
    return row | {"n": int(mask.sum()), "error": found.error}


def runs_alike(first: list[Key], second: list[Key]) -> tuple[Key, Key]:
    """One run of each of two cells: the first of the same wording and seed, else of the same wording, else of any."""
    pairs = list(product(first, second))
    return min(pairs, key=lambda pair: (pair[0].variant != pair[1].variant, pair[0].seed != pair[1].seed))


def size_gains(evidence: Evidence, ladder: str) -> pd.DataFrame:
    """What the largest model adds to the smallest, by task, setting and label: paired differences in F1."""
    models, rows = evidence.ladder(ladder), []
    for task, setting in product(TASKS, SCALED_SETTINGS):
        names = with_runs(evidence, models, task, setting)
        for label in ("", *TASK_LABELS[task]) if len(names) > 1 else ():
            metric = "f1" if label else "macro_f1"
            terms = [(1, Cell(names[-1], task, setting)), (-1, Cell(names[0], task, setting))]
            found = evidence.contrast(terms, metric, label)
            row = {"ladder": ladder, "task": task, "setting": setting, "category": label}
            row |= {"largest": names[-1], "smallest": names[0]}
            row |= {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
            least = detectable(found.error, confidence=evidence.study.analysis.confidence)
            rows.append(row | {"detectable": float(least)})
    return pd.DataFrame(rows)


def measured_costs(base: Path, models: dict[str, ModelParams]) -> pd.DataFrame:
    """What each model's notebooks really cost here, from their manifests: seconds and peak memory of the whole stage.

    `base` is `outputs/<study>`. A stage without a manifest is left out.
    """
    stages = ("03_prompting_baselines", "04_lora_finetuning")
    rows = []
    for name, stage in product(models, stages):
        path = base / name / stage / "manifest.json"
        if path.is_file():
            facts = json.loads(path.read_text(encoding="utf-8"))
            rows.append((name, stage, facts["seconds"], facts["peak_memory_mb"]))
    return pd.DataFrame(rows, columns=["model", "stage", "seconds", "peak_memory_mb"])
