"""What a test could have shown: the smallest difference it would have found, and the chance to have proved two models level.

"Cannot tell" means one thing where the study was too small and another where it was not and the models are close. The
standard error of a paired difference, from the bootstrap over groups, tells the two apart: power is computed from it for
an effect that is named beforehand (the study's margin), never for the effect that was found, which would only repeat
the p-value (Hoenig & Heisey 2001, doi 10.1198/000313001300339897).
"""

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.results import Cell, Evidence

POWER = 0.8
UNDERPOWERED, NEAR_MARGIN, UNSETTLED_RANKS, LEVEL = "underpowered", "near the margin", "ranks not settled", "level"


def detectable(error, tests: int = 1, confidence: float = 0.95):
    """The smallest true difference that a two-sided test finds with the chance `POWER`, from its standard error.

    `tests` is how many are corrected for by Holm's method; its first step, which the smallest p-value has to pass, asks
    for the full Bonferroni level.
    """
    from scipy.stats import norm

    return (norm.isf((1 - confidence) / tests / 2) + norm.ppf(POWER)) * np.asarray(error, float)


def chance_of_level(
    draws: np.ndarray, margin: float, confidence: float = 0.95, needed: int = 0, either_side: bool = False
) -> float:
    """The chance that intervals would have stayed above -margin, had the true differences all been zero.

    Parameters
    ----------
    draws : (R, places, rivals), bootstrap draws of the differences; what they vary by is what another sample would
    needed : in how many places all rivals must be matched; 0 stands for all places
    either_side : whether intervals must stay below margin too: level, and not only no worse
    """
    draws = draws[~np.isnan(draws).any(axis=(1, 2))]
    if not len(draws):
        return float("nan")
    around_zero = draws - draws.mean(axis=0)
    low, high = np.quantile(around_zero, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    within = around_zero + low > -margin
    if either_side:
        within &= around_zero + high < margin
    matched = within.all(axis=2).sum(axis=1)
    return float((matched >= (needed or draws.shape[1])).mean())


def reason(chance: float) -> str:
    """Why a verdict is open: the study could hardly have told, or it could and the truth lies near the margin."""
    return UNDERPOWERED if not chance >= POWER else NEAR_MARGIN


def what_rows_buy(evidence: Evidence, ladder: str) -> pd.DataFrame:
    """What the smallest model's paired tests on safety, in macro-F1 within sources, could show with a quarter, a half and
    all of the test rows, and with four times as many.

    Rows come in a stable random order, so the first n are what a study capped at n would have scored. One row a rival
    and number of rows: rival, rows, error, detectable (one test), chance_of_level; the error beyond the rows at hand is
    that of all rows, shrunk by the square root.
    """
    models, found = evidence.sized(ladder), []
    margin, confidence = evidence.study.analysis.margin, evidence.study.analysis.confidence
    rivals = dict.fromkeys([*models[1:][-1:], *evidence.encoders]) if models else {}
    for rival in (name for name in rivals if name != models[0]):
        own = Cell(models[0], "safety", "fine-tuned")
        both = evidence.answered(own, own._replace(model=rival))
        everything = int(both.sum())
        for rows in sorted({everything // 4, everything // 2, everything} - {0}):
            mask, terms = both & (np.cumsum(both) <= rows), [(1, own), (-1, own._replace(model=rival))]
            gap = evidence.contrast(terms, "within_source_macro_f1", mask=mask)
            if gap is None:
                break
            found.append((rival, rows, gap.error, gap.draws))
        if found and found[-1][0] == rival:
            found.append((rival, 4 * rows, gap.error / 2, (gap.draws - np.nanmean(gap.draws)) / 2))
    table = pd.DataFrame(found, columns=["rival", "rows", "error", "draws"])
    level = [
        chance_of_level(draws[:, None, None], margin, confidence, either_side=True) for draws in table.pop("draws")
    ]
    table = table.assign(chance_of_level=level)
    return table.assign(detectable=detectable(table["error"], confidence=confidence))


def open_verdicts(tests: pd.DataFrame, margin: float, confidence: float = 0.95) -> pd.DataFrame:
    """Of the paired comparisons of `scaling.comparisons`, how many found something and why the others did not.

    One row a family and metric: tests; clear; level (no difference found, and an interval within the margin on either
    side); underpowered; open (could have found a difference of the margin, and its interval still reaches beyond); and
    the median of `detectable`.
    """
    clear = tests["p_holm"] < 1 - confidence
    level = ~clear & (tests["low"] > -margin) & (tests["high"] < margin)
    rest, could = ~clear & ~level, tests["detectable"] <= margin
    told = tests.assign(tests=1, clear=clear, level=level, underpowered=rest & ~could, open=rest & could)
    kinds = {name: (name, "sum") for name in ("tests", "clear", "level", "underpowered", "open")}
    return (
        told.groupby(["family", "metric"], sort=False).agg(**kinds, detectable=("detectable", "median")).reset_index()
    )


def in_words(told: pd.DataFrame, margin: float) -> str:
    """What became of the comparisons that found no difference, from `open_verdicts`."""
    tests, *counts = (int(told[name].sum()) for name in ("tests", "level", "underpowered", "open"))
    if not sum(counts):
        return f"All {tests} paired tests found a difference."
    level, underpowered, others = counts
    return (
        f"Of {tests} paired tests {sum(counts)} found no clear difference: {level} are level within {margin:g}, "
        f"{underpowered} could hardly have found one of {margin:g} (underpowered), {others} could have (open)."
    )
