"""Two studies side by side: paired where they answered the same rows, refused where they did not."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import answers_of, made_up_rows, model_table

from emosafe_lib import cli
from emosafe_lib.data.card import rows_sha256
from emosafe_lib.evaluation import compare_studies, predictions
from emosafe_lib.evaluation.paired_tests import holm
from emosafe_lib.study import files, paths
from emosafe_lib.study.rows import write_rows

ROWS = made_up_rows(240)
PARAMS = "name: {name}\ndata: {{sources: [emosafe_sample]}}\nanalysis: {{resamples: 200}}\nmodels: [nano-1, nano-2]\n"


@pytest.fixture
def put(tmp_path, monkeypatch, outputs):
    """A function that writes a finished study: its name, a table of runs by model, its rows, and the models of its last run
    where they are not those that have a table.
    """
    (tmp_path / "params" / "study").mkdir(parents=True)
    (tmp_path / "params" / "models").symlink_to(paths.project_root() / "params" / "models")
    monkeypatch.setenv("EMOSAFE_ROOT", str(tmp_path))

    def write(name, runs, rows=ROWS, models=None):
        (tmp_path / "params" / "study" / f"{name}.yaml").write_text(PARAMS.format(name=name))
        base, sha = outputs / name, rows_sha256(rows)
        write_rows(rows, base / "01_data_merge" / "rows.parquet")
        write_rows(rows.iloc[:0], base / "02_chatgpt_augmentation" / "reinterpretations.parquet")
        files.write_json(base / "data_card.json", {"sha256": sha})
        files.write_json(base / compare_studies.ANALYSIS, {"parameters": {"models": models or list(runs)}})
        (base / "results.csv").write_text("model\n")
        for model, table in runs.items():
            path = base / model / "predictions" / "prompting.parquet"
            predictions.write(table.drop(columns="model"), path, model=model, data_sha256=sha)

    return write


def runs(skill, rows=ROWS, seed=0):
    return {name: model_table(rows, name, skill, seed) for name in ("nano-1", "nano-2")}


def test_a_study_compared_with_itself_differs_by_nothing(put):
    put("one", runs(1.0))
    put("two", runs(1.0))
    table = compare_studies.compare_studies("one", "two")
    assert len(table) and (table["value"] == 0).all() and (table["p"] == 1).all()


def test_a_better_second_study_is_found_cell_by_cell(put, outputs, capsys):
    put("one", runs(0.5))
    put("two", runs(1.5, seed=7))
    assert cli.main(["compare", "one", "two"]) == 0
    said = capsys.readouterr().out
    table = pd.read_csv(outputs / "compare" / "one-two.csv")
    clear = table[(table["metric"] == "macro_f1") & (table["p_holm"].astype(float) < 0.05)]
    for _, part in table.groupby("metric"):
        assert np.allclose(part["p_holm"].astype(float), holm(part["p"].astype(float)), atol=1e-4, equal_nan=True)
    assert (table["p_holm"].astype(float) > table["p"].astype(float)).any()
    assert {"nano-1", "nano-2"} <= set(clear["model"]) and (clear["value"].astype(float) > 0).all()
    assert "nano-1" in said and np.isclose(table["value"], table["second"] - table["first"], atol=1e-5).all()


FIRST = ROWS.index == ROWS.index[ROWS["split"] == "test"][0]
OTHER = {"text": "another word", "split": "train", "group": "alone"}
OTHER |= {"safety": "unsafe" if ROWS["safety"][FIRST].item() == "safe" else "safe"}
OTHER |= {"categories": [False] * 6, "category_known": [False] * 6}


@pytest.mark.parametrize("column", OTHER)
def test_64_other_data_another_split_other_labels_and_groups_are_refused(column, put, capsys):
    """One row of one study is another one."""
    values = [OTHER[column] if first else value for first, value in zip(FIRST, ROWS[column], strict=True)]
    other = ROWS.assign(**{column: values})
    put("one", runs(1.0))
    put("two", runs(1.0, other), other)
    assert cli.main(["compare", "one", "two"]) == 1
    assert "one and two: were made from different data" in capsys.readouterr().err


def test_a_study_that_has_not_run_is_named(put, capsys):
    put("one", runs(1.0))
    put("two", {})
    (paths.outputs_root() / "two" / "results.csv").unlink()
    assert cli.main(["compare", "one", "two"]) == 1
    assert "outputs/two/results.csv" in capsys.readouterr().err


def test_a_study_is_compared_by_the_models_of_its_last_run_and_not_by_those_that_it_names(put):
    tables = {name: model_table(ROWS, name, 1.0, 0) for name in ("nano-1", "minilm")}
    for name in ("one", "two"):
        put(name, tables, models=["minilm"])
    assert set(compare_studies.compare_studies("one", "two")["model"]) == {"minilm"}


def test_what_a_model_of_an_earlier_run_left_from_other_data_stops_no_comparison(put, outputs):
    for name in ("one", "two"):
        put(name, runs(1.0), models=["nano-2"])
    old = outputs / "two" / "nano-1" / "predictions" / "prompting.parquet"
    predictions.write(runs(1.0)["nano-1"].drop(columns="model"), old, model="nano-1", data_sha256="1" * 64)
    assert set(compare_studies.compare_studies("one", "two")["model"]) == {"nano-2"}


def test_only_what_both_have_is_compared(put):
    both = runs(1.0)
    put("one", {"nano-1": both["nano-1"]})
    put("two", both)
    assert set(compare_studies.compare_studies("one", "two")["model"]) == {"nano-1"}


def test_studies_without_a_common_run_are_refused(put, capsys):
    both = runs(1.0)
    put("one", {"nano-1": both["nano-1"]})
    put("two", {"nano-2": both["nano-2"]})
    assert cli.main(["compare", "one", "two"]) == 1
    assert "one and two: have no model and setting in common; run one model in both" in capsys.readouterr().err


def test_a_study_with_one_setting_is_compared_in_that_one(put):
    put("one", runs(1.0))
    fewer = {"nano-1": pd.concat(answers_of(ROWS, 1.0, setting="few-shot", variant="plain")).assign(model="nano-1")}
    put("two", fewer)
    table = compare_studies.compare_studies("one", "two")
    assert set(table["setting"]) == {"few-shot"} and (table["n"] == (ROWS["split"] == "test").sum()).all()
