"""Agreement between people: alpha as computed by hand, and a person who is one of the crowd."""

import numpy as np
import pandas as pd
import pytest

from emosafe_lib.data.sources import registry
from emosafe_lib.evaluation import annotators


def test_alpha_is_that_of_a_hand_computed_example():
    """Two people, four messages, one disagreement: observed 2/8, expected 2*3*5/(8*7), so 1 - 0.25 / 0.5357."""
    levels = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], float)
    assert annotators.alpha(levels) == pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)))


def test_alpha_is_that_of_krippendorffs_own_example_with_missing_judgements():
    """Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C: 0.815 for ordinal values."""
    gap = np.nan
    levels = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
            [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
        ]
    )
    assert annotators.alpha(levels) == pytest.approx(0.815, abs=5e-4)


def test_less_confidence_is_a_narrower_interval_of_agreement():
    levels = np.random.default_rng(0).integers(0, 3, (3, 60)).astype(float)
    wide, narrow = (annotators.alpha_interval(levels, confidence) for confidence in (0.95, 0.6))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_people_who_agree_score_one_and_a_contrarian_scores_little():
    levels = np.tile(np.array([1.0, -1.0, -3.0] * 40), (3, 1))
    assert annotators.one_against_the_rest(levels, annotators.severity_level) == [1.0, 1.0, 1.0]
    levels[0] = -levels[0]
    assert annotators.one_against_the_rest(levels, annotators.severity_level)[0] < 0.5


def test_who_judged_too_few_messages_is_not_scored():
    levels = np.tile(np.array([1.0, -1.0, -3.0] * 40), (3, 1))
    levels[0, 10:] = np.nan
    assert len(annotators.one_against_the_rest(levels, annotators.severity_level)) == 2


def test_shares_near_a_half_are_no_agreement_and_shares_at_the_ends_are_all_of_it():
    assert annotators.alpha_at_most(np.array([0.0, 1.0, 1.0, 0.0])) == 1
    assert annotators.alpha_at_most(np.full(10, 0.5)) == pytest.approx(0)


def test_a_study_without_such_sources_says_so():
    humans = annotators.people(["emosafe_sample"])
    assert humans.empty and annotators.in_words(pd.DataFrame(), humans).startswith("No source of this study")


def test_a_source_without_runs_is_not_said_to_be_reached_by_none_of_them():
    humans = pd.DataFrame([{"source": "a", "alpha": 0.5, "value": 0.7}, {"source": "b", "alpha": 0.6, "value": 0.8}])
    beside = pd.DataFrame([{"source": "a", "high": 0.75}, {"source": "a", "high": 0.65}])
    told = annotators.in_words(beside, humans)
    assert "a: alpha 0.50, one person 0.70, reached within its interval by 1 of 2 runs; b:" in told
    assert told.endswith("b: alpha 0.60, one person 0.80, no run to compare.")


@pytest.mark.skipif(registry.missing([registry.registry()["convabuse"]]) != [], reason="raw files are not at hand")
def test_convabuse_has_several_people_a_message_who_agree_more_than_by_chance():
    (row,) = annotators.people(["convabuse"]).to_dict("records")
    assert 4 <= row["annotators"] <= 8 and 0.3 < row["alpha_low"] < row["alpha"] < row["alpha_high"] < 1
    assert row["low"] <= row["value"] <= row["high"] < 1
