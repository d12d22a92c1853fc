"""From log-probabilities to predictions: calibration on validation rows, content-free bias, the table of answers.

What a model finds likely and what it should be taken to answer are two things; this module stands between them.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logit

from emosafe_lib.evaluation import bootstrap, metrics, predictions
from emosafe_lib.evaluation.calibration import (
    apply_temperature,
    calibration_bins,
    confidence_and_outcome,
    fit_temperature,
    fit_thresholds,
)
from emosafe_lib.models import close_calls
from emosafe_lib.prompting import wordings
from emosafe_lib.prompting.scoring import Asked, Scores, score_rows
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.rows import category_matrix, known_matrix
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, USABLE_OUTCOMES

MEASURED_ROWS = 32  # by which it is measured how far bf16 moves scores
# The share of close calls up to which bf16 first is cheaper: SmolLM2 reads a message in 0.37 of fp32's seconds with AMX.
MOST_CLOSE = 0.6


@dataclass(frozen=True)
class Calibration:
    """What turns log-probabilities into probabilities and labels, fitted on validation rows only.

    Attributes
    ----------
    bias : array (questions, answers), subtracted; the answer to content-free inputs, or zeros
    temperature : the sharpness is divided by it
    thresholds : array (6,) for categories, None for safety
    contextual : whether the content-free answer made validation labels likelier and is therefore used
    """

    bias: np.ndarray
    temperature: float
    thresholds: np.ndarray | None
    contextual: bool


def content_free_bias(backend, asked: Asked) -> np.ndarray:
    """Mean normalised log-probabilities (questions, answers) of inputs without content (Zhao et al. 2021); even ones
    where none of them was answered.
    """
    scores, outcomes = backend.score(asked.question, list(wordings.CONTENT_FREE))
    answered = np.isin(outcomes, USABLE_OUTCOMES)
    scores = scores[answered] if answered.any() else np.zeros_like(scores)
    return np.log(np.exp(log_softmax(scores, axis=-1)).mean(axis=0))


def probabilities_of(log_probabilities, task: str, bias=0.0, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities (n, questions, answers) as probabilities: (n, 3) for safety, P(yes) (n, 6) for categories."""
    scores = np.asarray(log_probabilities) - bias
    flat = apply_temperature(scores.reshape(-1, scores.shape[-1]), temperature).reshape(scores.shape)
    return flat[:, 0] if task == "safety" else flat[:, :, 0]


def answers_of(rows: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The right answer of each question (n, questions) as a number, and which of them are known."""
    if task == "safety":
        right = rows["safety"].map(SAFETY_LEVELS.index).to_numpy()[:, None]
        return right, np.ones_like(right, dtype=bool)
    return 1 - category_matrix(rows).astype(int), known_matrix(rows)


def calibrate(scores: Scores, rows: pd.DataFrame, bias: np.ndarray) -> Calibration:
    """Fit bias, temperature and thresholds on validation rows.

    Raises
    ------
    PredictionError : the rows are not the scored ones, or not all from validation
    """
    if scores.ids != rows["id"].to_list() or (rows["split"] != "validation").any():
        raise PredictionError("calibrate", "needs the scores of validation rows", "pass rows.take(rows, 'validation')")
    task, usable = scores.asked.task, np.isin(scores.outcomes, USABLE_OUTCOMES)
    right, known = answers_of(rows, task)
    known = known & usable[:, None]
    fits = []
    for contextual in (False, True):
        shift = bias if contextual else np.zeros_like(bias)
        logits = (scores.log_probabilities - shift)[known]
        temperature = fit_temperature(logits, right[known])
        likely = apply_temperature(logits, temperature)[np.arange(known.sum()), right[known]]
        fits.append((-np.log(np.maximum(likely, 1e-12)).sum(), contextual, shift, temperature))
    _, contextual, shift, temperature = min(fits, key=lambda fit: fit[:2])
    thresholds = None
    if task == "categories":
        chances = probabilities_of(scores.log_probabilities, task, shift, temperature)
        thresholds = fit_thresholds(chances, category_matrix(rows), known)
    return Calibration(shift, temperature, thresholds, contextual)


def margins(log_probabilities: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Distance of each question's scores to the nearest decision, (n, questions): from the likeliest answer to the second,
    or from yes and no to the category's threshold; in log-probability.
    """
    scores = log_probabilities - calibration.bias
    if calibration.thresholds is None:
        return np.diff(np.partition(scores, -2, axis=2)[:, :, -2:], axis=2)[:, :, 0]
    limits = calibration.temperature * logit(np.clip(calibration.thresholds, 1e-12, 1 - 1e-12))
    return np.abs(scores[:, :, 0] - scores[:, :, 1] - limits)


def of_test(
    backend, on_validation: Scores, calibration: Calibration, validation: pd.DataFrame, test: pd.DataFrame, folder=None
) -> Scores:
    """The scores of test rows, with the labels of fp32, in whichever way is cheaper on a CPU with fast bf16: all rows in
    bf16 and the close calls again, or all in fp32 at once where nearly all calls are close on validation rows.

    Parameters
    ----------
    folder : where finished shards are kept, see `scoring.score_rows`
    """
    asked, exact = on_validation.asked, getattr(backend, "exact", None)
    if exact is None or close_calls_on(exact, on_validation, calibration, validation)[0].mean() <= MOST_CLOSE:
        return settled(backend, score_rows(backend, asked, test, folder), calibration, test)
    scores = score_rows(exact, asked, test, folder)
    return replace(scores, facts=scores.facts | {"rows_in_fp32": len(test)})


def close_calls_on(exact, scores: Scores, calibration: Calibration, rows: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """Which rows, scored in bf16, might have other labels in fp32, found by scoring some of them with `exact` as well.

    Returns
    -------
    close : bool (n,), the rows that lie within `close_calls.SAFETY_FACTOR` times `moved` of a decision
    measured : bool (n,), the rows by which it was measured how far bf16 moves scores
    moved : how far it moved them at most, by question, (questions,)
    values : log-probabilities (n, questions, answers), those of `measured` rows in fp32
    """
    values, measured = scores.log_probabilities.copy(), np.zeros(len(rows), dtype=bool)
    measured[np.linspace(0, len(rows) - 1, min(MEASURED_ROWS, len(rows))).astype(int)] = True
    values[measured] = exact.score(scores.asked.question, rows["text"][measured].to_list())[0]
    moved = np.ptp(values[measured] - scores.log_probabilities[measured], axis=2).max(axis=0)
    close = margins(scores.log_probabilities, calibration) <= close_calls.SAFETY_FACTOR * moved
    return close.any(axis=1), measured, moved, values


def settled(backend, scores: Scores, calibration: Calibration, rows: pd.DataFrame) -> Scores:
    """The scores of `rows` with close calls made once more in fp32, where a CPU scored in bf16; else as they are.

    Labels are those of fp32 unless a row moved more than `close_calls.SAFETY_FACTOR` times as far as every measured one.
    """
    exact = getattr(backend, "exact", None)
    if exact is None or not len(rows):
        return scores
    start = time.perf_counter()
    close, measured, moved, values = close_calls_on(exact, scores, calibration, rows)
    again = close & ~measured
    if again.any():
        values[again] = exact.score(scores.asked.question, rows["text"][again].to_list())[0]
    facts = {"rows_in_fp32": int((again | measured).sum()), "moved": float(moved.max())}
    seconds = scores.facts["seconds"] + time.perf_counter() - start
    return replace(scores, log_probabilities=values, facts=scores.facts | facts | {"seconds": seconds})


def calibrated(scores: Scores, calibration: Calibration) -> np.ndarray:
    """Calibrated probabilities, (n, 3) or (n, 6)."""
    task = scores.asked.task
    return probabilities_of(scores.log_probabilities, task, calibration.bias, calibration.temperature)


def predictions_of(scores: Scores, calibration: Calibration) -> pd.DataFrame:
    """Calibrated test rows in the common schema."""
    asked, probabilities = scores.asked, calibrated(scores, calibration)
    how = {"variant": asked.variant, "seed": asked.seed, "thresholds": calibration.thresholds}
    return predictions.make(scores.ids, asked.task, asked.setting, probabilities, **how, outcomes=scores.outcomes)


def chances(backend, asked: Asked, calibration: Calibration, texts: list[str]) -> np.ndarray:
    """Calibrated probabilities of texts that belong to no row, such as attacks; NaN for those without an answer."""
    values, outcomes = backend.score(asked.question, texts)
    found = probabilities_of(values, asked.task, calibration.bias, calibration.temperature)
    found[~np.isin(outcomes, USABLE_OUTCOMES)] = np.nan
    return found


def reliability(probabilities: np.ndarray, rows: pd.DataFrame, task: str, outcomes=None) -> pd.DataFrame:
    """Points of a reliability diagram: per bin of confidence its mean, how often it was right, and its count.

    Rows without a usable outcome are left out and the bins are the calibration error's, so that the diagram and the
    number beside it (`scores_by_wording`) tell the same.
    """
    usable = np.ones(len(rows), dtype=bool) if outcomes is None else np.isin(outcomes, USABLE_OUTCOMES)
    probabilities, rows = probabilities[usable], rows[usable]
    if task == "safety":
        labels, known = answers_of(rows, task)[0][:, 0], None
    else:
        labels, known = category_matrix(rows), known_matrix(rows)
    confidence, correct = confidence_and_outcome(probabilities, labels, known)
    counts, sums, hits = calibration_bins(confidence, correct)
    full = counts > 0
    return pd.DataFrame(
        {
            "confidence": sums[full] / counts[full],
            "accuracy": hits[full] / counts[full],
            "rows": counts[full].astype(int),
        }
    )


def scores_by_wording(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The main scores of each (task, setting, variant, seed) in a prediction table, unknown cells left out.

    Columns macro_f1, macro_auprc (categories only), calibration_error and coverage; notebook 05 adds the intervals.
    """
    found = []
    for key, part in table.groupby(["task", "setting", "variant", "seed"], sort=False):
        truth = metrics.truth_of(rows.set_index("id", drop=False).loc[part["id"]])
        answers = metrics.align(part, truth)
        values = bootstrap.scores(truth, answers)
        row = dict(zip(("task", "setting", "variant", "seed"), key, strict=True))
        row |= {name: values.get((name, "")) for name in ("macro_f1", "macro_auprc", "calibration_error")}
        found.append(row | {"coverage": answers.coverage})
    return pd.DataFrame(found)
