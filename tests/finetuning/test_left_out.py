"""A source that is left out is left out: of training and of validation, for every way of doing it."""

import pandas as pd
import pytest
import tiny_models

from emosafe_lib.evaluation import metrics, predictions
from emosafe_lib.finetuning import finetune, left_out, probes
from emosafe_lib.models import backbone
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import LEFT_OUT

MADE = tiny_models.make_rows()
ROWS = MADE.assign(source=[f"source{number % 2}" for number in range(len(MADE))])


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    tiny_models.make_encoder(tmp_path / "encoder")
    return tmp_path


def unseen(folder, rows=ROWS, **finetuning):
    model, study = tiny_models.model_params("encoder"), tiny_models.study_params(**finetuning)
    features = probes.extract(model, study, rows)
    return left_out.unseen_sources(model, study, rows, features, folder)


def test_training_and_validation_hold_no_row_of_the_source_and_the_test_no_other():
    part = left_out.without_source(ROWS, ROWS, "source1")
    assert set(part.loc[part["split"] == "test", "source"]) == {"source1"}
    assert set(part.loc[part["split"] != "test", "source"]) == {"source0"}
    assert set(part["split"]) == {"train", "validation", "test"}


def test_a_text_that_the_source_shares_with_another_is_left_out_of_training_too():
    first = ROWS.index[(ROWS["source"] == "source0") & (ROWS["split"] == "train")][0]
    shared = ROWS.copy()
    shared.loc[first, "source_label"] = "source0=calm | source1=mild"
    told_again = shared.loc[[first]].assign(id="again", parent_id=shared.loc[first, "id"], origin="reinterpretation")
    told_again["source_label"] = "reinterpretation: calm"
    merged = pd.concat([shared, told_again], ignore_index=True)
    kept = [set(left_out.without_source(rows, merged, "source1")["id"]) for rows in (merged, merged.drop(index=first))]
    assert kept == [set(left_out.without_source(ROWS, ROWS, "source1")["id"]) - {ROWS.loc[first, "id"]}] * 2


def test_sources_that_hold_the_same_texts_are_not_left_out(tmp_path, capsys):
    both = ROWS.assign(source_label="source0=calm | source1=calm")
    assert unseen(tmp_path, both, left_out="probe") == []
    assert capsys.readouterr().out.count("not left out") == 2


@pytest.mark.parametrize("way", ["probe", "fine-tuned"])
def test_every_test_row_is_answered_once_by_a_model_that_never_saw_its_source(tmp_path, way, monkeypatch):
    trained_on = []
    for module, name in ((probes, "probe"), (finetune, "finetune")):
        real = getattr(module, name)
        seen = lambda *given, real=real, **more: trained_on.append(given) or real(*given, **more)  # noqa: E731
        monkeypatch.setattr(module, name, seen)
    tables = unseen(tmp_path, left_out=way, epochs=1.0)
    rows = [next(each for each in given if hasattr(each, "columns") and "source" in each) for given in trained_on]
    assert [set(part.loc[part["split"] == "train", "source"]) for part in rows] == [{"source1"}, {"source0"}]
    test = take(ROWS, "test", originals_only=True)
    answered = [name for table in tables for name in table["id"]]
    assert sorted(answered) == sorted(test["id"])
    for table in tables:
        predictions.check(table)
        assert (
            set(table["variant"]) == {LEFT_OUT} and set(table["setting"]) == {way} and set(table["task"]) == {"safety"}
        )
        metrics.align(table, metrics.truth_of(test), [])


def test_the_sources_that_are_named_are_left_out_and_by_default_none_is(tmp_path):
    (table,) = unseen(tmp_path, left_out="probe", left_out_sources=["source1"])
    assert set(ROWS.set_index("id").loc[table["id"], "source"]) == {"source1"}
    assert unseen(tmp_path) == [] and unseen(tmp_path, ROWS.assign(source="one"), left_out="probe") == []


def test_rows_that_are_met_several_times_are_not_multiplied_again(tmp_path, monkeypatch):
    plain, given = probes.probe, []
    monkeypatch.setattr(probes, "probe", lambda *args: given.append(args[3]) or plain(*args))
    unseen(tmp_path, left_out="probe", repeats={"source1": 2})
    assert len(given) == 2 and all(part["id"].is_unique for part in given)
