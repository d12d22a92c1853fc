"""Thresholds for a purpose: they keep what was wished on the rows that they were fitted on, or say why they cannot."""

import json

import numpy as np
import pytest

from emosafe_lib.evaluation import intervals, operating
from emosafe_lib.ondevice.exports import is_curve
from emosafe_lib.study.errors import ModelError

RANDOM = np.random.default_rng(0)
UNSAFE = RANDOM.random(3000) < 0.3
SCORES = 1 / (1 + np.exp(-(RANDOM.normal(0, 1, 3000) + 1.5 * UNSAFE)))
GROUPS = np.array([f"g{row // 2}" for row in range(3000)])
CURVE = operating.fit_curve(SCORES, UNSAFE, GROUPS)


def rates_at(threshold):
    raised = threshold <= SCORES
    return raised[UNSAFE].mean(), raised[~UNSAFE].mean()


@pytest.mark.parametrize("wanted", [0.05, 0.333, 0.5, 0.85, 0.947, 0.95, 0.99])
def test_a_recall_is_kept_with_the_fewest_false_alarms_but_for_a_hundredth(wanted):
    point = operating.pick(CURVE, "recall", wanted, "here")
    recall, false = rates_at(point.threshold)
    assert wanted <= recall <= wanted + 0.011
    assert (point.found, point.false) == (round(recall * UNSAFE.sum()), round(false * (~UNSAFE).sum()))
    next_level = np.ceil(100 * wanted - 1e-9) / 100
    assert false <= rates_at(np.quantile(SCORES[UNSAFE], 1 - next_level, method="lower"))[1] + 1e-9


@pytest.mark.parametrize("wanted", [0.01, 0.1, 0.123, 0.5, 0.99])
def test_a_rate_of_false_alarms_is_kept_with_the_highest_recall_but_for_a_hundredth(wanted):
    point = operating.pick(CURVE, "false-alarms", wanted, "here")
    recall, false = rates_at(point.threshold)
    assert wanted - 0.011 <= false <= wanted and point.found == round(recall * UNSAFE.sum())


def test_a_curve_is_short_strict_json_and_survives_it():
    told = json.loads(json.dumps(CURVE, allow_nan=False))
    assert told == CURVE and is_curve(told) and 100 < len(told["points"]) <= operating.MOST_POINTS
    assert (told["unsafe"], told["others"]) == (UNSAFE.sum(), (~UNSAFE).sum()) and told["other_groups"] <= 1500


def test_a_threshold_lies_between_two_scores_and_rows_of_one_score_stand_or_fall_together():
    curve = operating.fit_curve([0.9, 0.5, 0.5, 0.5, 0.2, 0.1], np.array([1, 1, 0, 0, 0, 0], bool), list("abcdef"))
    assert curve["points"] == [[0.7, 1, 0], [0.35, 2, 2], [pytest.approx(0.15), 2, 3]]


@pytest.mark.parametrize(
    ("unsafe", "others", "aim", "wanted", "said"),
    [
        (19, 100, "recall", 0.95, "19 validation rows that are unsafe are too few for recall=0.95, which needs 20"),
        (30, 9, "false-alarms", 0.1, "9 validation rows that are not unsafe are too few for false-alarms=0.1"),
        (20, 0, "recall", 0.95, "0 validation rows that are not unsafe are too few"),
        (0, 20, "false-alarms", 0.1, "0 validation rows that are unsafe are too few"),
    ],
)
def test_too_few_rows_are_counted(unsafe, others, aim, wanted, said):
    labels = np.arange(unsafe + others) < unsafe
    curve = operating.fit_curve(np.linspace(1, 0, len(labels)), labels, np.arange(len(labels)).astype(str))
    assert is_curve(curve)
    with pytest.raises(ModelError, match=f"^here: {said}.*; ask for less"):
        operating.pick(curve, aim, wanted, "here")


def test_a_score_that_tells_nothing_gives_no_threshold():
    labels = np.arange(200) < 100
    constant = operating.fit_curve(np.full(200, 0.5), labels, np.arange(200).astype(str))
    assert constant["points"] == [] and is_curve(constant)
    with pytest.raises(ModelError, match="reached only by an alarm about every message"):
        operating.pick(constant, "recall", 0.9, "here")
    turned = operating.fit_curve(np.where(labels, 0.1, 0.9) + np.arange(200) / 1e4, labels, np.arange(200).astype(str))
    with pytest.raises(ModelError, match="finds none of the unsafe validation rows"):
        operating.pick(turned, "false-alarms", 0.1, "here")


def test_intervals_are_wilsons_and_count_a_group_once():
    assert intervals.wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = intervals.wilson(1.0, 10)
    assert low == pytest.approx(0.7225, abs=1e-4) and high == 1.0
    point = operating.pick(CURVE, "recall", 0.9, "here")
    once = operating.rates(CURVE | {"unsafe_groups": 100}, point)[0]
    assert once.startswith(f"{point.found / CURVE['unsafe']:.2f} [0.83, 0.9") and once.endswith(
        f" of {CURVE['unsafe']}"
    )
