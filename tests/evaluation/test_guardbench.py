"""GuardBench's metrics on our rows: equal to scikit-learn, for runs that never saw the source, beside its own figures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from analysis_world import answers_of, evidence, made_up_rows, model_table
from sklearn.metrics import f1_score, recall_score

from emosafe_lib.evaluation import baselines, guardbench
from emosafe_lib.evaluation.results import Cell
from emosafe_lib.study.taxonomy import LEFT_OUT

ROWS = made_up_rows(500, sources=2).replace({"source": {"source0": "hatecheck", "source1": "strongreject"}})


def world(left_out=True):
    parts = [model_table(ROWS, "nano-1", 1.0)]
    if left_out:
        parts += [answers_of(ROWS, 1.0, 5, setting="probe", variant=LEFT_OUT)[0].assign(model="nano-1")]
        parts += [baselines.leave_one_source_out("tfidf", ROWS).assign(model="tfidf")]
    parts += [baselines.predict("always-unsafe", ROWS).assign(model="always-unsafe")]
    return evidence(ROWS, {"nano-1": 1.0}, pd.concat(parts))


HERE = world()


@pytest.mark.parametrize(("source", "score"), [("hatecheck", f1_score), ("strongreject", recall_score)])
def test_the_metric_of_each_source_is_guardbenchs_own_and_borderline_counts_as_unsafe(source, score):
    table = guardbench.beside_published(HERE)
    row = table[(table["source"] == source) & (table["model"] == "nano-1, probe")].iloc[0]
    answers = HERE.answers[HERE.keys(Cell("nano-1", "safety", "probe", LEFT_OUT))[0]]
    here = HERE.truth.source == source
    expected = score(HERE.truth.safety[here] >= 1, answers.chosen[here] >= 1)
    assert row["value"] == pytest.approx(expected, abs=1e-6) and row["n"] == here.sum()
    assert row["low"] <= row["value"] <= row["high"]


def test_the_filter_that_always_alarms_has_full_recall_and_its_rows_stand_below():
    table = guardbench.beside_published(HERE)
    always = table[(table["model"] == "always-unsafe") & (table["source"] == "strongreject")].iloc[0]
    assert always["value"] == 1
    shown = guardbench.for_people(table)
    assert set(shown.index.get_level_values("whose")) == {"ours", "GuardBench"}
    assert shown.loc[("GuardBench", "ToxiGen HateBERT .11B"), "hatecheck, F1"] == "0.853"
    assert shown.loc[("GuardBench", "rows (unsafe)"), "hatecheck, F1"] == "3728 (69%)"
    assert list(shown.columns) == ["hatecheck, F1", "strongreject, recall"]


def test_only_runs_that_never_saw_the_source_are_shown():
    assert {cell.variant for cell in guardbench.unseen_cells(HERE)} == {LEFT_OUT, ""}
    assert {cell.model for cell in guardbench.unseen_cells(HERE)} == {"nano-1", "tfidf", "always-unsafe"}
    assert guardbench.beside_published(world(left_out=False)).empty


def test_a_run_that_was_asked_fewer_rows_takes_none_from_the_others_and_its_value_says_of_how_many():
    made = world()
    key = made.keys(Cell("nano-1", "safety", "probe", LEFT_OUT))[0]
    answers, few = made.answers[key], 40
    shown = [part[:few] for part in (answers.rows, answers.chosen, answers.probabilities, answers.usable)]
    made.answers[key] = type(answers)(answers.task, *shown)
    made.cache.clear()
    table = guardbench.beside_published(made)
    ours, whole = table[table["whose"] == "ours"], guardbench.beside_published(HERE)
    mine = ours["model"] == "nano-1, probe"
    assert ours.loc[mine, "n"].sum() == few
    others = whole[(whole["whose"] == "ours") & (whole["model"] != "nano-1, probe")]
    assert ours[~mine].reset_index(drop=True).equals(others.reset_index(drop=True))
    shown = guardbench.for_people(table)
    assert shown.loc[("ours", "nano-1, probe")].str.contains(r" of \d+$").all()
    assert not shown.loc[("ours", "tfidf")].str.contains(" of ").any()


def test_of_hatemoji_the_check_alone_is_scored():
    ids = pd.Series([f"hatemoji:{part}-{n}" for n in range(4) for part in ("check", "build")])
    truth = SimpleNamespace(source=np.array(["hatemoji"] * 7 + ["hatecheck"]), ids=ids.to_numpy())
    assert guardbench.rows_of(truth, "hatemoji").sum() == 4 and guardbench.rows_of(truth, "hatecheck").sum() == 1


def test_a_recall_of_all_rows_is_no_certainty():
    always = guardbench.beside_published(HERE).query("model == 'always-unsafe' and metric == 'recall'")
    assert (always["value"] == 1).all() and (always["low"] < 1).all() and (always["high"] == 1).all()


def test_a_row_without_an_answer_counts_against_both_metrics():
    made = world()
    key = made.keys(Cell("nano-1", "safety", "probe", LEFT_OUT))[0]
    whole = guardbench.beside_published(made).set_index(["source", "model"])["value"]
    answers = made.answers[key]
    lost = np.where(np.arange(len(answers.rows)) % 2, answers.chosen, -1)
    made.answers[key] = type(answers)(answers.task, answers.rows, lost, answers.probabilities, lost >= 0)
    made.cache.clear()
    fewer = guardbench.beside_published(made).set_index(["source", "model"])["value"]
    for source in ("hatecheck", "strongreject"):
        assert fewer[source, "nano-1, probe"] < whole[source, "nano-1, probe"]
