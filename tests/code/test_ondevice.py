"""Measurements that add up: bytes as loaded, as many rows as cases, a dead process named."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models

from emosafe_lib import capacity, models, ondevice
from emosafe_lib.errors import ModelError


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A tiny encoder and short measurements."""
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    monkeypatch.setattr(ondevice, "MOST_SECONDS", 0.001)
    monkeypatch.setattr(ondevice, "LENGTHS", (8, 16))


def test_every_case_is_measured_and_weights_agree_with_the_plan():
    model = tiny_models.model_params("encoder", device="cpu")
    rows = ondevice.measure(model, "float32")
    assert {(row["batch"], row["length"]) for row in rows} == {(1, 8), (1, 16), (32, 8), (32, 16)}
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["peak_mb"] >= row["loaded_mb"] for row in rows)
    plan = capacity.weight_bytes(capacity.count_parameters(model), "float32") / 2**20
    assert rows[0]["weights_mb"] == pytest.approx(plan, rel=0.2, abs=0.02)


def test_int8_weights_are_smaller():
    model = tiny_models.model_params("encoder", device="cpu")
    sizes = [ondevice.stored_mb(ondevice.network_for(model, dtype)) for dtype in ("float32", "int8")]
    assert sizes[1] < sizes[0]


def test_a_measurement_that_dies_is_named():
    with pytest.raises(ModelError, match="no-such-model in float32"):
        ondevice.measure_apart("no-such-model", "float32")


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's own account of a process")
def test_a_measurement_is_not_charged_with_its_parents_memory():
    held = np.ones(100_000_000)  # 763 MiB, written to
    command = [sys.executable, "-c", "from emosafe_lib import ondevice; print(ondevice.peak_mb())"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 10 < float(said) < parent - 0.5 * held.nbytes / 2**20


SHAPE = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocabulary": 300}


def test_a_true_shape_is_measured_without_a_checkpoint():
    model = tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path="")
    rows = ondevice.measure(model, "float32")
    plan = capacity.weight_bytes(capacity.count_parameters(model), "float32") / 2**20
    assert len(rows) == 4 and rows[0]["weights_mb"] == pytest.approx(plan, rel=0.2, abs=0.02)


def test_random_weights_go_through_a_checkpoint_where_they_are_to_be_packed(monkeypatch):
    read = []
    plain = ondevice.load_network
    monkeypatch.setattr(ondevice, "load_network", lambda model, *a, **k: read.append(model) or plain(model, *a, **k))
    model = tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path="", quantization="int4")
    network = ondevice.saved_and_loaded(model)
    assert [m.weights for m in read] == ["random", "hub"] and [m.quantization for m in read] == ["none", "int4"]
    assert network.config.hidden_size == 16 and network.num_labels == 3


def test_true_shapes_are_measured_where_there_is_a_gpu_and_only_there(monkeypatch):
    import torch

    assert ondevice.true_shapes(["llama-1b"]) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shapes = ondevice.true_shapes(["llama-1b", "llama-8b"])
    assert [model.weights for model in shapes.values()] == ["random", "random"]


def test_a_shape_is_measured_as_a_shape_and_a_model_as_a_model(monkeypatch):
    asked = []
    monkeypatch.setattr(ondevice, "measure_apart", lambda *case: asked.append(case) or ondevice.pd.DataFrame())
    ondevice.measure_all([("nano-1", "int8"), ("llama-1b", "int4")], {"llama-1b": None})
    assert asked == [("nano-1", "int8", False), ("llama-1b", "int4", True)]
