"""The paper's claims: planted worlds in which each is true, false or open, and the verdict that each must get."""

import dataclasses
import json

import pandas as pd
import pytest
from analysis_world import evidence, made_up_rows, model_table

from emosafe_lib.evaluation import baselines, claims, metrics, results
from emosafe_lib.study.parameters import ModelCaps, load_model

ROWS = made_up_rows(900, sources=2)
RISING = {"nano-1": 0.2, "nano-2": 0.8, "nano-3": 1.4, "nano-4": 2.0}


def world(zero, tuned, more=None):
    """Evidence in which each model has one skill in zero-shot (and few-shot) and another once trained.

    `more` adds skill in zero-shot to one task: {"categories": (extra by model)}.
    """
    parts = [baselines.predict("tfidf", ROWS.assign(text="no words")).assign(model="tfidf")]
    for number, name in enumerate(zero):
        low, high = (model_table(ROWS, name, skill[name], 100 * number) for skill in (zero, tuned))
        trained = high["setting"].isin(["fine-tuned", "probe"])
        parts += [low[~low["setting"].isin(["fine-tuned", "probe"])], high[trained]]
        if more:
            extra = model_table(ROWS, name, more[name], 100 * number)
            parts[-1] = parts[-1][parts[-1]["task"] != "categories"]
            parts[-2] = parts[-2][parts[-2]["task"] != "categories"]
            few = extra["setting"].isin(["zero-shot"])
            flat = model_table(ROWS, name, tuned[name], 100 * number)
            keep = ~flat["setting"].isin(["zero-shot"])
            parts += [extra[few & (extra["task"] == "categories")], flat[keep & (flat["task"] == "categories")]]
    return evidence(ROWS, dict.fromkeys(zero, 1.0), pd.concat(parts))


@pytest.fixture(scope="module")
def rising():
    return world({**RISING, "minilm": 1.0}, {**RISING, "minilm": 1.0})


@pytest.fixture(scope="module")
def flat():
    same = dict.fromkeys(["nano-1", "nano-2", "nano-3", "nano-4", "minilm"], 1.5)
    return world(same, same)


def test_an_encoder_is_no_ladder_and_no_rival_of_itself():
    alone = world({"minilm": 1.0}, {"minilm": 1.0})
    assert alone.ladder("none") == []
    assert {claim.verdict for claim in claims.check_all(alone, "none").values()} <= {"cannot tell", "supported"}
    assert claims.tuned_small_is_level(alone, "none").verdict == "cannot tell"
    own = results.Cell("minilm", "categories", "fine-tuned")
    assert not claims.rivals_of(alone, "none", own, words=False)


def test_larger_is_stronger_in_a_world_where_it_is(rising):
    claim = claims.larger_is_stronger(rising, "nano")
    assert claim.verdict == "supported" and claim.numbers["tau"] == 1
    assert claim.ladder == "nano" and claim.test and claim.because


def test_larger_is_stronger_in_a_world_where_it_is_the_other_way_round():
    falling = dict(zip(RISING, sorted(RISING.values(), reverse=True), strict=True))
    assert claims.larger_is_stronger(world(falling, falling), "nano").verdict == "contradicted"


def test_larger_is_stronger_cannot_be_told_where_all_are_alike(flat):
    assert claims.larger_is_stronger(flat, "nano").verdict == "cannot tell"


def test_ends_that_differ_while_the_ranks_between_them_are_open_are_no_lack_of_power():
    unsteady = dict(zip(RISING, (0.2, 2.5, 0.1, 2.0), strict=True))
    claim = claims.larger_is_stronger(world(unsteady, unsteady), "nano")
    assert (claim.verdict, claim.reason) == ("cannot tell", "ranks not settled") and claim.because.endswith(
        claim.reason
    )
    assert claim.power["chance"] > 0
    assert claim.numbers["largest_minus_smallest"]["low"] > 0


def test_two_sizes_cannot_tell():
    two = {name: RISING[name] for name in ("nano-1", "nano-4")}
    claim = claims.larger_is_stronger(world(two, two), "nano")
    assert claim.verdict == "cannot tell" and "2 sizes" in claim.because


def test_size_helping_most_in_categories_and_zero_shot_is_recognised():
    alike = dict.fromkeys(RISING, 2.0)
    little = dict(zip(RISING, (1.8, 1.9, 2.0, 2.3), strict=True))
    steep = dict(zip(RISING, (0.0, 1.0, 2.0, 4.0), strict=True))
    assert claims.most_in_categories_and_zero_shot(world(little, alike, steep), "nano").verdict == "supported"


def test_size_helping_most_once_trained_contradicts_the_claim():
    alike, steep = dict.fromkeys(RISING, 1.0), dict(zip(RISING, (0.0, 1.0, 2.0, 3.0), strict=True))
    assert claims.most_in_categories_and_zero_shot(world(alike, steep), "nano").verdict == "contradicted"


def test_size_helping_least_in_categories_contradicts_the_claim_whatever_zero_shot_says():
    alike = dict.fromkeys(RISING, 2.0)
    steep = dict(zip(RISING, (0.0, 1.0, 2.0, 4.0), strict=True))
    assert claims.most_in_categories_and_zero_shot(world(steep, alike, alike), "nano").verdict == "contradicted"


def test_where_size_hurts_least_it_does_not_help_most():
    """In categories and in zero-shot the largest model loses least: extra gains are positive, the gains are not."""
    zero, tuned = (dict(zip(RISING, skills, strict=True)) for skills in ((2.0, 1.8, 1.6, 1.2), (3.0, 2.0, 1.0, 0.0)))
    little = dict(zip(RISING, (2.0, 1.95, 1.9, 1.8), strict=True))
    claim = claims.most_in_categories_and_zero_shot(world(zero, tuned, little), "nano")
    assert claim.numbers["zero_shot_minus_others"]["low"] > 0 and claim.numbers["gain_in_zero_shot"]["high"] < 0
    assert claim.verdict == "contradicted"


def test_the_paper_s_words_average_over_the_paper_s_settings(rising):
    words, strict = (claims.measured_by(rising, "nano", each) for each in (claims.PAPER, claims.STRICT))
    for name in claims.ON_ALL_SETTINGS:
        assert "probe" in json.dumps(strict[name].numbers) and "probe" not in json.dumps(words[name].numbers)


def test_models_that_are_shown_to_be_level_are_not_near_the_margin(flat):
    wide = flat.study.model_copy(update={"analysis": flat.study.analysis.model_copy(update={"margin": 0.5})})
    claim = claims.larger_is_stronger(dataclasses.replace(flat, study=wide, cache={}), "nano")
    assert (claim.verdict, claim.reason) == ("cannot tell", "level") and claim.because.endswith("level")


def test_without_a_memory_plan_viability_says_what_is_missing(monkeypatch):
    unknown = claims.cannot_tell("fits_two_gigabytes", "nano", "no memory plan", "", claims.NO_PLAN)
    monkeypatch.setattr(claims, "fits_two_gigabytes", lambda model: unknown)
    claim = claims.small_is_viable(viable_world(), "nano")
    assert (claim.verdict, claim.reason) == ("cannot tell", "no memory plan")


def test_a_small_model_far_behind_is_not_level(rising):
    claim = claims.tuned_small_is_level(rising, "nano")
    assert claim.verdict == "contradicted" and len(claim.numbers["behind"]) == 3


def test_a_small_model_as_good_as_all_is_level_within_a_margin_that_the_rows_can_show(flat):
    strict = claims.tuned_small_is_level(flat, "nano")
    flat.study = flat.study.model_copy(update={"analysis": flat.study.analysis.model_copy(update={"margin": 0.3})})
    wide = claims.tuned_small_is_level(flat, "nano")
    flat.study = flat.study.model_copy(update={"analysis": flat.study.analysis.model_copy(update={"margin": 0.05})})
    assert strict.verdict != "supported" and wide.verdict == "supported"


def test_with_fewer_than_several_high_data_categories_nothing_is_contradicted(rising):
    support = dict.fromkeys(rising.support, 0) | {"violence_hate": 40}
    claim = claims.tuned_small_is_level(dataclasses.replace(rising, support=support), "nano")
    assert claim.verdict == "cannot tell" and claim.because.startswith("1 high-data categories")


def test_no_difference_found_is_not_taken_as_level(flat):
    """Absence of evidence: equal models on few rows must not be called level."""
    assert claims.tuned_small_is_level(flat, "nano").verdict == "cannot tell"


def test_without_an_encoder_the_comparison_with_bert_cannot_be_told():
    assert claims.tuned_small_is_level(world(RISING, RISING), "nano").verdict == "cannot tell"


def test_the_1b_fits_two_gigabytes_only_when_quantised():
    claim = claims.fits_two_gigabytes()
    assert claim.verdict == "supported"
    assert "bfloat16" not in claim.numbers["below"] and "int8" in claim.numbers["below"]
    assert claim.numbers["basis"] == "computed" and claim.ladder == "shape of llama-1b"


def test_the_8b_does_not_fit_two_gigabytes_at_all():
    assert claims.fits_two_gigabytes(load_model("llama-8b")).verdict == "contradicted"


def test_without_a_memory_plan_nothing_is_said_about_memory(monkeypatch):
    from emosafe_lib.study.errors import ModelError

    def fails(*_):
        raise ModelError("x", "y", "z")

    monkeypatch.setattr(claims, "memory_plan", fails)
    assert claims.fits_two_gigabytes().verdict == "cannot tell"


def test_a_claim_says_where_rivals_learned_from_other_numbers_of_rows():
    here = viable_world()
    assert "training rows" not in claims.small_is_viable(here, "nano").because
    caps = [ModelCaps(model="nano-1", train_rows=40)]
    claim = claims.small_is_viable(
        dataclasses.replace(here, study=here.study.model_copy(update={"model_caps": caps})), "nano"
    )
    assert "; training rows at most: nano-1 40, nano-4 all, minilm all, tfidf all" in claim.because


def test_a_small_model_that_lags_behind_is_not_viable(rising):
    assert claims.small_is_viable(rising, "nano").verdict == "contradicted"


def viable_world(**changes):
    """All models alike, TF-IDF blind, and a margin that the rows can show."""
    same = dict.fromkeys(["nano-1", "nano-2", "nano-3", "nano-4", "minilm"], 1.5)
    here = world(same, same)
    here.study = here.study.model_copy(update={"analysis": here.study.analysis.model_copy(update={"margin": 0.3})})
    return dataclasses.replace(here, **changes)


def test_a_small_model_as_good_as_all_and_better_than_counting_words_is_viable():
    assert claims.small_is_viable(viable_world(), "nano").verdict == "supported"


def test_a_small_model_that_does_not_fit_is_not_viable(monkeypatch):
    large = claims.fits_two_gigabytes(load_model("llama-8b"))
    monkeypatch.setattr(claims, "fits_two_gigabytes", lambda model: large)
    assert claims.small_is_viable(viable_world(), "nano").verdict == "contradicted"


def test_a_small_model_below_counting_words_is_not_viable():
    here = viable_world()
    parts = model_table(ROWS, "tfidf", 6.0)
    key = next(key for key in here.answers if key[:3] == ("tfidf", "safety", "baseline"))
    best = parts[(parts["task"] == "safety") & (parts["setting"] == "fine-tuned")]
    here.answers[key] = metrics.align(best, here.truth)
    assert claims.small_is_viable(here, "nano").verdict == "contradicted"


@pytest.mark.parametrize("lost", ["nano-4", "minilm"])
def test_a_rival_without_a_tuned_run_leaves_viability_open(lost):
    here = viable_world()
    kept = {key: value for key, value in here.answers.items() if key[:3] != (lost, "safety", "fine-tuned")}
    claim = claims.small_is_viable(dataclasses.replace(here, answers=kept, cache={}), "nano")
    assert claim.verdict == "cannot tell" and lost in claim.because


def test_without_an_encoder_viability_is_open_unless_another_part_fails():
    same = dict.fromkeys(RISING, 1.5)
    here, wide = world(same, same), viable_world().study
    claim = claims.small_is_viable(dataclasses.replace(here, study=wide), "nano")
    assert claim.verdict == "cannot tell" and "not run: an encoder" in claim.because
    assert claims.small_is_viable(world(RISING, RISING), "nano").verdict == "contradicted"


def test_a_ladder_without_runs_cannot_tell_and_nano_numbers_do_not_leak_into_it(rising):
    checks = claims.check_all(rising, "llama")
    assert {name for name, claim in checks.items() if claim.verdict != "cannot tell"} == {"fits_two_gigabytes"}
    assert "nano" not in json.dumps(claims.as_json({"llama": checks}))


def test_the_same_checks_serve_the_llama_ladder():
    skills = {"llama-1b": 0.2, "llama-3b": 1.0, "llama-8b": 2.0}
    table = pd.concat([model_table(ROWS, name, skill, 50 * i) for i, (name, skill) in enumerate(skills.items())])
    here = evidence(ROWS, skills, table)
    here.parameters = {"llama-1b": 10**9, "llama-3b": 3 * 10**9, "llama-8b": 8 * 10**9}
    claim = claims.larger_is_stronger(here, "llama")
    assert claim.verdict == "supported" and claim.ladder == "llama"


def test_claims_are_json_with_verdict_numbers_and_test(rising):
    found = claims.as_json({"nano": claims.check_all(rising, "nano")})
    assert list(found) == list(claims.STATEMENTS)
    json.dumps(found, allow_nan=False)
    assert all({"verdict", "numbers", "test", "claim", "ladder"} <= set(claim) for claim in found.values())
    assert {claim["verdict"] for claim in found.values()} <= {"supported", "contradicted", "cannot tell"}


def test_anchors_say_whose_numbers_they_are():
    assert (claims.anchors()["whose"] == "published by others, on other data").all()


def test_a_claim_names_the_runs_that_it_had_to_do_without(rising):
    whole = claims.check_all(rising, "nano")
    assert not any(claim.missing or "runs are missing" in claim.because for claim in whole.values())
    lost = dataclasses.replace(
        rising,
        answers={key: each for key, each in rising.answers.items() if key[:3] != ("nano-2", "safety", "fine-tuned")},
        cache={},
    )
    lost.gaps = results.gaps_of(lost)
    found = claims.check_all(lost, "nano")
    assert {name for name, claim in found.items() if claim.missing} == set(claims.STATEMENTS) - {"fits_two_gigabytes"}
    for claim in (claim for claim in found.values() if claim.missing):
        assert claim.missing == ["nano-2: safety, fine-tuned"] and claim.because.endswith("runs are missing of nano-2")
    assert claims.as_json({"nano": found})["small_is_viable"]["missing"] == ["nano-2: safety, fine-tuned"]


def test_a_training_budget_that_one_model_alone_is_asked_for_and_lacks_is_no_run_that_a_claim_rests_on(rising):
    caps = {"model_caps": [ModelCaps(model="nano-2", budgets=[64])]}
    lacking = dataclasses.replace(rising, study=rising.study.model_copy(update=caps), cache={})
    lacking.gaps = results.gaps_of(lacking)
    assert "budget-64" in set(lacking.gaps["missing"])
    for name in claims.STATEMENTS:
        assert claims.gaps_of_claim(lacking, "nano", name, claims.STRICT) == []
