"""Measurements that add up: bytes as loaded, as many rows as cases, a peak of its own, a dead process named."""

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import tiny_models
import torch

from emosafe_lib.models import backbone, capacity
from emosafe_lib.ondevice import measure, runtimes, trials
from emosafe_lib.study import machine
from workflow.command import FOR_KERNELS

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra: emosafe[quantized]"
)


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """A tiny encoder and short measurements."""
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    monkeypatch.setattr(measure, "MOST_SECONDS", 0.001)
    monkeypatch.setattr(measure, "LENGTHS", (8, 16))


def test_every_case_is_measured_and_weights_agree_with_the_plan():
    model = tiny_models.model_params("encoder", device="cpu")
    rows = measure.measure_dtype(model, "float32")
    assert {(row["batch"], row["length"]) for row in rows} == {(1, 8), (1, 16), (8, 8), (8, 16)}
    assert all(0 < row["p50_ms"] <= row["p95_ms"] and row["peak_mb"] >= row["weights_mb"] for row in rows)
    plan = capacity.weight_bytes(capacity.count_parameters(model), "float32") / 2**20
    assert rows[0]["weights_mb"] == pytest.approx(plan, rel=0.2, abs=0.02)


@needs_bitsandbytes
def test_packed_weights_are_smaller():
    model = tiny_models.model_params("encoder", device="cpu")
    sizes = [measure.stored_mb(measure.network_for(model, dtype)) for dtype in ("float32", "int8", "int4")]
    assert max(sizes[1:]) < sizes[0]


@needs_bitsandbytes
def test_four_bits_are_measured_on_a_cpu_and_their_scales_count():
    network = measure.network_for(tiny_models.model_params("encoder", device="cpu"), "int4")
    assert "Linear4bit" in {type(layer).__name__ for layer in network.modules()}
    bare = sum(tensor.numel() * tensor.element_size() for tensor in [*network.parameters(), *network.buffers()])
    assert measure.stored_mb(network) > bare / 2**20
    rows = measure.measure_dtype(tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path=""), "int4")
    assert {row["dtype"] for row in rows} == {"int4"} and len(rows) == 4


def in_turn(model, dtypes):
    """All rows of one process, one below the other."""
    return [row for rows in measure.measure_in_turn(model, dtypes) for row in rows]


@needs_bitsandbytes
@pytest.mark.parametrize("regroups", [True, False])
@pytest.mark.parametrize("width", [176, 192])
def test_four_bits_are_read_whatever_the_width_and_whichever_way_bitsandbytes_takes(monkeypatch, regroups, width):
    """Where it regroups weights it does so 32 rows at a time, and one rung of the ladder is 176 wide inside."""
    import bitsandbytes

    regrouped = []
    plain = bitsandbytes.nn.modules._convert_weight_packed_for_cpu
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: regroups)
    monkeypatch.setattr(
        bitsandbytes.nn.modules, "_convert_weight_packed_for_cpu", lambda *given: regrouped.append(1) or plain(*given)
    )
    shape = SHAPE | {"intermediate": width, "hidden": 64}
    network = measure.network_for(
        tiny_models.model_params(weights="random", shape=shape, device="cpu", path=""), "int4"
    )
    for layer in (module for module in network.modules() if type(module).__name__ == "Linear4bit"):
        if regroups and layer.support_avx512bf16_for_cpu:
            bitsandbytes.nn.modules._convert_weight_packed_for_cpu(layer.weight.data, layer.weight.quant_state)
        assert not layer.support_avx512bf16_for_cpu or 176 not in (layer.in_features, layer.out_features)
    assert bool(regrouped) == regroups


def test_a_precision_that_a_library_refuses_is_a_row_with_its_reason_and_the_others_are_measured(monkeypatch):
    plain = measure.network_for

    def refusing(model, dtype):
        if dtype == "int8":
            raise AssertionError("N must be divisible by block_n\nand more")
        return plain(model, dtype)

    monkeypatch.setattr(measure, "network_for", refusing)
    model = tiny_models.model_params("encoder", device="cpu")
    found = pd.DataFrame(in_turn(model, ["int8", "float32"]), columns=measure.COLUMNS)
    refused = found[found["basis"] == measure.NOT_MEASURED]
    assert refused["dtype"].tolist() == ["int8"]
    assert refused["reason"].tolist() == ["AssertionError: N must be divisible by block_n"]
    assert (found.loc[found["basis"] == measure.MEASURED, "dtype"] == "float32").sum() == 4


def test_a_measurement_that_dies_takes_only_its_own_precision_with_it(monkeypatch):
    """Here the process is killed in int8, after float32 was told."""
    told = json.dumps([{"model": "m", "dtype": "float32", "basis": "measured", "reason": ""}])
    script = f"import os, signal; print({told!r}, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    plain = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **kept: plain([sys.executable, "-c", script], **kept))
    found = measure.measure_apart("m", ["float32", "int8", "int4"])
    assert found["basis"].tolist() == ["measured", "not measured"] and found["dtype"].tolist() == ["float32", "int8"]
    assert found["reason"].tolist()[1] == "its process ended with status -9: it left no message"


def test_a_model_that_cannot_be_opened_gives_a_row_a_precision():
    found = measure.measure_all([("no-such-model", ["float32", "int8"])])
    assert found["basis"].tolist() == ["not measured"] * 2 and found["reason"].str.contains("no-such-model").all()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's own account of a process")
def test_a_measurement_is_not_charged_with_its_parents_memory():
    held = np.ones(100_000_000)  # 763 MiB, written to
    command = [sys.executable, "-c", "from emosafe_lib.ondevice import measure; print(measure.peak_mb())"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 10 < float(said) < parent - 0.5 * held.nbytes / 2**20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot count its peak anew")
def test_the_peak_is_of_reading_and_not_of_what_loading_held(monkeypatch):
    plain = measure.network_for

    def wasteful(model, dtype):
        return plain(model, dtype) if np.ones(50_000_000).all() else None  # 381 MiB, gone before the first message

    monkeypatch.setattr(measure, "network_for", wasteful)
    rows = measure.measure_dtype(tiny_models.model_params("encoder", device="cpu"), "int8")
    assert all(row["weights_mb"] < row["peak_mb"] < row["loading_mb"] - 200 for row in rows)
    assert {row["peak_of"] for row in rows} == {"inference"}


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="reads Linux's own account of a process")
@pytest.mark.parametrize("dtype", ["float32", "int8", pytest.param("int4", marks=needs_bitsandbytes)])
def test_a_measured_network_keeps_no_file_of_weights_in_memory(tmp_path, dtype):
    """Packed layers keep their biases, and one tensor mapped from a file keeps the whole of it."""
    network = measure.network_for(tiny_models.model_params("encoder", device="cpu"), dtype)
    measure.forget_peak()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text() and network.num_labels == 3


def test_a_peak_that_cannot_be_counted_anew_says_so(monkeypatch):
    monkeypatch.setattr(measure, "forget_peak", lambda gpu: False)
    rows = measure.measure_dtype(tiny_models.model_params("encoder", device="cpu"), "float32")
    assert {row["peak_of"] for row in rows} == {"loading and inference"}
    assert all(row["peak_mb"] >= row["loading_mb"] for row in rows) and list(rows[0]) == measure.COLUMNS


def test_several_rows_are_read_by_a_llama_that_declares_no_pad_token(tmp_path):
    tiny_models.make_llama(tmp_path / "llama")
    config = tmp_path / "llama" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token_id": None}))
    rows = measure.measure_dtype(tiny_models.model_params("llama", device="cpu"), "int8")
    assert [row["batch"] for row in rows] == [1, 1, 8, 8]


SHAPE = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocabulary": 300}


def test_a_true_shape_is_measured_without_a_checkpoint():
    model = tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path="")
    rows = measure.measure_dtype(model, "float32")
    plan = capacity.weight_bytes(capacity.count_parameters(model), "float32") / 2**20
    assert len(rows) == 4 and rows[0]["weights_mb"] == pytest.approx(plan, rel=0.2, abs=0.02)


def test_random_weights_go_through_a_checkpoint_where_they_are_to_be_packed(monkeypatch):
    read = []
    plain = backbone.load_network
    monkeypatch.setattr(measure, "load_network", lambda model, *a, **k: read.append(model) or plain(model, *a, **k))
    model = tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path="", quantization="int4")
    network = measure.saved_and_loaded(model)
    assert [m.weights for m in read] == ["random", "hub"] and [m.quantization for m in read] == ["none", "int4"]
    assert network.config.hidden_size == 16 and network.num_labels == 3


def test_weights_on_their_way_to_a_gpu_are_made_in_bf16(monkeypatch):
    made, plain = [], backbone.load_network

    def load(*given, **options):
        network = plain(*given, **options)
        made.append(network.dtype)
        return network

    monkeypatch.setattr(measure, "load_network", load)
    measure.saved_and_loaded(tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path=""))
    assert made[0] == torch.bfloat16


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with bitsandbytes, as far as plans go; gives a function that sets what is free in each memory."""

    def free(memory=10**9, ram=10**9, disk=10**9):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (memory, 10**12))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=ram))
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk))

    monkeypatch.setattr(measure, "pick_device", lambda model: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(trials, "tried_apart", lambda name, device: "")
    forget_trials()
    free()
    yield free
    forget_trials()


def forget_trials():
    """What was tried on a machine that was put on for a test says nothing about any other."""
    for trial in (trials.bfloat16, trials.int8, trials.int4):
        trial.cache_clear()


@pytest.mark.parametrize(
    ("weights", "small", "place", "kept"),
    [
        ("random", {"ram": 9000}, "RAM", ["float32", "bfloat16", "int8", "int4"]),
        ("hub", {"ram": 9000}, "RAM", ["float32", "bfloat16"]),
        ("random", {"disk": 9000}, "disk", ["int8", "int4"]),
        ("hub", {"disk": 9000}, "disk", []),
        ("random", {"memory": 20_000}, "GPU memory", ["float32", "bfloat16"]),
    ],
)
def test_what_does_not_fit_on_its_way_is_told_and_not_tried(gpu, weights, small, place, kept):
    """The weights take 29, 14, 12 and 11 kB; what is packed is made from the 14."""
    model = tiny_models.model_params(weights=weights, shape=SHAPE, path="nobody/made")
    assert measure.cases({"made": measure.hindrances(model)}) == {"made": list(capacity.LINEAR_BITS)}
    gpu(**small)
    reasons = measure.hindrances(model)
    assert [dtype for dtype, reason in reasons.items() if reason] == kept
    assert all(f"GB of {place}" in reasons[dtype] for dtype in kept)
    left = [dtype for dtype in reasons if dtype not in kept]
    assert measure.cases({"made": reasons}) == ({"made": left} if left else {})


def test_a_cpu_needs_room_for_fp32_in_every_dtype_and_a_servers_model_needs_none(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=20_000))
    model = tiny_models.model_params(weights="random", shape=SHAPE, device="cpu", path="")
    assert "GB of RAM" in measure.hindrances(model)["int8"]
    served = measure.hindrances(tiny_models.model_params(backend="openai"))
    assert set(served.values()) == {"a server answers for it"} and not measure.cases({"served": served})


def test_57_bf16_that_a_gpu_only_emulates_is_not_measured(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    reasons = measure.hindrances(tiny_models.model_params(weights="random", shape=SHAPE, path=""))
    assert [dtype for dtype, reason in reasons.items() if "bf16 instructions" in reason] == ["bfloat16"]


def test_true_shapes_are_measured_where_there_is_a_gpu_and_only_there(monkeypatch):
    assert measure.true_shapes(["llama-1b"]) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    shapes = measure.true_shapes(["llama-1b", "llama-8b"])
    assert [model.weights for model in shapes.values()] == ["random", "random"]


@pytest.fixture
def asked(monkeypatch):
    """What processes are asked to measure: each measures a dtype, as where a peak cannot be counted anew."""
    told = []

    def measure_apart(name, dtypes, random):
        told.append((name, list(dtypes), random))
        return pd.DataFrame([{"model": name, "dtype": dtypes[0], "basis": "measured"}])

    monkeypatch.setattr(measure, "measure_apart", measure_apart)
    return told


def test_a_shape_is_measured_as_a_shape_and_a_model_as_a_model(asked):
    measure.measure_all([("nano-1", ["int8"]), ("llama-1b", ["int4"])], {"llama-1b": None})
    assert asked == [("nano-1", ["int8"], False), ("llama-1b", ["int4"], True)]


def test_dtypes_that_a_process_left_out_get_a_process_of_their_own(asked):
    measured = measure.measure_all([("nano-1", ["float32", "int8"])])
    assert [dtypes for _, dtypes, _ in asked] == [["float32", "int8"], ["int8"]]
    assert measured["dtype"].tolist() == ["float32", "int8"]
    assert measure.measure_all([]).columns.tolist() == measure.COLUMNS


def test_a_process_goes_on_to_the_next_dtype_only_where_peaks_are_counted_anew(monkeypatch):
    model = tiny_models.model_params("encoder", device="cpu")
    for anew, expected in ((True, ["float32", "int8"]), (False, ["float32"])):
        monkeypatch.setattr(measure, "forget_peak", lambda gpu, anew=anew: anew)
        rows = in_turn(model, ["float32", "int8"])
        assert list(dict.fromkeys(row["dtype"] for row in rows)) == expected


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system cannot count its peak anew")
def test_a_dtype_is_not_charged_with_the_one_before(monkeypatch):
    """381 MiB that only the first network holds."""
    plain = measure.network_for

    def heavy(model, dtype):
        network = plain(model, dtype)
        if dtype == "float32":
            network.ballast = np.ones(50_000_000)
        return network

    monkeypatch.setattr(measure, "network_for", heavy)
    rows = in_turn(tiny_models.model_params("encoder", device="cpu"), ["float32", "int8"])
    first, second = (max(row["peak_mb"] for row in rows if row["dtype"] == dtype) for dtype in ("float32", "int8"))
    assert second < first - 300
    assert max(row["loading_mb"] for row in rows if row["dtype"] == "int8") < first - 300


def test_a_measurement_takes_the_threads_of_the_process_that_asks_and_gives_freed_memory_back(monkeypatch):
    given = []
    monkeypatch.setenv("GLIBC_TUNABLES", FOR_KERNELS["GLIBC_TUNABLES"])

    def run(command, env, **_):
        assert "GLIBC_TUNABLES" not in env and env["PATH"] == os.environ["PATH"]
        given.append(env["OMP_NUM_THREADS"])
        return SimpleNamespace(returncode=0, stdout='[{"dtype": "float32"}]', stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    measure.measure_apart("nano-1", ["float32"])
    assert given == [str(torch.get_num_threads())] == [str(machine.machine()["threads"])]


class Reader:
    """A runtime that takes the seconds it is told, one pass after another."""

    def __init__(self, clock: list, seconds: list):
        self.clock, self.seconds, self.read = clock, list(seconds), []

    def probabilities(self, texts):
        self.read.append(len(texts))
        self.clock[0] += self.seconds.pop(0)


def test_rates_are_medians_of_passes_after_one_to_warm_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    parts = {"plain": Reader(clock, [9, 2, 2, 8, 2, 2]), "small": Reader(clock, [9, 1, 1, 1, 8, 8])}
    texts = ["a message"] * (2 * runtimes.TIMED_ROWS + 1)
    assert runtimes.rates(parts, texts) == {"plain": 86 / 2, "small": 86.0}
    assert parts["plain"].read == [86] * 6
