"""One binary reading of a run at every threshold at once, for many weightings of the rows.

A service does not act on macro-F1: it raises an alarm, or leaves a message to a person, from some score on. Where that
threshold stands is a choice, so the scores here look at all of them. Two readings of the three levels are usual
(Qwen3Guard, arXiv 2510.14276): the strict one counts borderline as unsafe, the loose one as safe.
"""

import numpy as np

from emosafe_lib.evaluation.metrics import UNDEFINED, Answers, Truth, ratio

READINGS = {"strict": 1, "loose": 2}  # the lowest level that counts as unsafe
RECALLS = (0.9, 0.95)
ALARM_SHARE = 0.1
ROUNDING = 1e-3  # counts are whole numbers


class Alarms:
    """Rows in falling order of their scores, those with equal scores as one step.

    Parameters
    ----------
    real, scores, codes : (m,) what is to be found, the score, and the group of each row
    groups : G, how many groups there are in all
    """

    def __init__(self, real: np.ndarray, scores: np.ndarray, codes: np.ndarray, groups: int):
        from scipy.sparse import csr_array

        steps, step = np.unique(-scores, return_inverse=True)
        ones, shape = np.ones(len(scores), np.float32), (len(steps), groups)
        self.real = csr_array((ones[real], (step[real], codes[real])), shape=shape)
        self.rest = csr_array((ones[~real], (step[~real], codes[~real])), shape=shape)

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Found and false alarms (S + 1, r) from no alarm at all to alarm everywhere, for weights (G, r)."""
        return tuple(cumulated(part @ weights) for part in (self.real, self.rest))


def cumulated(parts: np.ndarray) -> np.ndarray:
    """Sums (S + 1, r) of the first 0 to S rows of `parts` (S, r)."""
    sums = np.zeros((len(parts) + 1, parts.shape[1]), parts.dtype)
    np.cumsum(parts, axis=0, out=sums[1:])
    return sums


def auroc(found: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (r,); NaN where a resample lacks one side."""
    area = np.einsum("sr,sr->r", np.diff(false, axis=0), found[1:] + found[:-1], dtype=float) / 2
    return ratio(area, found[-1].astype(float) * false[-1])


def average_precision(found: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve by average precision (r,); NaN where a resample lacks one side."""
    precision = found[1:] / np.maximum(found[1:] + false[1:], 1)
    return ratio((np.diff(found, axis=0) * precision).sum(axis=0), np.where(false[-1] > 0, found[-1], 0))


def reached(sums: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """The first row (r,) of rising sums (S, r) that is no longer below a limit (r,)."""
    return np.minimum(np.count_nonzero(sums < limit - ROUNDING, axis=0), len(sums) - 1)


def false_alarm_rate(found: np.ndarray, false: np.ndarray, recall: float) -> np.ndarray:
    """The false-positive rate (r,) at the highest threshold that finds this share of what is to be found."""
    first = reached(found, recall * found[-1])
    return ratio(np.where(found[-1] > 0, false[first, np.arange(false.shape[1])], UNDEFINED), false[-1])


def found_by(found: np.ndarray, false: np.ndarray, share: float) -> np.ndarray:
    """How many are found (r,) where so large a share of all rows is looked at, highest scores first.

    Where the limit falls among rows of equal score, some of them are taken by chance: the count that is expected.
    """
    looked, columns = found + false, np.arange(found.shape[1])
    limit = share * looked[-1]
    after = reached(looked, limit)
    before = np.maximum(after - 1, 0)
    low, high = looked[before, columns], looked[after, columns]
    part = np.nan_to_num(ratio(limit - low, high - low))
    return found[before, columns] + part * (found[after, columns] - found[before, columns])


def area_under_risk(wrong: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Area under the risk-coverage curve (r,): the error among the rows answered, averaged over all coverages.

    Rows are answered from the most to the least confident (Geifman & El-Yaniv 2017, arXiv 1705.08500).
    """
    answered = wrong + right
    risk = wrong[1:] / np.maximum(answered[1:], 1)
    return ratio(np.einsum("sr,sr->r", np.diff(answered, axis=0), risk, dtype=float), answered[-1])


def unsafe_scores(answers: Answers, real: np.ndarray, lowest: int) -> np.ndarray:
    """The probability of what counts as unsafe, (m,); a row without an answer stands where it does most harm."""
    scores = answers.probabilities[:, lowest:].sum(axis=1)
    return np.where(answers.usable, scores, np.where(real, -1.0, 2.0))


def alarms_of(truth: Truth, answers: Answers, codes: np.ndarray, groups: int, lowest: int) -> Alarms:
    """The alarms of a run on the rows that it answered; `truth` holds those rows."""
    real = truth.safety >= lowest
    return Alarms(real, unsafe_scores(answers, real, lowest), codes, groups)


def abstentions_of(truth: Truth, answers: Answers, codes: np.ndarray, groups: int) -> Alarms:
    """Mistakes (`real`) among the rows in falling order of confidence; a row without an answer is left out first."""
    return Alarms(answers.chosen != truth.safety, answers.probabilities.max(axis=1), codes, groups)


OPERATING = ("auroc", *(f"false_alarms_at_recall_{level * 100:.0f}" for level in RECALLS), "precision_at_alarms_10")


def operating_points(alarms: Alarms, weights: np.ndarray) -> list[np.ndarray]:
    """The scores named in `OPERATING`, (r,) each."""
    found, false = alarms.counts(weights)
    rates = [false_alarm_rate(found, false, level) for level in RECALLS]
    total = found[-1] + false[-1]
    return [auroc(found, false), *rates, ratio(found_by(found, false, ALARM_SHARE), ALARM_SHARE * total)]


def called_unsafe(confusion: np.ndarray, lowest: int) -> list[np.ndarray]:
    """Recall and false-alarm rate (r,) of the labels as they are, from confusion counts (r, 3, 3)."""
    real, rest = confusion[:, lowest:], confusion[:, :lowest]
    return [ratio(part[:, :, lowest:].sum(axis=(1, 2)), part.sum(axis=(1, 2))) for part in (real, rest)]
