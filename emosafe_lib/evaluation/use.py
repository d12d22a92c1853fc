"""What a score is good for: where to raise an alarm, what to leave to a person, whom a reviewer should read first.

All of it is read from the probabilities of the trinary task, with intervals from the same resamples as every other
number. Two runs that read nothing stand in each table: the filter that alarms about everything and the one that never
does. A rule that is no better than both is of no use, whatever its F1.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import alarms, operating
from emosafe_lib.evaluation.bootstrap import Measure, by_group, interval
from emosafe_lib.evaluation.intervals import each_with_interval
from emosafe_lib.evaluation.metrics import ratio
from emosafe_lib.evaluation.results import Cell, Evidence

COVERAGES = tuple(round(step / 20, 2) for step in range(1, 21))
THRESHOLDS = tuple(round(step / 20, 2) for step in range(1, 15))
BUDGETS = (10, 20, 50, 100, 200, 400)  # messages that a person reads, of a thousand
UNSAFE = alarms.READINGS["loose"]  # the lowest level that counts: borderline is none
TITLES = {
    "auroc": "AUROC",
    "recall": "recall",
    "false_alarms": "false alarms",
    "false_alarms_at_recall_90": "false alarms at 90 % recall",
    "false_alarms_at_recall_95": "false alarms at 95 % recall",
    "precision_at_alarms_10": "precision at 10 % alarms",
}


def operating_table(table: pd.DataFrame) -> pd.DataFrame:
    """The operating points of every headline run from `results.csv`: a row a reading, model and setting, text cells."""
    rows = table[(table["variant"] == "") & table["metric"].isin(TITLES) & table["category"].isin(alarms.READINGS)]
    told = rows.assign(text=each_with_interval(rows, ".2f"), metric=rows["metric"].map(TITLES))
    told = told.rename(columns={"category": "unsafe is"})
    wide = told.pivot_table(
        index=["unsafe is", "model", "setting"], columns="metric", values="text", aggfunc="first", sort=False
    )
    return wide.reindex(columns=list(TITLES.values()))


def shown_runs(evidence: Evidence, ladder: str) -> list[Cell]:
    """The runs that curves are drawn for: the ladder's trained ends and encoder, TF-IDF and the two that read nothing."""
    models, encoders = evidence.sized(ladder), evidence.encoders
    trained = [Cell(name, "safety", "fine-tuned") for name in dict.fromkeys([*models[:1], *models[-1:], *encoders])]
    others = [Cell(name, "safety", "baseline") for name in ("tfidf", "always-unsafe", "always-safe")]
    return [cell for cell in [*trained, *others] if evidence.keys(cell)]


def risk_measure(truth, answers, codes, groups) -> Measure:
    """The share of wrong answers among the most confident ones, at each coverage."""
    abstentions = alarms.abstentions_of(truth, answers, codes, groups)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        wrong, right = abstentions.counts(np.ascontiguousarray(weights.T))
        total = wrong[-1] + right[-1]
        return np.stack([ratio(alarms.found_by(wrong, right, c), c * total) for c in COVERAGES], axis=1)

    return Measure([("risk", str(c)) for c in COVERAGES], evaluate)


def benefit_measure(truth, answers, codes, groups) -> Measure:
    """Net benefit a message at each threshold probability (Vickers & Elkin 2006, doi 10.1177/0272989X06295361).

    Found messages less false alarms, where a threshold of p says that one found is worth (1 - p) / p false alarms.
    """
    unsafe = truth.safety >= UNSAFE
    raised = alarms.unsafe_scores(answers, unsafe, UNSAFE)[:, None] >= np.array(THRESHOLDS)
    worth = np.where(unsafe[:, None], 1.0, -np.array(THRESHOLDS) / (1 - np.array(THRESHOLDS)))
    sums = by_group(np.column_stack([raised * worth, np.ones(len(unsafe))]), codes, groups)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        total = weights @ sums
        return ratio(total[:, :-1], total[:, -1:])

    return Measure([("net_benefit", str(p)) for p in THRESHOLDS], evaluate)


def review_measure(truth, answers, codes, groups) -> Measure:
    """The share of unsafe messages that a person finds who reads N of a thousand, highest scores first."""
    raised = alarms.alarms_of(truth, answers, codes, groups, UNSAFE)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        found, false = raised.counts(np.ascontiguousarray(weights.T))
        return np.stack([ratio(alarms.found_by(found, false, n / 1000), found[-1]) for n in BUDGETS], axis=1)

    return Measure([("found", str(n)) for n in BUDGETS], evaluate)


def alarm_measure(truth, answers, codes, groups, thresholds: tuple[float, ...]) -> Measure:
    """Recall of unsafe messages and rate of alarms about the others, for an alarm that begins at each threshold."""
    unsafe = (truth.safety >= UNSAFE)[:, None]
    raised = alarms.unsafe_scores(answers, unsafe[:, 0], UNSAFE)[:, None] >= np.array(thresholds)
    sides = np.hstack([raised & unsafe, raised & ~unsafe, unsafe, ~unsafe]).astype(float)
    sums, count = by_group(sides, codes, groups), len(thresholds)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        total = weights @ sums
        return ratio(total[:, :-2], np.repeat(total[:, -2:], count, axis=1))

    return Measure([(rate, str(place)) for rate in operating.AIMS for place in range(count)], evaluate)


def curve(evidence: Evidence, cells: list[Cell], build: Callable) -> pd.DataFrame:
    """A measure of several runs on the rows that all of them answered; columns: run, x, value, low, high."""
    mask, rows = evidence.answered(*cells), []
    for cell in cells:
        score = evidence.score(cell, mask, build)
        for name, value in score.values.items():
            limits = interval(score.draws[name], evidence.study.analysis.confidence)
            rows.append((run_name(cell), float(name[1]), value, *limits))
    return pd.DataFrame(rows, columns=["run", "x", "value", "low", "high"])


def run_name(cell: Cell) -> str:
    """A run as figures and tables call it."""
    return cell.model if cell.setting == "baseline" else f"{cell.model}, {cell.setting}"


def review_table(evidence: Evidence, cells: list[Cell]) -> pd.DataFrame:
    """What a budget of N reviews a thousand messages finds: a row a run, a column a budget, shares of the unsafe ones.

    Below the runs, what a perfect order would find, and what messages picked at random would.
    """
    found = curve(evidence, cells, review_measure)
    found = found.assign(said=each_with_interval(found, ".0%"))
    wide = found.pivot(index="run", columns="x", values="said").loc[found["run"].unique()]
    unsafe = (evidence.truth.safety >= UNSAFE)[evidence.answered(*cells)].mean()
    wide.loc["perfect order"] = [f"{min(1, n / 1000 / unsafe):.0%}" if unsafe > 0 else "undefined" for n in BUDGETS]
    wide.loc["at random"] = [f"{n / 1000:.0%}" for n in BUDGETS]
    return wide.set_axis([f"{n} of 1,000" for n in BUDGETS], axis=1)


def abstaining(risk: pd.DataFrame) -> str:
    """What leaving the least certain half to a person does to the error, from the risk-coverage table."""
    wide = risk.pivot(index="run", columns="x", values="value").drop(
        index=["always-safe", "always-unsafe"], errors="ignore"
    )
    if wide.empty:
        return "No trained run is here, so nothing can be said on abstention."
    best = (wide[1.0] - wide[0.5]).idxmax()
    return (
        f"Answering only the surer half, {best} errs in {wide.loc[best, 0.5]:.1%} of its answers instead of "
        f"{wide.loc[best, 1.0]:.1%}; no run drawn here gains more by leaving the rest to a person."
    )


def alarms_in_words(table: pd.DataFrame) -> str:
    """The lowest false-alarm rate at 90 % recall in each reading, beside the filter that alarms about everything."""
    rows = table[(table["variant"] == "") & (table["metric"] == "false_alarms_at_recall_90")].dropna(subset="value")
    parts = [
        f"{reading}: {part.loc[part['value'].idxmin(), 'model']}, {part.loc[part['value'].idxmin(), 'setting']}, "
        f"with {part['value'].min():.0%} of harmless messages alarmed about"
        for reading, part in rows.groupby("category", sort=False)
    ]
    if not parts:
        return "No run has both unsafe and other messages, so no alarm can be judged."
    return f"Fewest false alarms where nine unsafe messages in ten are found; {'; '.join(parts)}."
