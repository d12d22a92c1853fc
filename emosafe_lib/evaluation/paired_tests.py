"""Whether two runs differ on the same rows: paired bootstrap differences, McNemar's test, Holm's correction.

Two intervals that overlap say little about two models that read the same rows; the difference itself is what is tested.
"""

from dataclasses import dataclass, field

import numpy as np

from emosafe_lib.evaluation import metrics
from emosafe_lib.evaluation.bootstrap import interval
from emosafe_lib.evaluation.intervals import side_of_zero
from emosafe_lib.evaluation.metrics import UNDEFINED, Answers, Truth


@dataclass(frozen=True)
class Difference:
    """First run minus second, on the same rows and the same resamples.

    `p` is two-sided, from the value over `error`, its bootstrap standard error. Counting resamples beyond zero instead would
    give no p-value below 2 / resamples, and Holm's correction over many comparisons would then never reach a finding.
    """

    value: float
    low: float
    high: float
    p: float
    error: float = UNDEFINED
    draws: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def clear(self) -> int:
        """1 where the interval lies above zero, -1 below, 0 where it holds zero or is undefined."""
        return side_of_zero(self.low, self.high)


def difference(value: float, draws: np.ndarray, confidence: float = 0.95) -> Difference:
    """Interval and two-sided p-value of any contrast whose value is zero if there is nothing to find.

    `draws` are its values (R,) on the resamples; undefined draws are left out, within `UNDEFINED_SHARE`.
    """
    from scipy.stats import norm

    low, high = interval(draws, confidence)
    if np.isnan(low):
        return Difference(value, low, high, UNDEFINED, UNDEFINED, draws)
    error = float(np.nanstd(draws, ddof=1, dtype=float))
    p = float(2 * norm.sf(abs(value) / error)) if error else float(value == 0)
    return Difference(value, low, high, p, error, draws)


@dataclass(frozen=True)
class Flips:
    """Rows that only one of two runs gets right, and McNemar's exact test on them (rows taken as independent).

    Attributes
    ----------
    gained, lost : rows that only the first, only the second run has right
    p : exact two-sided p-value; 1 where the runs never differ
    g : Cohen's g, gained / (gained + lost) - 0.5; NaN where they never differ
    """

    gained: int
    lost: int
    p: float
    g: float


def mcnemar(right_first: np.ndarray, right_second: np.ndarray) -> Flips:
    """McNemar's exact test between two runs' bool arrays (n,) of right answers."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    gained = int((right_first & ~right_second).sum())
    lost = int((~right_first & right_second).sum())
    if gained + lost == 0:
        return Flips(0, 0, 1.0, UNDEFINED)
    p = float(test([[0, gained], [lost, 0]], exact=True).pvalue)
    return Flips(gained, lost, min(1.0, p), gained / (gained + lost) - 0.5)


def right_rows(truth: Truth, answers: Answers) -> np.ndarray:
    """Which answered rows are right, (m,): the exact level, or every known category."""
    asked = truth.at(answers.rows)
    if answers.task == "safety":
        return answers.chosen == asked.safety
    chosen, _ = metrics.penalised(asked, answers)
    return ((chosen == asked.categories) | ~asked.known).all(axis=1)


def holm(p_values) -> np.ndarray:
    """Holm's correction for many comparisons: adjusted p-values, NaN where undefined (those are not counted)."""
    from statsmodels.stats.multitest import multipletests

    p_values = np.asarray(p_values, float)
    adjusted, defined = np.full(p_values.shape, UNDEFINED), ~np.isnan(p_values)
    if defined.any():
        adjusted[defined] = multipletests(p_values[defined], method="holm")[1]
    return adjusted
