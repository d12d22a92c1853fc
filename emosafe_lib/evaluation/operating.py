"""Where an alarm begins: thresholds for a purpose, fitted on validation rows and picked when a classifier is used.

A service knows what it wants: to find so many of the unsafe messages, or to be alarmed about so few of the others. An
alarm is P(unsafe) at or above a threshold, borderline messages are among the others. An export carries a curve with a
point for every hundredth of either rate, and a wish is answered by the nearest point that kept it on validation rows.
Rows of one group are not independent, so an interval counts each group once. `emosafe classify` picks from a curve,
so nothing heavy is imported here.
"""

import math
from typing import NamedTuple

import numpy as np

from emosafe_lib.evaluation.intervals import wilson, with_interval
from emosafe_lib.study.errors import ModelError

AIMS = ("recall", "false-alarms")
HUNDREDTHS = np.arange(1, 100) / 100
MOST_POINTS = 2 * len(HUNDREDTHS)
ROUNDING = 1e-9


class Point(NamedTuple):
    """A threshold, and how many unsafe and other validation rows it alarms about."""

    threshold: float
    found: int
    false: int


def fit_curve(scores, unsafe, groups) -> dict:
    """The operating points of one classifier.

    Parameters
    ----------
    scores, unsafe, groups : (n,) P(unsafe), whether a row is unsafe, and the group of each validation row

    Returns
    -------
    JSON values: unsafe, others, unsafe_groups, other_groups (counts), and points, `MOST_POINTS` at most, a `Point` each,
    the thresholds falling; each lies half-way between the two scores that it separates. To alarm about every row is none.
    """
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    scores, unsafe, groups = (np.asarray(values)[order] for values in (scores, unsafe, groups))
    last = np.flatnonzero(np.diff(scores))  # rows of one score stand or fall together
    found = np.cumsum(unsafe)[last]
    false = last + 1 - found
    middle = (scores[last] + scores[last + 1]) / 2
    cuts = np.where(middle > scores[last + 1], middle, scores[last])
    total = int(unsafe.sum())
    first = np.searchsorted(found, HUNDREDTHS * total - ROUNDING)
    final = np.searchsorted(false, HUNDREDTHS * (len(scores) - total) + ROUNDING, side="right") - 1
    kept = np.unique([*first, *final])
    kept = kept[(kept >= 0) & (kept < len(last))]
    return {
        "unsafe": total,
        "others": len(scores) - total,
        "unsafe_groups": len(set(groups[unsafe])),
        "other_groups": len(set(groups[~unsafe])),
        "points": [[float(cuts[row]), int(found[row]), int(false[row])] for row in kept],
    }


def pick(curve: dict, aim: str, wanted: float, where: object) -> Point:
    """The point that keeps a wish: at least this recall with the fewest false alarms, or at most this rate of false alarms
    with the highest recall.

    Raises
    ------
    ModelError : too few validation rows to tell, or no threshold does it
    """
    own, other = ("unsafe", "others") if aim == "recall" else ("others", "unsafe")
    needed = math.ceil(1 / min(wanted, 1 - wanted) - ROUNDING)
    for name, least in ((own, needed), (other, 1)):
        if curve[name] < least:
            what = (
                f"{curve[name]} validation rows that are {'unsafe' if name == 'unsafe' else 'not unsafe'} are too few"
            )
            raise ModelError(
                where, f"{what} for {aim}={wanted:g}, which needs {least}", "ask for less, or fit on more rows"
            )
    points = [Point(*point) for point in curve["points"]]
    if aim == "recall":
        points = [point for point in points if point.found >= wanted * curve["unsafe"] - ROUNDING][:1]
        why = "is reached only by an alarm about every message"
    else:
        points = [point for point in points if point.false <= wanted * curve["others"] + ROUNDING and point.found][-1:]
        why = "finds none of the unsafe validation rows"
    if not points:
        raise ModelError(where, f"{aim}={wanted:g} {why}", "ask for less, or use a better model")
    return points[0]


def rates(curve: dict, point: Point) -> list[str]:
    """Recall and false-alarm rate of a threshold on validation rows, each with its interval and of how many rows."""
    parts = ((point.found, "unsafe", "unsafe_groups"), (point.false, "others", "other_groups"))
    return [
        f"{with_interval(count / curve[rows], *wilson(count / curve[rows], curve[groups]), '.2f')} of {curve[rows]}"
        for count, rows, groups in parts
    ]


def in_words(curve: dict, point: Point) -> str:
    """What a threshold did on validation rows."""
    found, false = rates(curve, point)
    return (
        f"An alarm is raised where P(unsafe) is {point.threshold:.4f} or more: on the model's validation rows this found "
        f"{found} unsafe messages, and alarmed about {false} others."
    )
