"""Scores: defined like scikit-learn's, undefined where there is nothing to score, and never silently misaligned."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import answers_of, made_up_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from emosafe_lib.evaluation import bootstrap, calibration, metrics, predictions
from emosafe_lib.study import csv_files
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

ROWS = made_up_rows()
TEST = take(ROWS, "test", originals_only=True)
TRUTH = metrics.truth_of(TEST)
SAFETY, CATEGORY = answers_of(ROWS, 1.0, setting="zero-shot")


def truth(levels, categories=None, known=None, source="a"):
    n = len(levels)
    return metrics.Truth(
        ids=np.array([f"x{i}" for i in range(n)], object),
        safety=np.array(levels),
        categories=np.zeros((n, 6), bool) if categories is None else np.asarray(categories, bool),
        known=np.ones((n, 6), bool) if known is None else np.asarray(known, bool),
        group=np.array([f"g{i}" for i in range(n)], object),
        source=np.full(n, source, object),
        origin=np.full(n, "human", object),
    )


def answers(task, chosen, probabilities=None, usable=None):
    chosen = np.asarray(chosen)
    width = 3 if task == "safety" else 6
    if probabilities is None:
        probabilities = np.eye(3)[np.maximum(chosen, 0)] if task == "safety" else chosen.astype(float)
    usable = np.ones(len(chosen), bool) if usable is None else np.asarray(usable)
    return metrics.Answers(task, np.arange(len(chosen)), chosen, np.reshape(probabilities, (-1, width)), usable)


def test_59_a_level_that_nobody_predicted_still_counts():
    found = bootstrap.scores(truth([0, 0, 2, 2]), answers("safety", [0, 0, 0, 0]))
    assert found["f1", "unsafe"] == 0
    assert found["macro_f1", ""] == pytest.approx((2 / 3 + 0) / 2)


def test_59_a_predicted_level_that_is_not_in_the_truth_still_counts():
    found = bootstrap.scores(truth([0, 0]), answers("safety", [0, 1]))
    assert found["f1", "borderline"] == 0
    assert found["macro_f1", ""] == pytest.approx((2 / 3 + 0) / 2)


def test_60_the_auprc_of_a_category_without_positives_is_undefined():
    found = bootstrap.scores(truth([0, 1]), answers("categories", np.zeros((2, 6), bool)))
    assert np.isnan(found["auprc", CATEGORIES[0]])
    assert np.isnan(found["macro_auprc", ""]) and np.isnan(found["ranking_ap", ""])


def test_60_the_auprc_of_a_category_without_negatives_is_undefined():
    found = bootstrap.scores(truth([0, 1], np.ones((2, 6))), answers("categories", np.ones((2, 6), bool)))
    assert np.isnan(found["auprc", CATEGORIES[0]]) and found["f1", CATEGORIES[0]] == 1


def test_60_the_kappa_of_two_constants_is_undefined():
    assert np.isnan(bootstrap.scores(truth([1, 1]), answers("safety", [1, 1]))["quadratic_kappa", ""])


def test_60_unsafe_recall_without_unsafe_rows_is_undefined():
    found = bootstrap.scores(truth([0, 1]), answers("safety", [0, 1]))
    assert np.isnan(found["unsafe_recall", ""]) and np.isnan(found["unsafe_called_safe", ""])


def test_60_undefined_is_written_as_a_word_and_read_back_as_nan(tmp_path):
    table = pd.DataFrame({"metric": ["kappa"], "value": [np.nan], "low": [0.1], "high": [1.0]})
    path = csv_files.write_csv(table, tmp_path / "r.csv")
    assert "kappa,undefined,0.1,1" in path.read_text()
    assert np.isnan(csv_files.read_csv(path)["value"][0])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_84_a_cell_that_would_run_as_a_formula_is_disarmed(start, tmp_path):
    table = pd.DataFrame({"model": [start + "HYPERLINK(1)"], "value": [-0.5]})
    path = csv_files.write_csv(table, tmp_path / "r.csv")
    back = pd.read_csv(path)
    assert back["model"][0] == "'" + start + "HYPERLINK(1)"
    assert back["value"][0] == -0.5


def test_no_answer_counts_as_the_farthest_level():
    found = bootstrap.scores(truth([2, 0]), answers("safety", [-1, 0], usable=[False, True]))
    assert found["unsafe_called_safe", ""] == 1
    assert found["unsafe_recall", ""] == 0
    assert found["cost", ""] == metrics.COSTS[2][0] / 2
    assert found["accuracy", ""] == 0.5


def test_no_answer_has_every_known_category_wrong():
    real = [[True, False, False, False, False, False]] * 2
    found = bootstrap.scores(truth([0, 0], real), answers("categories", real, usable=[True, False]))
    assert found["subset_accuracy", ""] == 0.5
    assert found["f1", CATEGORIES[0]] == pytest.approx(2 / 3)
    assert found["f1", CATEGORIES[1]] == 0


def test_a_category_that_was_never_asked_changes_nothing():
    known = np.ones((len(TRUTH), 6), bool)
    known[:, 2] = False
    masked = metrics.Truth(**{**vars(TRUTH), "known": known})
    turned = metrics.Truth(**{**vars(masked), "categories": TRUTH.categories ^ ~known})
    run = metrics.align(CATEGORY, TRUTH)
    assert bootstrap.scores(masked, run) == pytest.approx(bootstrap.scores(turned, run), nan_ok=True)
    assert np.isnan(bootstrap.scores(masked, run)["f1", CATEGORIES[2]])


def test_ranking_ap_is_the_mean_that_scikit_learn_computes():
    from sklearn.metrics import label_ranking_average_precision_score as reference

    random = np.random.default_rng(0)
    real, ranks = random.random((50, 6)) < 0.4, np.round(random.random((50, 6)), 1)
    real[:, 0], real[:, 1] = True, False
    assert metrics.row_ranking_ap(real, ranks).mean() == pytest.approx(reference(real, ranks), abs=1e-12)


def test_the_order_of_rows_does_not_matter():
    shuffled = metrics.align(SAFETY.sample(frac=1, random_state=3), TRUTH)
    assert bootstrap.scores(TRUTH, shuffled) == bootstrap.scores(TRUTH, metrics.align(SAFETY, TRUTH))


def test_61_a_missing_row_is_named():
    with pytest.raises(PredictionError, match=TEST["id"][0]):
        metrics.align(SAFETY.iloc[1:], TRUTH)


def test_61_a_foreign_row_is_named():
    foreign = SAFETY.assign(id=["elsewhere", *SAFETY["id"][1:]])
    with pytest.raises(PredictionError, match="elsewhere"):
        metrics.align(foreign, TRUTH)


def test_61_a_label_of_the_other_task_is_refused_by_id():
    odd = SAFETY.copy()
    odd.at[4, "label"] = [CATEGORIES[0]]
    with pytest.raises(PredictionError, match=odd["id"][4]):
        metrics.align(odd, TRUTH)


def test_61_a_probability_that_is_nan_is_refused_by_id(tmp_path):
    odd = SAFETY.copy()
    odd.at[2, "probabilities"] = np.array([np.nan, 0, 1])
    with pytest.raises(PredictionError, match=odd["id"][2]):
        predictions.write(odd, tmp_path / "p.parquet", model="m", data_sha256="0")


def test_61_an_unknown_level_in_the_rows_is_refused_by_id():
    with pytest.raises(PredictionError, match=TEST["id"][0]):
        metrics.truth_of(TEST.assign(safety=["harmless", *TEST["safety"][1:]]))


def test_coverage_is_the_share_of_usable_outcomes():
    table = predictions.make(
        TEST["id"],
        "safety",
        "zero-shot",
        np.full((len(TEST), 3), 1 / 3),
        outcomes=["refused"] + ["ok"] * (len(TEST) - 1),
    )
    run = metrics.align(table, TRUTH)
    assert run.coverage == pytest.approx(1 - 1 / len(TEST))
    assert run.chosen[run.rows.tolist().index(0)] == -1


def test_thresholds_separate_what_can_be_separated_and_leave_unknown_cells_out():
    scores = np.tile(np.array([[0.1], [0.2], [0.3], [0.4]]), 6)
    labels = np.tile(np.array([[False], [False], [True], [True]]), 6)
    known = np.ones((4, 6), bool)
    labels[0, 1], known[0, 1] = True, False
    labels[:, 2] = False
    found = calibration.fit_thresholds(scores, labels, known)
    assert found[0] == pytest.approx(0.25) and found[1] == pytest.approx(0.25)
    assert found[2] == calibration.DEFAULT_THRESHOLD


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_beats_the_fitted_one(pairs):
    from sklearn.metrics import f1_score

    scores, truth = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    best = f1_score(truth, scores >= calibration.best_threshold(scores, truth), zero_division=0)
    assert all(best >= f1_score(truth, scores >= cut, zero_division=0) - 1e-12 for cut in scores)


def test_thresholds_refuse_other_rows():
    with pytest.raises(PredictionError, match="shapes differ"):
        calibration.fit_thresholds(np.zeros((3, 6)), np.zeros((2, 6)), np.zeros((3, 6)))


def test_temperature_is_found_again_and_keeps_the_order():
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, (4000, 3))
    labels = np.array([random.choice(3, p=p) for p in calibration.apply_temperature(logits, 2.5)])
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(2.5, rel=0.1)
    assert (calibration.apply_temperature(logits, found).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_temperature_survives_a_log_probability_of_minus_infinity():
    logits = np.array([[0.0, -np.inf, -1.0], [-np.inf, 0.0, -1.0]])
    assert np.isfinite(calibration.fit_temperature(logits, [1, 1]))


def test_calibration_error_of_a_sure_and_wrong_model_is_one():
    wrong = bootstrap.scores(truth([1, 1, 2, 2]), answers("safety", [0] * 4))
    assert wrong["calibration_error", ""] == 1
    real = np.array([[True, False] * 3, [False, True] * 3])
    even = bootstrap.scores(truth([0, 0], real), answers("categories", real, np.full((2, 6), 0.5)))
    assert even["calibration_error", ""] == 0


def test_within_a_source_the_source_name_is_no_help():
    rows = made_up_rows(3000, sources=3)
    level = rows["source"].map({f"source{i}": SAFETY_LEVELS[i] for i in range(3)})
    told = rows.assign(safety=np.where(np.arange(len(rows)) % 5 == 0, rows["safety"], level))
    test = take(told, "test", originals_only=True)
    named = test["source"].map({f"source{i}": i for i in range(3)}).to_numpy()
    run = metrics.align(predictions.make(test["id"], "safety", "baseline", np.eye(3)[named]), metrics.truth_of(test))
    found = bootstrap.scores(metrics.truth_of(test), run)
    assert found["macro_f1", ""] > 0.75 and found["within_source_macro_f1", ""] < 0.4
    assert sum(metric == "source_macro_f1" for metric, _ in found) == 3


def test_a_single_row_of_a_level_does_not_decide_the_score_of_a_source():
    """Always safe would have 0.487 for nineteen safe rows and an unsafe one, and 1.0 in each resample without that one."""
    assert metrics.judged_labels(truth([0] * 19 + [2]), "safety") == []
    assert metrics.judged_labels(truth([0] * 15 + [1] * 5 + [2] * 4), "safety") == [0, 1]


def test_a_source_with_one_level_or_few_rows_is_not_judged():
    for levels in ([0] * 30, [0, 1] * 5):
        found = bootstrap.scores(truth(levels), answers("safety", levels))
        assert np.isnan(found["within_source_macro_f1", ""]) and ("source_macro_f1", "a") not in found
