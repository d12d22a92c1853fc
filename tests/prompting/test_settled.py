"""Close calls of bf16 are made once more in fp32: labels are fp32's, wherever the decisions lie."""

from dataclasses import replace

import numpy as np
import prompting
import pytest
import tiny_models

from emosafe_lib.models import backbone, precision
from emosafe_lib.prompting import answers, backends, scoring
from emosafe_lib.study.taxonomy import TASKS


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """A tiny random model that a processor with fast bf16 answers with."""
    prompting.network().save_pretrained(tmp_path / "llama")
    prompting.tokenizer().save_pretrained(tmp_path / "llama")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    monkeypatch.setattr(precision, "half_precision", lambda: True)
    return backends.open_backend(tiny_models.model_params("llama", dtype="bfloat16", device="cpu", context_tokens=4096))


def fitted(backend, task, rows, settings):
    asked = scoring.pose(backend, settings, rows, task, "zero-shot", "plain")
    validation, test = (rows[rows["split"] == split].reset_index(drop=True) for split in ("validation", "test"))
    calibration = answers.calibrate(
        scoring.score_rows(backend, asked, validation), validation, answers.content_free_bias(backend, asked)
    )
    return asked, test, calibration


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_those_of_fp32(backend, task, monkeypatch):
    monkeypatch.setattr(answers, "MEASURED_ROWS", 4)
    rows, settings = tiny_models.make_rows(12, 40), tiny_models.study_params().prompting
    asked, test, calibration = fitted(backend, task, rows, settings)
    rough = scoring.score_rows(backend, asked, test)
    settled = answers.settled(backend, rough, calibration, test)
    exact = scoring.score_rows(backend.exact, asked, test)
    labels = [answers.predictions_of(scores, calibration)["label"].tolist() for scores in (settled, exact)]
    assert labels[0] == labels[1] and str(backend.network.dtype) == "torch.bfloat16"
    assert settled.facts["rows_in_fp32"] <= 40 and settled.facts["moved"] > 0


def test_what_lies_far_from_every_decision_is_not_scored_again(backend, monkeypatch):
    monkeypatch.setattr(answers, "MEASURED_ROWS", 4)
    settings = tiny_models.study_params().prompting
    asked, test, calibration = fitted(backend, "safety", tiny_models.make_rows(12, 40), settings)
    rough = scoring.score_rows(backend, asked, test)
    far = replace(calibration, bias=np.array([[0.0, 500.0, 1000.0]]))
    assert answers.settled(backend, rough, far, test).facts["rows_in_fp32"] == 4


@pytest.mark.parametrize(("distance", "rows_in_fp32"), [(0.0, 40), (500.0, 4)])
def test_where_nearly_all_validation_rows_are_close_calls_test_rows_are_read_in_fp32_at_once(
    backend, tmp_path, monkeypatch, distance, rows_in_fp32
):
    monkeypatch.setattr(answers, "MEASURED_ROWS", 4)
    monkeypatch.setattr(answers, "margins", lambda scores, calibration: np.full((len(scores), 1), distance))
    rows = tiny_models.make_rows(12, 40)
    validation = rows[rows["split"] == "validation"].reset_index(drop=True)
    asked, test, calibration = fitted(backend, "safety", rows, tiny_models.study_params().prompting)
    on_validation = scoring.score_rows(backend, asked, validation)
    scores = answers.of_test(backend, on_validation, calibration, validation, test, tmp_path / "shards")
    assert scores.facts["rows_in_fp32"] == rows_in_fp32 and scores.ids == test["id"].to_list()
    (shards,) = (tmp_path / "shards").iterdir()
    exact = scoring.digest_of(backend.exact, asked, test)
    assert (shards.name == exact) == (distance == 0.0)


def test_a_margin_is_the_distance_to_where_the_label_changes():
    scores = np.array([[[-1.0, -1.5]], [[-3.0, -1.0]]])
    calibration = answers.Calibration(np.zeros((1, 2)), 2.0, np.array([0.6]), False)
    chances = answers.probabilities_of(scores, "categories", 0.0, 2.0)[:, 0]
    moves = answers.margins(scores, calibration)[:, 0]
    for row, chance, move in zip(scores, chances, moves, strict=True):
        nudged = row[None] + np.array([[move, 0.0]]) * (1 if chance < 0.6 else -1)
        assert answers.probabilities_of(nudged, "categories", 0.0, 2.0)[0, 0] == pytest.approx(0.6)


def test_where_nothing_is_rounded_nothing_is_scored_again(backend, monkeypatch):
    monkeypatch.setattr(precision, "half_precision", lambda: False)
    plain = backends.open_backend(backend.model)
    assert plain.exact is None and answers.settled(plain, "scores", None, None) == "scores"
