"""A head that begins as the probe: the same answers before a step is taken, and a classifier like any other after it."""

from itertools import product

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
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.ondevice import export, exported
from emosafe_lib.study.errors import EmosafeError
from emosafe_lib.study.parameters import ModelParams, validate
from emosafe_lib.study.taxonomy import TASKS

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


def test_rows_are_read_once_for_all_seeds_and_tasks_and_again_for_another_base(monkeypatch, tmp_path):
    read = probe_head.read_states
    rows, seen = tiny_models.make_rows(), []
    monkeypatch.setattr(probe_head, "READ", {})
    monkeypatch.setattr(probe_head, "read_states", lambda *given: seen.append(given[2]) or read(*given))
    model = tiny_models.model_params(training=BEGUN)
    for task, seed in product(TASKS, (0, 1)):
        build_network(make_plan(model, STUDY, rows, task, seed))
    assert len(seen) == 2, "training and validation rows"
    build_network(make_plan(model, tiny_models.study_params(max_length=8), rows, TASKS[0], 0))
    assert len(seen) == 4
    tiny_models.make_llama(tmp_path / "llama", seed=1)
    build_network(make_plan(model, STUDY, rows, TASKS[0], 0))
    assert len(seen) == 6


def test_the_states_of_a_few_sets_of_rows_are_kept_and_no_more(monkeypatch):
    rows = tiny_models.make_rows()
    monkeypatch.setattr(probe_head, "READ", {})
    monkeypatch.setattr(probe_head, "MOST_READ", 3)
    plans = [
        make_plan(tiny_models.model_params(training=BEGUN), tiny_models.study_params(max_length=n), rows, TASKS[0], 0)
        for n in (8, 16)
    ]
    for plan in plans:
        build_network(plan)
    kept = list(probe_head.READ)
    assert len(kept) == 3
    monkeypatch.setattr(probe_head, "read_states", None)
    build_network(plans[1])
    assert list(probe_head.READ) == kept, "those that were asked for last are at hand"


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
