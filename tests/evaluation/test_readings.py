"""Sentences beneath the figures of notebook 05, on tables that a study of a reader's own may give."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from analysis_world import evidence, made_up_rows, model_table

from emosafe_lib.evaluation import figures, identity, paper, readings, scaling
from emosafe_lib.evaluation.results import Key
from emosafe_lib.study.parameters import load_model
from emosafe_lib.teaching.analysis import headline

ROWS = made_up_rows(200)


def labels(*values):
    """F1 of labels by size, as (category, smallest, largest)."""
    rows = [(name, size, value) for name, *pair in values for size, value in enumerate(pair, start=1)]
    return pd.DataFrame(rows, columns=["category", "parameters", "value"]).assign(setting="zero-shot")


def test_the_largest_move_of_a_label_may_be_a_fall():
    assert "most in safe, zero-shot (-0.400)" in readings.score_by_label(
        labels(("safe", 0.6, 0.2), ("unsafe", 0.1, 0.15))
    )


def test_gains_between_other_models_are_told_with_their_names():
    first = {
        "category": "safe",
        "setting": "zero-shot",
        "largest": "c",
        "smallest": "a",
        "value": 0.2,
        "low": 0.1,
        "high": 0.3,
    }
    second = first | {"setting": "fine-tuned", "largest": "b", "value": -0.2, "low": -0.3, "high": -0.1}
    assert "c is better than a in 1 of 1" in readings.gains_by_label(pd.DataFrame([first]))
    said = readings.gains_by_label(pd.DataFrame([first, second]))
    assert "the largest model with runs is better than the smallest in 1 of 2" in said
    assert "(+0.200 [0.100, 0.300], c minus a)" in said


def test_budgets_that_no_two_models_share_are_not_called_missing():
    table = pd.DataFrame({"task": "safety", "model": ["a", "b"], "rows": [100, 200], "value": 0.5})
    assert "share fewer than two" in readings.budget_curves(table)
    assert "No training budgets were run" in readings.budget_curves(table.iloc[:0])


@pytest.mark.parametrize(
    ("sources", "inside", "said"),
    [
        (1, 0.5, "a single source"),
        (2, np.nan, "0.500 on safety; no source has rows enough"),
        (2, 0.5, "0.500 on safety and 0.500 within sources"),
    ],
)
def test_what_a_sources_name_gives_away_depends_on_the_number_of_sources(sources, inside, said):
    table = pd.DataFrame({"metric": ["macro_f1", "within_source_macro_f1"], "value": [0.5, inside]})
    assert said in readings.pooled_and_within(table.assign(model="source", task="safety"), sources)


def test_a_source_left_out_may_score_higher():
    runs = {"tfidf": 0.4, "tfidf, source left out": 0.45}
    table = pd.DataFrame([{"source": "a", "run": run, "value": value} for run, value in runs.items()])
    said = readings.sources_apart(table)
    assert "scores 0.050 higher on average over 1 source; it is worse by 0.005 or more in 0, with no row" in said


def test_the_ladder_with_runs_comes_first():
    here = evidence(ROWS, {"nano-1": 1.0, "nano-2": 1.0})
    for name in ("llama-1b", "llama-3b", "llama-8b"):
        here.models[name], here.parameters[name] = load_model(name), 10**9
    assert scaling.ladders(here) == ["nano", "llama"]


def test_a_rung_without_its_folder_has_an_unknown_size(tmp_path):
    gone = load_model("nano-1").model_copy(update={"path": "nano/gone"})
    assert scaling.sizes({"gone": gone})["pretraining_tokens"].isna().all()


def test_runs_of_one_wording_and_seed_are_held_against_each_other():
    first = [Key("a", "safety", "zero-shot", wording, 0) for wording in ("careful", "guard", "plain")]
    second = [Key("b", "safety", "few-shot", "plain", 3)]
    assert [key.variant for key in scaling.runs_alike(first, second)] == ["plain", "plain"]
    tuned = [Key("a", "safety", "fine-tuned", "", seed) for seed in (3, 4)]
    assert scaling.runs_alike(tuned, [tuned[1]]) == (tuned[1], tuned[1])
    assert scaling.runs_alike(tuned, first) == (tuned[0], first[0])


def test_messages_that_name_nobody_are_no_group():
    table = pd.DataFrame({"group": ["women", identity.NOBODY], "more": [0.5, 0.9], "more_low": 0.1, "more_high": 1.0})
    said = identity.alarms_about(table.assign(p_holm=0.001))
    assert "of 1 groups" in said and "women (+50%" in said and identity.NOBODY not in said


def test_a_source_that_no_run_answers_has_no_panel_and_the_legend_stays():
    table = pd.DataFrame({"source": "a", "run": ["x", "y"], "value": 0.5, "low": 0.4, "high": 0.6})
    humans = pd.DataFrame({"source": ["a", "b"], "value": [0.6, np.nan], "low": [0.5, np.nan], "high": [0.7, np.nan]})
    figure = figures.beside_people(table, humans)
    assert len(figure.axes) == 1 and figure.axes[0].get_legend().get_texts()[0].get_text() == "one person"
    plt.close(figure)


def test_an_f1_that_is_undefined_is_a_word():
    row = {"role": paper.NEVER, "category": "violence_hate", "printed": 0.9, "value": 0.5, "low": 0.4, "high": 0.6}
    row |= {"model": "always-safe", "setting": "baseline"}
    shown = paper.for_people(pd.DataFrame([row | {"f1": np.nan}]))
    assert "F1 undefined" in shown.to_string() and "nan" not in shown.to_string()


def test_a_results_file_with_undefined_numbers_serves_the_exercise():
    row = {"variant": "", "category": "", "task": "safety", "setting": "fine-tuned", "model": "a"}
    table = pd.DataFrame(
        [row | {"metric": "macro_f1", "value": "0.5"}, row | {"metric": "auroc", "value": "undefined"}]
    )
    scores = headline(table).loc["a"]
    assert scores["macro_f1"] == 0.5 and np.isnan(scores["auroc"])


def test_where_a_category_was_never_asked_the_claims_rest_on_what_is_defined():
    from emosafe_lib.evaluation import claims

    rows = ROWS.assign(category_known=[[True, True, False, False, False, False]] * len(ROWS))
    skills = {"nano-1": 0.2, "nano-2": 1.0, "nano-3": 2.0}
    table = pd.concat([model_table(rows, name, skill, 50 * i) for i, (name, skill) in enumerate(skills.items())])
    claim = claims.larger_is_stronger(evidence(rows, skills, table), "nano", claims.PAPER)
    assert claim.verdict == "supported" and "over 3 of 6 task and setting pairs" in claim.because
    assert all(each.startswith("safety") for each in claim.numbers["averaged_over"])
