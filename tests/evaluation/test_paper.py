"""The paper's numbers beside ours: equal where counted by hand, and never a mean over other categories than its rival's."""

import math

import numpy as np
import pandas as pd
import pytest
from analysis_world import answers_of, evidence, made_up_rows, model_table

from emosafe_lib.evaluation import baselines, bootstrap, claims, metrics, paper, results
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.taxonomy import CATEGORIES, FIVE_SHOTS

ROWS = made_up_rows(500, sources=2)
SKILLS = {"nano-1": 0.5, "nano-4": 1.5, "minilm": 1.5}


def world(five=True, rows=ROWS):
    parts = [model_table(rows, name, skill, 100 * i) for i, (name, skill) in enumerate(SKILLS.items())]
    shown = answers_of(rows, 3.0, 7, setting=FIVE_SHOTS, variant="plain") if five else []
    parts += [table.assign(model="nano-4") for table in shown]
    parts += [baselines.predict("always-safe", rows).assign(model="always-safe")]
    return evidence(rows, SKILLS, pd.concat(parts))


HERE = world()


def test_accuracy_of_a_category_is_counted_over_the_rows_that_were_asked():
    table = paper.beside_ours(HERE, "nano").set_index(["role", "category"])
    row = table.loc["1B, LoRA", "suicide_self_harm"]
    answers = HERE.answers[results.Key("nano-1", "categories", "fine-tuned", "", 0)]
    at = CATEGORIES.index("suicide_self_harm")
    known = HERE.truth.known[:, at]
    right = (answers.chosen == HERE.truth.categories)[known, at]
    assert row["value"] == pytest.approx(right.mean()) and row["n"] == known.sum()
    assert row["printed"] == 0.81 and row["low"] <= row["value"] <= row["high"]


def test_who_never_alarms_has_the_accuracy_of_the_negatives():
    table = paper.beside_ours(HERE, "nano").set_index(["role", "category"])
    at = CATEGORIES.index("violence_hate")
    negatives = ~HERE.truth.categories[HERE.truth.known[:, at], at]
    assert table.loc[(paper.NEVER, "violence_hate"), "value"] == pytest.approx(negatives.mean())
    assert table.loc[(paper.NEVER, "violence_hate"), "f1"] == 0


@pytest.mark.parametrize(("five", "setting"), [(True, FIVE_SHOTS), (False, "few-shot")])
def test_the_large_model_is_shown_five_exemplars_where_its_context_held_them(five, setting):
    table = paper.beside_ours(world(five), "nano")
    assert set(table.loc[table["role"] == "70B, FS-5", "setting"].dropna()) == {setting}


def test_a_mean_over_unlike_sets_is_refused():
    two = {"violence_hate": 0.9, "suicide_self_harm": 0.8}
    with pytest.raises(
        PredictionError, match="no value for regulated_substances; average over categories that all have"
    ):
        paper.mean_over(two)
    with pytest.raises(PredictionError, match="regulated_substances"):
        paper.mean_over(two | {"regulated_substances": math.nan})


def test_a_category_that_nobody_was_asked_leaves_the_mean_of_all_out():
    unasked = ROWS.assign(category_known=[[*known[:5], False] for known in ROWS["category_known"]])
    table = paper.beside_ours(world(rows=unasked), "nano").set_index(["role", "category"])
    assert ("1B, LoRA", "mean of all six") not in table.index
    assert table.loc[("1B, LoRA", "mean of the three"), "value"] > 0.4
    answers = HERE.answers[results.Key("nano-1", "categories", "fine-tuned", "", 0)]
    truth = metrics.truth_of(unasked[unasked["split"] == "test"])
    assert np.isnan(bootstrap.scores(truth, answers)["accuracy", ""])


def test_the_papers_means_follow_from_its_own_numbers():
    assert paper.mean_over(paper.PRINTED["1B, LoRA"]) == pytest.approx(0.860)
    assert paper.mean_over(paper.PRINTED["70B, FS-5"]) == pytest.approx(0.826, abs=5e-4)
    assert "stated mean of 70B, FS-5 is not that of these three" in paper.note()


def test_both_verdicts_of_a_claim_stand_side_by_side_and_are_measured_differently():
    found = claims.as_json({"nano": claims.check_all(HERE, "nano")})
    claim = found["tuned_small_is_level"]
    assert (claim["numbers"]["metric"], claim["paper"]["numbers"]["metric"]) == ("f1", "accuracy")
    assert set(claim["paper"]["numbers"]["categories"]) == set(paper.NAMED)
    assert list(claim["paper"]["numbers"]["categories"]["violence_hate"]) == [f"nano-4, {FIVE_SHOTS}", "minilm"]
    assert claims.claims_table(claims.check_all(HERE, "nano"))["in_its_words"].notna().all()


def test_the_table_for_people_names_the_run_that_stands_for_one_of_the_papers():
    shown = paper.for_people(paper.beside_ours(HERE, "nano"))
    sides = {role: side for role, side in shown.columns if side != "paper"}
    assert sides["70B, FS-5"].startswith("ours: nano-") and sides["70B, FS-5"].endswith(", few-shot-5")
    assert sides["1B, LoRA"].endswith(", fine-tuned") and sides[paper.NEVER] == "ours"


def test_the_table_for_people_says_what_was_not_run():
    without = paper.beside_ours(evidence(ROWS, {"nano-1": 1.0}), "nano")
    shown = paper.for_people(without)
    assert shown.loc["Violence and hate", ("BERT", "ours")] == "not run"
    assert shown.loc["Violence and hate", ("BERT", "paper")] == "0.955"
