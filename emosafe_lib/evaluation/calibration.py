"""How far a probability may be believed, and where to cut it: thresholds, temperature, reliability.

All of it is fitted on validation rows and applied to test rows; nothing here looks at a test label to choose a number.
"""

import numpy as np

from emosafe_lib.study.errors import PredictionError

DEFAULT_THRESHOLD = 0.5
SMALLEST_LOG_PROBABILITY = -50.0
TEMPERATURE_RANGE = (0.05, 20.0)
CALIBRATION_BINS = 15


def fit_thresholds(probabilities, labels, known) -> np.ndarray:
    """Decision thresholds that give each category its best F1 on validation rows.

    Parameters
    ----------
    probabilities : array (n, 6) in [0, 1]
    labels : bool array (n, 6)
    known : bool array (n, 6); cells that are false are left out

    Returns
    -------
    array (6,); `DEFAULT_THRESHOLD` for a category without a known positive. A threshold lies half-way between the two
    scores that it separates, so that it does not hang on a single row's rounding.

    Raises
    ------
    PredictionError : the shapes differ or a known cell is not finite
    """
    probabilities, labels, known = np.asarray(probabilities, float), np.asarray(labels, bool), np.asarray(known, bool)
    if not probabilities.shape == labels.shape == known.shape:
        shapes = f"{probabilities.shape}, {labels.shape}, {known.shape}"
        raise PredictionError("fit_thresholds", f"shapes differ: {shapes}", "pass the same validation rows three times")
    if not np.isfinite(probabilities[known]).all():
        raise PredictionError("fit_thresholds", "probabilities that are not finite", "score the rows again")
    columns = range(probabilities.shape[1])
    return np.array([best_threshold(probabilities[known[:, c], c], labels[known[:, c], c]) for c in columns])


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of one category: argmax of F1 over the precision-recall curve, the highest one on ties."""
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return DEFAULT_THRESHOLD
    precision, recall, cuts = precision_recall_curve(truth, scores)
    total = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], total, out=np.zeros_like(total), where=total > 0)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    below = cuts[best - 1] if best > 0 else max(0.0, 2 * cuts[best] - 1.0)
    middle = (cuts[best] + below) / 2
    return float(middle if middle > below else cuts[best])


def fit_temperature(log_probabilities, labels) -> float:
    """The temperature that makes validation labels most likely (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Parameters
    ----------
    log_probabilities : array (n, k), log-probabilities or logits of k classes
    labels : int array (n,) with values 0..k-1

    Returns
    -------
    a number within `TEMPERATURE_RANGE`; above 1 the scores were too sure of themselves. 1.0 where there are no rows.

    Raises
    ------
    PredictionError : lengths differ or a score is NaN
    """
    from scipy.optimize import minimize_scalar

    scores, labels = np.asarray(log_probabilities, float), np.asarray(labels, int)
    if len(scores) != len(labels) or np.isnan(scores).any():
        raise PredictionError("fit_temperature", "scores are NaN or not as many as labels", "score the rows again")
    if not len(labels):
        return 1.0

    def loss(log_temperature: float) -> float:
        return -np.log(apply_temperature(scores, np.exp(log_temperature))[np.arange(len(labels)), labels]).mean()

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURE_RANGE), method="bounded").x))


def apply_temperature(log_probabilities, temperature: float) -> np.ndarray:
    """Probabilities (n, k) that sum to 1, from log-probabilities or logits (n, k) divided by the temperature."""
    scores = np.asarray(log_probabilities, float)
    centred = np.maximum(scores - scores.max(axis=1, keepdims=True), SMALLEST_LOG_PROBABILITY)
    shares = np.exp(centred / temperature)  # no scipy, which a small environment lacks
    return shares / shares.sum(axis=1, keepdims=True)


def confidence_and_outcome(probabilities, labels, known=None) -> tuple[np.ndarray, np.ndarray]:
    """What was claimed and what came true, two flat arrays: top class for `labels` (n,), single cells for (n, k)."""
    probabilities, labels = np.asarray(probabilities, float), np.asarray(labels)
    if labels.ndim == 1:
        return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    cells = np.ones(labels.shape, bool) if known is None else np.asarray(known, bool)
    return probabilities[cells], labels.astype(bool)[cells]


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The equal-width bin of each confidence, (n,)."""
    return np.clip((confidence * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, ...]:
    """Per equal-width bin: how many, the sum of confidence, the sum of outcomes; three arrays (bins,)."""
    weights = (None, confidence, np.asarray(correct, float))
    index = bin_of(confidence)
    return tuple(np.bincount(index, weights=weight, minlength=CALIBRATION_BINS).astype(float) for weight in weights)
