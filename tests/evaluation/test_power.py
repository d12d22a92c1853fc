"""Power is what it says: planted effects of known size are found as often as computed."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import evidence, made_up_rows

from emosafe_lib.evaluation import claims, power, scaling
from emosafe_lib.evaluation.bootstrap import Bootstrap, by_group
from emosafe_lib.evaluation.paired_tests import difference

STUDIES, GROUPS = 2000, 120


def planted_studies(effect, studies=STUDIES, seed=0):
    """Paired differences of samples whose rows differ by `effect` on average, two rows a group, with their draws."""
    random = np.random.default_rng(seed)
    bootstrap = Bootstrap(np.repeat(np.arange(GROUPS), 2).astype(str), 400, seed=1)
    counts = bootstrap.counts.astype(np.float32)
    for _ in range(studies):
        rows = effect + np.repeat(random.normal(0, 0.5, GROUPS), 2) + random.normal(0, 0.5, 2 * GROUPS)
        sums = by_group(rows[:, None], bootstrap.codes, bootstrap.groups)[:, 0]
        yield difference(float(rows.mean()), counts @ sums / (2 * GROUPS))


TRUE_ERROR = float(np.sqrt((0.25 + 0.25 / 2) / GROUPS))


@pytest.mark.parametrize("tests", [1, 10])
def test_a_detectable_effect_is_found_in_80_of_100_studies(tests):
    effect = power.detectable(TRUE_ERROR, tests)
    found = np.mean([gap.p < 0.05 / tests for gap in planted_studies(effect)])
    assert found == pytest.approx(0.8, abs=0.03)


def test_a_difference_of_the_margin_is_found_as_often_as_level_would_be_shown():
    margin = power.detectable(TRUE_ERROR)
    told = [power.chance_of_level(gap.draws[:, None, None], margin) for gap in planted_studies(0.0, 200)]
    assert np.mean(told) == pytest.approx(0.8, abs=0.03)


def test_to_show_level_on_either_side_takes_more_than_to_show_no_worse():
    draws = np.random.default_rng(0).normal(0, 1, (4000, 1, 1))
    one, either = (power.chance_of_level(draws, 2.8, either_side=side) for side in (False, True))
    assert one == pytest.approx(0.80, abs=0.03) and either == pytest.approx(0.60, abs=0.03)


def test_level_is_shown_as_often_as_computed_from_one_study():
    margin = 2.8 * TRUE_ERROR
    gaps = list(planted_studies(0.0))
    seen = np.mean([gap.low > -margin for gap in gaps])
    told = np.mean([power.chance_of_level(gap.draws[:, None, None], margin) for gap in gaps[:200]])
    assert told == pytest.approx(seen, abs=0.03) and 0.6 < seen < 0.95


def test_more_rivals_and_places_make_level_harder_to_show_and_one_of_two_places_easier():
    draws = np.random.default_rng(0).normal(0, 1, (4000, 2, 2))
    one = power.chance_of_level(draws[:, :1, :1], 3.0)
    both, either = (power.chance_of_level(draws, 3.0, needed=n) for n in (2, 1))
    assert both < one < either or both < either < 1


@pytest.mark.parametrize(
    ("chance", "said"), [(0.5, "underpowered"), (0.9, "near the margin"), (np.nan, "underpowered")]
)
def test_an_open_verdict_says_whether_the_study_could_have_told(chance, said):
    assert power.reason(chance) == said


def test_a_small_study_of_equal_models_is_underpowered_and_a_large_one_is_not():
    equal = dict.fromkeys(["nano-1", "nano-2", "nano-4", "minilm"], 1.5)
    here = evidence(made_up_rows(600), equal)
    small = claims.tuned_small_is_level(here, "nano")
    assert (small.verdict, small.reason) == ("cannot tell", "underpowered") and small.power["chance"] < 0.8
    assert "underpowered" in small.because
    wide = here.study.analysis.model_copy(update={"margin": 0.9})
    here.study = here.study.model_copy(update={"analysis": wide})
    assert claims.larger_is_stronger(here, "nano").reason == "level"


def test_every_paired_test_carries_what_it_could_have_found():
    here = evidence(made_up_rows(400), {"nano-1": 0.5, "nano-2": 1.0, "nano-4": 1.5, "minilm": 1.5})
    tests = scaling.comparisons(here)
    part = tests[(tests["family"] == "size") & (tests["metric"] == "macro_f1")]
    expected = power.detectable(part["error"], part["p"].notna().sum())
    assert part["detectable"].to_numpy() == pytest.approx(expected)
    told = power.open_verdicts(tests, margin=0.05)
    assert (told[["clear", "level", "underpowered", "open"]].sum(axis=1) == told["tests"]).all()


@pytest.mark.parametrize(
    ("p", "low", "high", "detectable", "kind"),
    [
        (0.01, 0.01, 0.04, 0.03, "clear"),
        (0.60, -0.04, 0.03, 0.06, "level"),
        (0.60, -0.06, 0.03, 0.06, "underpowered"),
        (0.06, -0.01, 0.06, 0.04, "open"),
        (np.nan, np.nan, np.nan, np.nan, "underpowered"),
    ],
)
def test_a_comparison_without_a_finding_is_level_underpowered_or_open(p, low, high, detectable, kind):
    facts = {"p_holm": p, "low": low, "high": high, "detectable": detectable}
    told = power.open_verdicts(pd.DataFrame([{"family": "size", "metric": "f1"} | facts]), margin=0.05).iloc[0]
    assert [name for name in ("clear", "level", "underpowered", "open") if told[name]] == [kind]
    said = power.in_words(told.to_frame().T, 0.05)
    assert ("All 1 paired tests" in said) == (kind == "clear")


def test_what_became_of_the_comparisons_is_told_in_words():
    told = pd.DataFrame([{"tests": 9, "clear": 3, "level": 1, "underpowered": 2, "open": 3}])
    assert power.in_words(told, 0.05) == (
        "Of 9 paired tests 6 found no clear difference: 1 are level within 0.05, 2 could hardly have found one of 0.05 "
        "(underpowered), 3 could have (open)."
    )


def test_with_less_confidence_less_is_needed_to_be_found():
    here = evidence(made_up_rows(400), {"nano-1": 0.5, "nano-2": 1.0, "nano-4": 1.5, "minilm": 1.5})
    found = {}
    for confidence in (0.95, 0.6):
        analysis = here.study.analysis.model_copy(update={"confidence": confidence})
        here.study = here.study.model_copy(update={"analysis": analysis})
        gain = claims.larger_is_stronger(here, "nano").numbers["largest_minus_smallest"]
        found[confidence] = gain["detectable"], scaling.size_gains(here, "nano")["detectable"].median()
    assert np.less(found[0.6], found[0.95]).all()


def test_a_ladder_of_unknown_sizes_has_nothing_to_plan_for():
    here = evidence(made_up_rows(400), {"nano-1": 0.5, "minilm": 1.5})
    here.parameters["nano-1"] = None
    assert power.what_rows_buy(here, "nano").empty


def test_four_times_the_rows_halve_what_can_be_detected():
    here = evidence(made_up_rows(2000), {"nano-1": 0.5, "nano-2": 1.0, "nano-4": 1.5, "minilm": 1.5})
    table = power.what_rows_buy(here, "nano")
    part = table[table["rival"] == "nano-4"].set_index("rows")["detectable"]
    quarter, _, full, four = part.sort_index()
    assert quarter / full == pytest.approx(2, rel=0.25) and full / four == pytest.approx(2)
    assert isinstance(table, pd.DataFrame) and set(table["rival"]) == {"nano-4", "minilm"}
