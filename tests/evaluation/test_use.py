"""What a score is good for: equal to scikit-learn, and right at its limits, the oracle, the coin and the constant alarm."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import evidence, made_up_rows, model_table
from sklearn.metrics import roc_auc_score, roc_curve

from emosafe_lib.evaluation import alarms, baselines, bootstrap, metrics, results, use
from emosafe_lib.study.rows import take

ROWS = made_up_rows(500, sources=2)
SKILLS = {"nano-1": 0.8, "minilm": 2.0}
TEST = take(ROWS, "test", originals_only=True)
TRUTH = metrics.truth_of(TEST)


def world():
    parts = [model_table(ROWS, name, skill, 100 * i) for i, (name, skill) in enumerate(SKILLS.items())]
    constants = ("always-safe", "always-unsafe", "tfidf")
    parts += [baselines.predict(name, ROWS).assign(model=name) for name in constants]
    return evidence(ROWS, SKILLS, pd.concat(parts))


HERE = world()


def found_in(cell, name):
    return HERE.score(cell).values[name]


def counted(real, scores):
    """Found and false alarms at every threshold, each row once."""
    made = alarms.Alarms(np.asarray(real), np.asarray(scores, float), np.arange(len(real)), len(real))
    return made.counts(np.ones((len(real), 1), np.float32))


@pytest.mark.parametrize("reading", alarms.READINGS)
def test_areas_and_rates_are_those_of_scikit_learn(reading):
    lowest, cell = alarms.READINGS[reading], results.Cell("nano-1", "safety", "fine-tuned")
    answers = HERE.answers[HERE.keys(cell)[0]]
    real, scores = TRUTH.safety >= lowest, answers.probabilities[:, lowest:].sum(axis=1)
    assert found_in(cell, ("auroc", reading)) == pytest.approx(roc_auc_score(real, scores), abs=1e-5)
    false, found, _ = roc_curve(real, scores, drop_intermediate=False)
    for level in (90, 95):
        expected = false[np.argmax(found >= level / 100 - 1e-9)]
        assert found_in(cell, (f"false_alarms_at_recall_{level}", reading)) == pytest.approx(expected, abs=1e-5)
    called = answers.chosen >= lowest
    assert found_in(cell, ("false_alarms", reading)) == pytest.approx(called[~real].mean(), abs=1e-5)
    assert found_in(cell, ("recall", reading)) == pytest.approx(called[real].mean(), abs=1e-5)


@pytest.mark.parametrize("reading", alarms.READINGS)
@pytest.mark.parametrize(("name", "recall", "false"), [("always-unsafe", 1.0, 1.0), ("always-safe", 0.0, 0.0)])
def test_the_constant_filters_stand_at_the_corners(reading, name, recall, false):
    cell = results.Cell(name, "safety", "baseline")
    assert found_in(cell, ("recall", reading)) == recall and found_in(cell, ("false_alarms", reading)) == false
    assert found_in(cell, ("auroc", reading)) == pytest.approx(0.5)
    assert found_in(cell, ("false_alarms_at_recall_90", reading)) == 1.0
    prevalence = (TRUTH.safety >= alarms.READINGS[reading]).mean()
    assert found_in(cell, ("precision_at_alarms_10", reading)) == pytest.approx(prevalence, abs=1e-5)


def test_an_oracle_and_a_coin_stand_at_the_limits_of_the_risk_coverage_curve():
    random = np.random.default_rng(0)
    wrong = random.random(4000) < 0.3
    error = wrong.mean()
    oracle = alarms.area_under_risk(*counted(wrong, np.where(wrong, 0, 1) + random.random(4000) / 2))
    assert oracle[0] == pytest.approx(error + (1 - error) * np.log(1 - error), abs=2e-3)
    assert alarms.area_under_risk(*counted(wrong, np.ones(4000)))[0] == pytest.approx(error)
    assert alarms.area_under_risk(*counted(wrong, random.random(4000)))[0] == pytest.approx(error, abs=0.02)
    assert alarms.area_under_risk(*counted(wrong, wrong))[0] > error


def test_risk_at_full_coverage_is_the_error_and_falls_with_coverage_for_a_model_that_knows_its_doubt():
    cell = results.Cell("minilm", "safety", "fine-tuned")
    risk = use.curve(HERE, [cell], use.risk_measure).set_index("x")["value"]
    assert risk[1.0] == pytest.approx(1 - found_in(cell, ("accuracy", "")), abs=1e-5)
    assert risk[0.5] < risk[1.0]
    always = use.curve(HERE, [results.Cell("always-safe", "safety", "baseline")], use.risk_measure)["value"]
    assert always.to_numpy() == pytest.approx((TRUTH.safety != 0).mean(), abs=1e-5)


def test_alarming_always_and_never_are_the_two_rivals_of_a_decision_curve():
    cells = [results.Cell(name, "safety", "baseline") for name in ("always-unsafe", "always-safe")]
    table = use.curve(HERE, cells, use.benefit_measure).set_index(["run", "x"])["value"]
    share = (TRUTH.safety == 2).mean()
    for threshold in (0.1, 0.5):
        expected = share - (1 - share) * threshold / (1 - threshold)
        assert table["always-unsafe", threshold] == pytest.approx(expected, abs=1e-5)
        assert table["always-safe", threshold] == 0


def test_a_budget_of_reviews_finds_no_more_than_a_perfect_order_and_a_constant_no_more_than_chance():
    cells = use.shown_runs(HERE, "nano")
    table = use.review_table(HERE, cells)
    share = (TRUTH.safety == 2).mean()
    assert table.loc["perfect order", "100 of 1,000"] == f"{0.1 / share:.0%}"
    assert table.loc["always-unsafe", "100 of 1,000"].startswith("10%")
    found = use.curve(HERE, cells, use.review_measure)
    assert (found["value"] <= np.minimum(1, found["x"] / 1000 / share) + 1e-6).all()
    assert found.loc[found["run"] == "minilm, fine-tuned", "value"].is_monotonic_increasing


def test_a_row_without_an_answer_does_most_harm_in_either_direction():
    outcomes = ["api_error", *["ok"] * (len(TEST) - 1)]
    sure = np.eye(3)[TRUTH.safety]
    from emosafe_lib.evaluation import predictions

    table = predictions.make(TEST["id"], "safety", "zero-shot", sure, outcomes=outcomes)
    values = bootstrap.scores(TRUTH, metrics.align(table, TRUTH))
    assert values["auroc", "loose"] < 1 and values["auroc", "strict"] < 1


def test_every_table_has_the_two_filters_that_read_nothing():
    shown = use.operating_table(results.results_table(HERE))
    models = set(shown.index.get_level_values("model"))
    assert {"always-safe", "always-unsafe"} <= models and not shown.isna().any().any()
    assert shown.loc[("loose", "always-unsafe", "baseline"), "false alarms"].startswith("1.00")
