"""How sure a score is: a bootstrap over groups of related rows. `paired_tests` holds two runs against each other.

Rows that belong together (one dialogue, one user, one near-duplicate family) are not independent, so whole groups are
drawn. A resample is a vector of group counts, and nearly every score is a function of sums over groups (a confusion
matrix, above all), so ten thousand resamples are one matrix product. Only the average precision needs the order of the
scores; it is cumulated for all resamples at once. The score itself is what every group drawn once gives, and a test
holds it against scikit-learn's. Sampling is one source of doubt, the seed and the wording of the prompt are others: they
are reported as spreads of their own and never mixed into a sampling interval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from emosafe_lib.evaluation import alarms, metrics
from emosafe_lib.evaluation.calibration import CALIBRATION_BINS, bin_of, confidence_and_outcome
from emosafe_lib.evaluation.metrics import COSTS, UNDEFINED, WORST_ANSWER, Answers, Truth, ratio
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

CHUNK = 200  # resamples at a time: what is cumulated for them stays in a processor's cache
# An interval is undefined where the score itself is undefined in more than this share of the resamples.
UNDEFINED_SHARE = 0.05


@dataclass(frozen=True)
class Measure:
    """A run's scores as a function of group weights.

    Attributes
    ----------
    names : K pairs (metric, category)
    evaluate : weights (r, G) -> scores (r, K), NaN where undefined
    """

    names: list[tuple[str, str]]
    evaluate: Callable[[np.ndarray], np.ndarray]

    def values(self, groups: int) -> dict[tuple[str, str], float]:
        """The scores of the rows as they are, each of the G groups once."""
        return dict(zip(self.names, self.evaluate(np.ones((1, groups)))[0].tolist(), strict=True))


def scores(truth: Truth, answers: Answers, costs=COSTS) -> dict[tuple[str, str], float]:
    """Every score of a run: (metric, category, level, reading or source) -> value, NaN where undefined.

    Parameters
    ----------
    truth : all rows, of which `answers` picks those that were asked
    costs : (3, 3), what a mistake costs, rows by truth and columns by answer
    """
    build = partial(safety_measure, costs=costs) if answers.task == "safety" else category_measure
    return build(truth.at(answers.rows), answers, np.zeros(len(answers.rows), int), 1).values(1)


class Bootstrap:
    """Resamples of groups, the same ones for every run, so that differences between runs are paired.

    Parameters
    ----------
    groups : (n,) the group of every row that may be asked
    resamples : how many
    seed : of the random numbers; the same seed gives the same resamples on every machine
    """

    def __init__(self, groups, resamples: int = 2000, seed: int = 0):
        names, self.codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.groups, self.resamples = len(names), resamples
        random = np.random.default_rng(seed)
        self.counts = np.empty((resamples, self.groups), np.uint8)
        for number in range(resamples):
            self.counts[number] = np.bincount(random.integers(0, self.groups, self.groups), minlength=self.groups)

    def draws(self, measure: Measure) -> np.ndarray:
        """The measure on every resample, float32 array (resamples, K); undefined where all rows are of one group.

        Every resample would then be the rows themselves, and an interval without width would look like certainty.
        """
        if self.groups < 2:
            return np.full((self.resamples, len(measure.names)), UNDEFINED, np.float32)
        starts = range(0, self.resamples, CHUNK)
        parts = [measure.evaluate(self.counts[start : start + CHUNK].astype(np.float32)) for start in starts]
        return np.concatenate(parts).astype(np.float32)

    def measure(self, truth: Truth, answers: Answers, build: Callable | None = None) -> Measure:
        """All scores of a run, or those that `build` makes, as a function of weights on this bootstrap's groups."""
        asked, codes = truth.at(answers.rows), self.codes[answers.rows]
        build = build or (safety_measure if answers.task == "safety" else category_measure)
        return build(asked, answers, codes, self.groups)


def by_group(values: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """Sums (G, k) of per-row values (n, k) over the rows of each group."""
    sums = np.zeros((groups, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums


def safety_measure(truth: Truth, answers: Answers, codes: np.ndarray, groups: int, costs=COSTS) -> Measure:
    """The trinary task: everything follows from confusion counts (3 levels by 3 answers and none).

    No answer counts against F1, accuracy and recall as a miss, and elsewhere as the farthest answer.
    """
    cells = np.eye(12)[truth.safety * 4 + np.where(answers.chosen < 0, 3, answers.chosen)]
    usable = answers.usable[:, None]
    claims = confidence_and_outcome(answers.probabilities, truth.safety)
    sums = by_group(np.hstack([cells, calibration_columns(*claims) * usable, usable]), codes, groups)
    inside = source_parts(truth, answers, codes, cells)
    names = [("macro_f1", ""), *(("f1", name) for name in SAFETY_LEVELS), ("accuracy", ""), ("quadratic_kappa", "")]
    names += [("macro_mae", ""), ("unsafe_recall", ""), ("unsafe_called_safe", ""), ("cost", "")]
    names += [("calibration_error", ""), ("area_under_risk", ""), *within_names(inside)]
    readings = [alarms.alarms_of(truth, answers, codes, groups, lowest) for lowest in alarms.READINGS.values()]
    abstentions = alarms.abstentions_of(truth, answers, codes, groups)
    labelled = ("recall", "false_alarms")
    names += [(name, reading) for reading in alarms.READINGS for name in (*labelled, *alarms.OPERATING)]

    def evaluate(weights: np.ndarray) -> np.ndarray:
        total = weights @ sums
        confusion = total[:, :12].reshape(-1, 3, 4)
        found = [*confusion_scores(confusion, costs), calibration(total[:, 12:-1], total[:, -1])]
        by_resample = np.ascontiguousarray(weights.T)
        found += [alarms.area_under_risk(*abstentions.counts(by_resample)), *within(weights, inside, safety_f1)]
        answered = with_worst_answers(confusion)
        for reading, lowest in zip(readings, alarms.READINGS.values(), strict=True):
            found += alarms.called_unsafe(answered, lowest) + alarms.operating_points(reading, by_resample)
        return np.stack(found, axis=1)

    return Measure(names, evaluate)


def calibration_columns(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """What each answer adds to the calibration error of its bin, (n, bins).

    An answer that claims 0.83 and is wrong adds 0.83 to the bin of 0.8 to 0.9, and nothing to the others; summed over a
    bin, this is how far its mean confidence stands above its accuracy, times the number of answers in it.
    """
    return np.eye(CALIBRATION_BINS)[bin_of(confidence)] * (confidence - correct)[:, None]


def calibration(gaps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Expected calibration error (r,) from summed gaps (r, bins) and the number of cells (r,)."""
    return ratio(np.abs(gaps).sum(axis=1), counts)


def average(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined, NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))


def safety_f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each level, (r, 3), from confusion counts (r, 3, 4); the last column is "no answer"."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return ratio(2 * hits, confusion.sum(axis=2) + confusion[:, :, :3].sum(axis=1))


def with_worst_answers(confusion: np.ndarray) -> np.ndarray:
    """Confusion counts (r, 3, 3) in which no answer is the farthest one, from counts (r, 3, 4)."""
    answered = confusion[:, :, :3].copy()
    answered[:, np.arange(3), WORST_ANSWER] += confusion[:, :, 3]
    return answered


def confusion_scores(confusion: np.ndarray, costs) -> list[np.ndarray]:
    """Scores (r,) from confusion counts (r, 3, 4), in the order of `safety_measure`."""
    f1, answered = safety_f1(confusion), with_worst_answers(confusion)
    total, real, given = confusion.sum(axis=(1, 2)), answered.sum(axis=2), answered.sum(axis=1)
    distance = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    chance = np.einsum("ri,rj,ij->r", real, given, distance**2.0)
    return [
        average(f1),
        *f1.T,
        ratio(np.trace(confusion[:, :, :3], axis1=1, axis2=2), total),
        1 - ratio((answered * distance**2).sum(axis=(1, 2)) * total, chance),
        average(ratio((answered * distance).sum(axis=2), real)),
        ratio(confusion[:, 2, 2], real[:, 2]),
        ratio(answered[:, 2, 0], real[:, 2]),
        ratio((answered * costs).sum(axis=(1, 2)), total),
    ]


def source_parts(truth: Truth, answers: Answers, codes: np.ndarray, cells: np.ndarray) -> list[tuple]:
    """Per source that can be judged: its groups, its sums by group and the labels that count."""
    parts = []
    for name in sorted(set(truth.source)):
        here = truth.source == name
        labels = metrics.judged_labels(truth.at(here), answers.task)
        if labels:
            groups, local = np.unique(codes[here], return_inverse=True)
            parts.append((name, groups, by_group(cells[here], local, len(groups)), labels))
    return parts


def within(weights: np.ndarray, parts: list[tuple], f1: Callable) -> list[np.ndarray]:
    """Macro-F1 averaged over sources, (r,), then that of each source: what is left once the source's name is no help.

    The average is over the levels or categories that a source can be judged by; see `metrics.judged_labels`.
    """
    found = np.full((len(weights), len(parts)), UNDEFINED)
    for number, (_, groups, sums, labels) in enumerate(parts):
        total = weights[:, groups] @ sums
        found[:, number] = average(f1(total.reshape(len(weights), 3, -1))[:, labels])
    return [average(found), *found.T]


def within_names(parts: list[tuple]) -> list[tuple[str, str]]:
    """The names of the columns that `within` returns."""
    return [("within_source_macro_f1", ""), *(("source_macro_f1", part[0]) for part in parts)]


def category_f1(counts: np.ndarray) -> np.ndarray:
    """F1 of each category, (r, 6), from counts (r, 3, 6) of true positives, false positives and false negatives."""
    return ratio(2 * counts[:, 0], 2 * counts[:, 0] + counts[:, 1] + counts[:, 2])


def category_measure(truth: Truth, answers: Answers, codes: np.ndarray, groups: int) -> Measure:
    """The multi-label task: counts per category, row-wise sums, and the average precision by cumulation.

    Known cells alone count; those of a row without a usable outcome are all wrong.
    """
    chosen, ranks = metrics.penalised(truth, answers)
    real, known = truth.categories, truth.known
    cells = np.hstack([real & chosen & known, ~real & chosen & known, real & ~chosen & known]).astype(float)
    sums = by_group(np.hstack([cells, known, row_columns(truth, answers, chosen, ranks)]), codes, groups)
    inside = source_parts(truth, answers, codes, cells)
    rankings = [ranking(real[known[:, c], c], ranks[known[:, c], c], codes[known[:, c]], groups) for c in range(6)]
    names = [("macro_f1", ""), *(("f1", name) for name in CATEGORIES), ("micro_f1", "")]
    names += [("subset_accuracy", ""), ("ranking_ap", ""), ("calibration_error", ""), *within_names(inside)]
    names += [("macro_auprc", ""), *(("auprc", name) for name in CATEGORIES)]
    names += [("accuracy", ""), *(("accuracy", name) for name in CATEGORIES)]

    def evaluate(weights: np.ndarray) -> np.ndarray:
        total = weights @ sums
        counts, asked, rest = total[:, :18].reshape(-1, 3, 6), total[:, 18:24], total[:, 24:]
        f1, micro = category_f1(counts), category_f1(counts.sum(axis=2, keepdims=True))[:, 0]
        shares = [ratio(rest[:, 0], rest[:, 1]), ratio(rest[:, 2], rest[:, 3]), calibration(rest[:, 5:], rest[:, 4])]
        by_resample = np.ascontiguousarray(weights.T)
        auprc = np.stack([alarms.average_precision(*each.counts(by_resample)) for each in rankings], axis=1)
        # Undefined as soon as one part is: a rare category has a high accuracy, so a mean over others is another number.
        accuracy = 1 - ratio(counts[:, 1] + counts[:, 2], asked)
        columns = [average(f1), *f1.T, micro, *shares, *within(weights, inside, category_f1), average(auprc), *auprc.T]
        return np.stack([*columns, accuracy.mean(axis=1), *accuracy.T], axis=1)

    return Measure(names, evaluate)


def row_columns(truth: Truth, answers: Answers, chosen: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """What each row adds to the scores that are taken row by row, (n, 5 + bins).

    Returns
    -------
    columns : 1 if every category that was asked is answered right; 1 if any was asked; the row's ranking average
        precision, and 1 if it has one (it needs a category that applies and one that does not; an unknown one ranks last,
        so that it never stands above one that applies); the number of categories that were asked and answered; then what
        the row adds to each bin's calibration error
    """
    real, known = truth.categories, truth.known
    asked = known.any(axis=1)
    right = ((chosen == real) | ~known).all(axis=1) & asked
    ranked = (real & known).any(axis=1) & (~real & known).any(axis=1)
    usable = known & answers.usable[:, None]
    gaps = np.zeros((len(real), CALIBRATION_BINS))
    for c in range(len(CATEGORIES)):
        gaps += calibration_columns(answers.probabilities[:, c], real[:, c]) * usable[:, [c]]
    share = metrics.row_ranking_ap(real & known, np.where(known, ranks, -1.0))
    return np.column_stack([right, asked, np.where(ranked, share, 0), ranked, usable.sum(axis=1), gaps])


def ranking(real: np.ndarray, scores: np.ndarray, codes: np.ndarray, groups: int) -> alarms.Alarms:
    """One category's rows (m,) in falling order of their scores, in as few steps as the average precision needs.

    Precision is needed only where a positive stands, so the rows between one such place and the next are one step.
    """
    step = np.searchsorted(np.unique(-scores[real]), -scores)
    return alarms.Alarms(real, -step, codes, groups)


def interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap draws (R,); NaN twice where too many draws are undefined."""
    defined = draws[~np.isnan(draws)]
    if len(defined) < (1 - UNDEFINED_SHARE) * len(draws) or not len(defined):
        return UNDEFINED, UNDEFINED
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined.astype(float), [tail, 1 - tail])
    return float(low), float(high)
