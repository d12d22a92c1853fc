"""Every score of a run once more, by scikit-learn and row by row: what the counts of `bootstrap` are held against.

`benchmarks/analysis.py` takes the first of both functions as its peer. Alarms and abstentions are not here;
tests/evaluation/test_use.py holds those.
"""

import numpy as np
from sklearn.metrics import accuracy_score, average_precision_score, cohen_kappa_score, f1_score, recall_score

from emosafe_lib.evaluation import metrics
from emosafe_lib.evaluation.calibration import CALIBRATION_BINS
from emosafe_lib.evaluation.metrics import COSTS, UNDEFINED, WORST_ANSWER, Answers, Truth
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS


def scores_by_scikit_learn(truth: Truth, answers: Answers, costs=COSTS) -> dict[tuple[str, str], float]:
    """What `bootstrap.scores` returns, but for alarms, abstentions and scores within sources."""
    asked = truth.at(answers.rows)
    if answers.task == "safety":
        return safety_scores(asked, answers, np.asarray(costs))
    return category_scores(asked, answers)


def within_sources_by_scikit_learn(truth: Truth, answers: Answers) -> dict[tuple[str, str], float]:
    """Macro-F1 of each source that can be judged, and its average over sources."""
    asked = truth.at(answers.rows)
    found = {("source_macro_f1", name): source_score(asked, answers, name) for name in set(asked.source)}
    found = {key: value for key, value in found.items() if not np.isnan(value)}
    return found | {("within_source_macro_f1", ""): mean_or_undefined(list(found.values()))}


def safety_scores(truth: Truth, answers: Answers, costs: np.ndarray) -> dict[tuple[str, str], float]:
    """The trinary task's scores; no answer counts against F1 as a miss and elsewhere as the farthest answer."""
    real, chosen, levels = truth.safety, answers.chosen, list(range(len(SAFETY_LEVELS)))
    answered = np.where(chosen < 0, WORST_ANSWER[real], chosen)
    f1 = f1_score(real, chosen, labels=levels, average=None, zero_division=np.nan)
    found = {("macro_f1", ""): mean_defined(f1)}
    found |= {("f1", name): float(value) for name, value in zip(SAFETY_LEVELS, f1, strict=True)}
    found["accuracy", ""] = float(accuracy_score(real, chosen))
    found["quadratic_kappa", ""] = quadratic_kappa(real, answered)
    found["macro_mae", ""] = mean_defined([mean_or_undefined(np.abs(answered - real)[real == k]) for k in levels])
    found["unsafe_recall", ""] = float(recall_score(real, chosen, labels=[2], average=None, zero_division=np.nan)[0])
    found["unsafe_called_safe", ""] = mean_or_undefined(answered[real == 2] == 0)
    found["cost", ""] = float(costs[real, answered].mean())
    usable = answers.usable
    found["calibration_error", ""] = calibration_error(answers.probabilities[usable], real[usable])
    return found


def category_scores(truth: Truth, answers: Answers) -> dict[tuple[str, str], float]:
    """The multi-label task's scores over known cells; a row without a usable outcome has every known cell wrong."""
    real, known = truth.categories, truth.known
    chosen, ranks = metrics.penalised(truth, answers)
    columns = range(len(CATEGORIES))
    f1 = [
        f1_score(real[known[:, c], c], chosen[known[:, c], c], zero_division=np.nan) if known[:, c].any() else UNDEFINED
        for c in columns
    ]
    auprc = [average_precision(real[known[:, c], c], ranks[known[:, c], c]) for c in columns]
    found = {("macro_f1", ""): mean_defined(f1), ("macro_auprc", ""): mean_defined(auprc)}
    found |= {("f1", name): float(value) for name, value in zip(CATEGORIES, f1, strict=True)}
    found |= {("auprc", name): float(value) for name, value in zip(CATEGORIES, auprc, strict=True)}
    accuracy = [mean_or_undefined((chosen == real)[known[:, c], c]) for c in columns]
    # Undefined as soon as one part is: a rare category has a high accuracy, so a mean over others is another number.
    found["accuracy", ""] = float(np.mean(accuracy))
    found |= {("accuracy", name): value for name, value in zip(CATEGORIES, accuracy, strict=True)}
    micro = f1_score(real[known], chosen[known], zero_division=np.nan) if known.any() else UNDEFINED
    found["micro_f1", ""] = float(micro)
    asked = known.any(axis=1)
    found["subset_accuracy", ""] = mean_or_undefined(((chosen == real) | ~known).all(axis=1)[asked])
    found["ranking_ap", ""] = ranking_ap(real, ranks, known)
    cells = known & answers.usable[:, None]
    found["calibration_error", ""] = calibration_error(answers.probabilities, real, cells)
    return found


def mean_or_undefined(values) -> float:
    """The mean, NaN of nothing, without a warning."""
    values = np.asarray(values, float)
    return float(values.mean()) if values.size else UNDEFINED


def mean_defined(values) -> float:
    """The mean of what is defined, NaN if nothing is: scikit-learn's macro average with `zero_division=nan`."""
    values = np.asarray(values, float)
    return mean_or_undefined(values[~np.isnan(values)])


def quadratic_kappa(real: np.ndarray, answered: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights over the three levels; NaN where both sides are the same constant."""
    if len(set(real.tolist()) | set(answered.tolist())) < 2:
        return UNDEFINED
    return float(cohen_kappa_score(real, answered, labels=list(range(len(SAFETY_LEVELS))), weights="quadratic"))


def average_precision(real: np.ndarray, ranks: np.ndarray) -> float:
    """Area under the precision-recall curve by average precision; NaN unless there are positives and negatives."""
    return float(average_precision_score(real, ranks)) if 0 < real.sum() < len(real) else UNDEFINED


def ranking_ap(real: np.ndarray, ranks: np.ndarray, known: np.ndarray) -> float:
    """Label-ranking average precision over rows with a known positive and a known negative.

    An unknown category ranks below all known ones, so that it never stands above a positive.
    """
    rows = (real & known).any(axis=1) & (~real & known).any(axis=1)
    return mean_or_undefined(metrics.row_ranking_ap((real & known)[rows], np.where(known, ranks, -1.0)[rows]))


def source_score(truth: Truth, answers: Answers, source: str) -> float:
    """Macro-F1 over the levels or categories that one source can be judged by; NaN where it cannot."""
    here = truth.source == source
    labels = metrics.judged_labels(truth.at(here), answers.task)
    if not labels:
        return UNDEFINED
    if answers.task == "safety":
        real, chosen = truth.safety[here], answers.chosen[here]
        return mean_defined(f1_score(real, chosen, labels=labels, average=None, zero_division=np.nan))
    real, known, chosen = (part[here] for part in (truth.categories, truth.known, metrics.penalised(truth, answers)[0]))
    return mean_defined([f1_score(real[known[:, c], c], chosen[known[:, c], c]) for c in labels])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, cells: np.ndarray | None = None) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, equation 3), of the cells that count."""
    if labels.ndim == 1:
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    else:
        confidence, correct = probabilities[cells], labels[cells]
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs((confidence[bins == b] - correct[bins == b]).sum()) for b in range(CALIBRATION_BINS)]
    return sum(gaps) / len(confidence) if len(confidence) else UNDEFINED
