"""Messages in bf16, close calls once more in fp32: the labels of fp32 in little more than the time of bf16.

A processor with bf16 instructions multiplies twice as many numbers at once, but the logits then move by some
hundredths. That can change a label only where a row lies as close to a decision boundary as that. How far logits move is
measured on validation rows when a model is exported; rows that lie within twice that distance are scored again. Labels
are thus those of fp32 unless a row moves more than twice as far as every validation row did. Probabilities of rows that
were not scored again are bf16's.
"""

import copy

import numpy as np

from emosafe_lib.models.batching import Encoded

SAFETY_FACTOR = 2.0
MEASURED_ROWS = 256


def in_bf16(network):
    """A copy of a network with bf16 weights; buffers, such as a LLaMA's rotary frequencies, keep their precision."""
    import torch

    rough = copy.deepcopy(network)
    for weight in rough.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return rough


def shifts(exact: np.ndarray, rough: np.ndarray, task: str) -> np.ndarray:
    """How far rounding moved each row towards or away from a boundary, in logits, (n,); both in (n, labels).

    The levels are told apart by differences of logits, the categories by each logit alone.
    """
    moved = rough - exact
    return np.ptp(moved, axis=1) if task == "safety" else np.abs(moved).max(axis=1)


def margins(logits: np.ndarray, thresholds: list[float] | None) -> np.ndarray:
    """Distance of each row to the nearest decision boundary, in logits, (n,).

    Without thresholds, from the largest logit to the second; else from each logit to that of its label's threshold.
    """
    if thresholds is None:
        return np.diff(np.partition(logits, -2, axis=1)[:, -2:], axis=1)[:, 0]
    with np.errstate(divide="ignore"):
        limits = np.log(thresholds) - np.log1p(-np.array(thresholds))
    return np.abs(logits - limits).min(axis=1)


def alarm_margins(logits: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """Distance of each row to an alarm's beginning, in logits of the three levels, (n,).

    The log-odds of the last level move no further than differences of logits do, divided by the temperature.
    """
    scaled = logits / temperature
    rest = np.logaddexp.reduce(scaled[:, :-1], axis=1)
    with np.errstate(divide="ignore"):
        limit = np.log(threshold) - np.log1p(-threshold)
    return temperature * np.abs(scaled[:, -1] - rest - limit)


def rescored(rough: np.ndarray, close: np.ndarray, encoded: Encoded, score) -> np.ndarray:
    """`rough` logits with those of the `close` rows, a mask (n,), replaced by what `score` makes of their tokens."""
    rows = np.flatnonzero(close)
    if len(rows):
        chosen = Encoded([encoded.ids[row] for row in rows], encoded.truncated[rows])
        rough = rough.copy()
        rough[rows] = score(chosen)
    return rough
