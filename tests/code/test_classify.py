"""The command that others use: the study's probabilities, one outcome per row, and never a text in the output."""

import io
import json

import numpy as np
import pytest
import tiny_models

from emosafe_lib import classify, finetune, models
from emosafe_lib.errors import ModelError
from emosafe_lib.taxonomy import CATEGORIES, SAFETY_LEVELS, TASKS

ROWS = tiny_models.make_rows()
CANARY = "danger threat harm 424242"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny LLaMA trained on both tasks and exported, with its predictions on the test rows."""
    home = tmp_path_factory.mktemp("classify")
    tiny_models.make_llama(home / "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "ASSETS", home)
        model, study = tiny_models.model_params(), tiny_models.study_params(epochs=4.0)
        results = {task: finetune.finetune(model, study, ROWS, task, 0, home / "runs") for task in TASKS}
        folder = classify.export(model, results, ROWS, study.finetuning.max_length, home / "exported")
    return folder, {task: finetune.predictions_of(result, ROWS, "fine-tuned") for task, result in results.items()}


@pytest.fixture(scope="module")
def classifier(exported):
    return classify.Classifier(exported[0], tokens_per_batch=128)


def test_the_export_gives_the_studys_predictions(exported, classifier):
    tables = exported[1]
    texts = ROWS.set_index("id").loc[tables["safety"]["id"], "text"]
    found = list(classifier.classify(texts))
    for row, level, risks in zip(found, tables["safety"].itertuples(), tables["categories"].itertuples(), strict=True):
        assert [row["level"]] == level.label and row["categories"] == risks.label
        assert np.allclose([row["level_probabilities"][name] for name in SAFETY_LEVELS], level.probabilities, atol=1e-3)
        assert np.allclose([row["category_probabilities"][name] for name in CATEGORIES], risks.probabilities, atol=1e-3)


def test_one_bad_row_does_not_stop_the_rest(classifier):
    texts = ["calm", "", None, 7, "x" * 100_001, "\ud800", "calm " * 99, "calm"]
    found = list(classifier.classify(texts))
    assert [row["row"] for row in found] == list(range(8))
    assert [row["outcome"].split(":")[0] for row in found] == ["ok", *["refused"] * 5, "truncated", "ok"]
    assert found[0]["level_probabilities"] == found[7]["level_probabilities"]


def test_memory_is_bounded_by_reading_no_further_than_a_chunk(classifier, monkeypatch):
    monkeypatch.setattr(classify, "CHUNK_ROWS", 4)
    read = []
    endless = (read.append(number) or "calm" for number in range(10**9))
    stream = classifier.classify(endless)
    assert [next(stream)["row"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) == 8


@pytest.mark.parametrize("kind", ["jsonl", "csv", "stdin", "arguments"])
def test_every_way_in_and_no_text_out(exported, tmp_path, monkeypatch, capsys, kind):
    options = ["--model", str(exported[0])]
    if kind == "jsonl":
        (tmp_path / "in.jsonl").write_text(json.dumps({"text": CANARY}) + f"\n{{{CANARY}\n" + json.dumps({"other": 1}))
        options += ["--file", str(tmp_path / "in.jsonl")]
    elif kind == "csv":
        (tmp_path / "in.csv").write_text(f"id,text\n1,{CANARY}\n2\n3,calm\n")
        options += ["--file", str(tmp_path / "in.csv")]
    elif kind == "stdin":
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{CANARY}\n\ncalm\n"))
        options += ["--file", "-"]
    else:
        options += [CANARY, "", "calm"]
    assert classify.main(options) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert len(rows) == 3 and rows[0]["outcome"] == "ok" and rows[1]["outcome"].startswith("refused")
    assert "424242" not in printed.out + printed.err and "not a clinical tool" in printed.err


def test_a_csv_without_the_column_is_one_line(exported, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("id,message\n1,calm\n")
    assert classify.main(["--model", str(exported[0]), "--file", str(tmp_path / "in.csv")]) == 1
    assert "--column" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no exported safety"):
        classify.Classifier(tmp_path)
