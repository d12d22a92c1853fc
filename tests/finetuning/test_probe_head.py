"""A head that begins as the probe: the same answers before a step is taken, and a classifier like any other after it."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from emosafe_lib.finetuning import probe_head, probes
from emosafe_lib.finetuning.finetune import finetune
from emosafe_lib.finetuning.network import build_network
from emosafe_lib.finetuning.objective import probabilities_of, targets
from emosafe_lib.finetuning.plan import make_plan, weights_of
from emosafe_lib.finetuning.scores import reload_difference
from emosafe_lib.models import backbone
from emosafe_lib.models.batching import encode
from emosafe_lib.models.classifier import load_classifier, logits_of
from emosafe_lib.ondevice import export, exported
from emosafe_lib.study.errors import EmosafeError
from emosafe_lib.study.parameters import ModelParams, validate
from emosafe_lib.study.taxonomy import TASK_LABELS, TASKS

STUDY = tiny_models.study_params(epochs=1.0)
BEGUN = {"pooling": "mean", "head": "probe"}


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    tiny_models.make_llama(tmp_path / "llama")
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)


@pytest.mark.parametrize("name", ["llama", "encoder"])
@pytest.mark.parametrize("task", TASKS)
def test_before_training_the_classifier_answers_as_logistic_regression_on_its_states(name, task, monkeypatch):
    monkeypatch.setattr(probe_head, "STRENGTHS", (0.1,))
    model, rows = tiny_models.model_params(name, training=BEGUN), tiny_models.make_rows()
    plan = make_plan(model, STUDY, rows, task, 0)
    network, tokenizer = build_network(plan)
    states = [probe_head.read_states(base_of(network), tokenizer, plan, part) for part in (plan.train, plan.test)]
    labels, known = targets(plan.train, task)
    wanted = probes.predict(probes.fit(states[0], labels, known, 0.1, task), states[1], labels, known, task)
    encoded = encode(tokenizer, plan.test["text"], plan.settings.max_length)
    found = probabilities_of(logits_of(network, tokenizer, encoded, 256), weights_of(plan), task)
    asked = labels.sum(axis=0) > 0
    assert np.abs(found - wanted)[:, asked].max() < 1e-4


def test_a_head_reads_its_rows_out_of_features_and_only_rows_beyond_them_anew(monkeypatch):
    rows, model = tiny_models.make_rows(), tiny_models.model_params(training=BEGUN)
    features = probes.extract(model, STUDY, rows)
    plan = make_plan(model, STUDY, rows, TASKS[0], 0)
    network, tokenizer = load_classifier(model, TASK_LABELS[TASKS[0]])
    own, given = (probe_head.states_of(network, tokenizer, plan, one) for one in (None, features))
    assert all(np.abs(a - b).max() < 1e-5 and a.shape == b.shape for a, b in zip(own, given, strict=True))
    monkeypatch.setattr(probe_head, "read_states", lambda *_: pytest.fail("read again"))
    for one in (
        plan,
        make_plan(model, STUDY, rows, TASKS[1], 1),
        make_plan(model, STUDY, rows, TASKS[0], 0, budget=12),
    ):
        build_network(one, features)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        build_network(plan, replace(features, ids=features.ids[1:]))


def test_features_are_read_once_and_taken_from_where_they_are_kept(monkeypatch, tmp_path):
    rows, model = tiny_models.make_rows(), tiny_models.model_params(training=BEGUN)
    read = probes.extract(model, STUDY, rows, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(probes, "read_features", None)
        kept = probes.extract(model, STUDY, rows, tmp_path)
    assert kept.ids == read.ids and np.array_equal(kept.truncated, read.truncated)
    assert kept.values.keys() == read.values.keys()
    assert all(np.array_equal(kept.values[choice], read.values[choice]) for choice in read.values)
    probes.extract(model, STUDY, rows.assign(text=rows["text"] + " too"), tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def base_of(network):
    """The classifier below an adapter, or itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def test_a_level_that_training_lacks_is_not_answered():
    model, rows = tiny_models.model_params(training=BEGUN), tiny_models.make_rows()
    rows = rows[(rows["split"] != "train") | (rows["safety"] != "borderline")]
    plan = make_plan(model, STUDY, rows, "safety", 0)
    network, tokenizer = build_network(plan)
    logits = logits_of(network, tokenizer, encode(tokenizer, plan.test["text"], 32), 256)
    assert (logits.argmax(axis=1) != 1).all() and np.isfinite(logits).all()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_mean_pooled_llama_is_saved_merged_exported_and_read_again(tmp_path, method):
    model, rows = tiny_models.model_params(training=BEGUN | {"method": method}), tiny_models.make_rows()
    results = {task: finetune(model, STUDY, rows, task, 0, tmp_path / "runs") for task in TASKS}
    assert (reload_difference(model, STUDY, rows, results["safety"]) < 1e-4).all()
    folder = export.export(model, results, rows, 32, tmp_path / "exported")
    network, tokenizer, _ = exported.load_exported(folder / "safety")
    logits = logits_of(network, tokenizer, encode(tokenizer, rows[rows["split"] == "test"]["text"], 32), 256)
    assert type(network).__name__ == "MeanPooledLlama" and np.isfinite(logits).all()


def test_a_probe_for_a_head_that_pools_otherwise_is_refused():
    data = {"name": "m", "family": "llama", "weights": "assets", "path": "x", "training": {"head": "probe"}}
    with pytest.raises(EmosafeError, match="pooling: mean"):
        validate(data, ModelParams, "m.yaml")
