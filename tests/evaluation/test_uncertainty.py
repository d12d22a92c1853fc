"""Intervals and paired tests: equal to plain computation, honest about groups, sharp where runs are paired."""

import time

import numpy as np
import pytest
from analysis_world import answers_of, made_up_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scikit_scores import scores_by_scikit_learn, within_sources_by_scikit_learn

from emosafe_lib.evaluation import alarms, metrics, paired_tests, predictions
from emosafe_lib.evaluation.bootstrap import Bootstrap, interval, ranking, scores
from emosafe_lib.study.rows import take

ROWS = made_up_rows(400, sources=3)
TEST = take(ROWS, "test", originals_only=True)
TRUTH = metrics.truth_of(TEST)
ALARMS = {"area_under_risk", "recall", "false_alarms", *alarms.OPERATING}


def run(task, setting="zero-shot", skill=1.0, seed=0, lost=0.05):
    random = np.random.default_rng(seed)
    outcomes = random.choice(["ok", "parse_error"], len(TEST), p=[1 - lost, lost])
    table = answers_of(ROWS, skill, seed, setting=setting, outcomes=outcomes)[task == "categories"]
    table["probabilities"] = [np.round(row, 1) if task == "categories" else row for row in table["probabilities"]]
    return metrics.align(table, TRUTH)


def cut_down(what):
    """The truth, on which some scores are undefined: without unsafe rows, without categories, by few rows a source."""
    first = {"no unsafe": TRUTH.safety < 2, "one level": TRUTH.safety == 1, "few rows": np.arange(len(TRUTH)) < 25}
    mask = first.get(what, np.ones(len(TRUTH), bool))
    changed = {"no positives": {"categories": TRUTH.categories & False}, "all positive": {"categories": TRUTH.known}}
    changed["nothing known"] = {"known": TRUTH.known & False}
    return metrics.Truth(**vars(TRUTH) | changed.get(what, {})), mask


CASES = ("whole", "no unsafe", "one level", "few rows", "no positives", "all positive", "nothing known")


@pytest.mark.parametrize("lost", [0.05, 1])
@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("task", ["safety", "categories"])
def test_counts_give_what_scikit_learn_gives_ties_lost_answers_and_undefined_scores_included(task, what, lost):
    truth, mask = cut_down(what)
    answers = run(task, lost=lost).on(mask)
    costs = np.array([[0, 1, 5], [2, 0, 1], [9, 4, 0]])
    wanted = scores_by_scikit_learn(truth, answers, costs) | within_sources_by_scikit_learn(truth, answers)
    found = scores(truth, answers, costs)
    assert {name: found.pop(name) for name in wanted} == pytest.approx(wanted, abs=1e-9, nan_ok=True)
    assert {metric for metric, _ in found} == (ALARMS if task == "safety" else set())  # test_use holds those against it


@pytest.mark.parametrize("task", ["safety", "categories"])
def test_a_run_without_a_row_has_its_scores_undefined(task):
    nothing = run(task).on(np.zeros(len(TRUTH), bool))
    found = scores(TRUTH, nothing)
    assert {"macro_f1", "accuracy", "calibration_error"} < {metric for metric, _ in found}
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize("task", ["safety", "categories"])
def test_the_score_of_the_rows_is_that_of_every_group_drawn_once(task):
    bootstrap = Bootstrap(TRUTH.group, 1)
    by_group = bootstrap.measure(TRUTH, run(task)).values(bootstrap.groups)
    assert by_group == pytest.approx(scores(TRUTH, run(task)), abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("task", ["safety", "categories"])
def test_probabilities_that_are_nan_where_there_is_no_answer_reach_no_score(task):
    table = answers_of(ROWS, 1.0, setting="zero-shot", outcomes=["api_error", *["ok"] * (len(TEST) - 1)])[
        task == "categories"
    ]
    lost = table["outcome"] == "api_error"
    holed = table.assign(probabilities=table["probabilities"].where(~lost, table["probabilities"] * np.nan))
    bootstrap = Bootstrap(TRUTH.group, 2)
    whole, found = (bootstrap.draws(bootstrap.measure(TRUTH, metrics.align(t, TRUTH))) for t in (table, holed))
    assert lost.sum() == 1 and np.array_equal(whole, found, equal_nan=True)


def test_rows_of_a_single_group_give_no_interval_and_no_p_value():
    bootstrap = Bootstrap(["one"] * len(TRUTH), 100)
    first, second = (bootstrap.draws(bootstrap.measure(TRUTH, run("safety", skill=skill)))[:, 0] for skill in (0, 3))
    found = paired_tests.difference(0.6, second - first)
    assert np.isnan([found.low, found.high, found.p]).all() and found.clear == 0


@pytest.mark.parametrize("task", ["safety", "categories"])
def test_a_resample_scores_like_its_rows_written_out(task):
    answers, bootstrap = run(task, seed=4), Bootstrap(TRUTH.group, 3, seed=1)
    measure = bootstrap.measure(TRUTH, answers)
    drawn = bootstrap.draws(measure)[2]
    repeated = np.repeat(np.arange(len(TRUTH)), bootstrap.counts[2][bootstrap.codes])
    written = metrics.Answers(
        task,
        np.arange(len(repeated)),
        answers.chosen[repeated],
        answers.probabilities[repeated],
        answers.usable[repeated],
    )
    plain = scores_by_scikit_learn(TRUTH.at(repeated), written)
    for name, value in zip(measure.names, drawn, strict=True):
        if name in plain:
            assert value == pytest.approx(plain[name], abs=1e-5, nan_ok=True), name


def test_resamples_draw_whole_groups_and_are_the_same_every_time():
    bootstrap = Bootstrap(["a", "a", "b", "c"], 50, seed=3)
    assert bootstrap.counts.shape == (50, 3)
    assert (bootstrap.counts.sum(axis=1) == 3).all()
    assert (bootstrap.counts == Bootstrap(["a", "a", "b", "c"], 50, seed=3).counts).all()
    assert (bootstrap.counts != Bootstrap(["a", "a", "b", "c"], 50, seed=4).counts).any()


def test_copies_of_a_row_in_one_group_do_not_make_a_score_surer():
    answers = run("safety", lost=0)
    four = np.repeat(np.arange(len(TRUTH)), 4)
    copied = metrics.Answers(
        "safety",
        np.arange(len(four)),
        *(x[four] for x in (answers.chosen, answers.probabilities)),
        answers.usable[four],
    )
    widths = []
    for truth, given_answers, groups in (
        (TRUTH, answers, TRUTH.group),
        (TRUTH.at(four), copied, TRUTH.group[four]),
        (TRUTH.at(four), copied, np.arange(len(four))),
    ):
        bootstrap = Bootstrap(groups, 1000)
        low, high = interval(bootstrap.draws(bootstrap.measure(truth, given_answers))[:, 0])
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-5)
    assert widths[2] < 0.7 * widths[0]


def test_an_interval_is_undefined_where_the_score_is():
    assert np.isnan(interval(np.array([0.5] * 90 + [np.nan] * 10))).all()
    assert interval(np.array([0.5] * 98 + [np.nan] * 2)) == (0.5, 0.5)


def planted(random, n=1500, share=0.02):
    """Two runs on n rows that differ only where the second one was put right, in a share of all rows."""
    level = random.integers(0, 3, n)
    first = np.where(random.random(n) < 0.6, level, random.integers(0, 3, n))
    second = first.copy()
    wrong = np.flatnonzero(first != level)
    put_right = random.choice(wrong, int(n * share), replace=False)
    second[put_right] = level[put_right]
    return level, first, second


def scored(level, chosen, bootstrap):
    n = len(level)
    truth = metrics.Truth(
        np.arange(n).astype(str).astype(object),
        level,
        np.zeros((n, 6), bool),
        np.ones((n, 6), bool),
        *(np.full(n, "a", object),) * 3,
    )
    answers = metrics.Answers("safety", np.arange(n), chosen, np.eye(3)[chosen], np.ones(n, bool))
    draws = bootstrap.draws(bootstrap.measure(truth, answers))[:, 0]
    return scores(truth, answers)["macro_f1", ""], draws


def test_a_planted_difference_is_found_in_pairs_and_missed_by_two_intervals():
    level, first, second = planted(np.random.default_rng(0))
    bootstrap = Bootstrap(np.arange(len(level)), 1000)
    (a, draws_a), (b, draws_b) = scored(level, first, bootstrap), scored(level, second, bootstrap)
    found = paired_tests.difference(b - a, draws_b - draws_a)
    assert found.low > 0 and found.p < 0.001 and found.clear == 1
    assert interval(draws_a)[1] > interval(draws_b)[0], "the two intervals overlap"
    flips = paired_tests.mcnemar(second == level, first == level)
    assert flips.lost == 0 and flips.gained == 30 and flips.p < 0.001 and flips.g == 0.5


def test_two_hundred_equal_pairs_raise_false_alarms_at_the_stated_level():
    """Equal skill, errors apart, rows in groups of two with common fate: alarms within a 99.8 % band about 5 %."""
    alarms, outside, n, resamples = 0, 0, 300, 300
    groups = np.arange(n) // 2
    bootstrap = Bootstrap(groups, resamples)
    for number in range(200):
        random = np.random.default_rng(number)
        level = np.repeat(random.integers(0, 3, n // 2), 2)
        sides = []
        for _ in range(2):
            right = np.repeat(random.random(n // 2) < 0.6, 2)
            sides.append(scored(level, np.where(right, level, (level + random.integers(1, 3, n)) % 3), bootstrap))
        found = paired_tests.difference(sides[0][0] - sides[1][0], sides[0][1] - sides[1][1])
        alarms += found.p < 0.05
        outside += found.clear != 0
    print(f"false alarms in 200 equal pairs: {alarms} by p-value, {outside} by interval")
    assert 2 <= alarms <= 21 and 2 <= outside <= 21


def test_rows_taken_as_independent_would_raise_far_more():
    """The same pairs tested by rows: McNemar ignores groups, which is why the bootstrap decides."""
    alarms = 0
    for number in range(200):
        random = np.random.default_rng(number)
        first, second = (np.repeat(random.random(150) < 0.6, 4) for _ in range(2))
        alarms += paired_tests.mcnemar(first, second).p < 0.05
    assert alarms > 30


def test_identical_runs_differ_by_nothing():
    assert paired_tests.difference(0.0, np.zeros(100)) == paired_tests.Difference(0.0, 0.0, 0.0, 1.0, 0.0)
    assert paired_tests.mcnemar(np.array([True]), np.array([True])).p == 1


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_skips_what_is_undefined():
    assert paired_tests.holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans(), st.integers(0, 3)), min_size=2, max_size=20
    )
)
def test_average_precision_with_weights_is_scikit_learns(cells):
    from sklearn.metrics import average_precision_score

    ranks, real, weights = (np.array(column) for column in zip(*cells, strict=True))
    steps = ranking(real, ranks, np.arange(len(cells)), len(cells))
    found = alarms.average_precision(*steps.counts(weights[:, None].astype(np.float32)))[0]
    if weights[real].sum() and weights[~real].sum():
        assert found == pytest.approx(average_precision_score(real, ranks, sample_weight=weights), abs=1e-5)
    else:
        assert np.isnan(found)


def test_ten_thousand_resamples_of_one_run_take_seconds():
    rows = made_up_rows(3000, sources=10)
    test = take(rows, "test", originals_only=True)
    truth = metrics.truth_of(test)
    random = np.random.default_rng(0)
    table = predictions.make(test["id"], "categories", "zero-shot", random.random((len(test), 6)))
    answers = metrics.align(table, truth)
    started = time.process_time()
    bootstrap = Bootstrap(truth.group, 10_000)
    bootstrap.draws(bootstrap.measure(truth, answers))
    assert time.process_time() - started < 10
