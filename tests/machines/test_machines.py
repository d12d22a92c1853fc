"""Machines that this one is not: does measuring, classifying and a tiny training run end with rows or reasons on each?

Processors and packages are what they are when a process begins, so those machines get a process of their own (`tries`);
devices, and what the system tells of memory, are put on inside this one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
from simulated import AVX2, IMPORTS, broken_package

from emosafe_lib.models import backbone, precision
from emosafe_lib.models.capacity import LINEAR_BITS
from emosafe_lib.ondevice import measure, trials

HERE = Path(__file__).parent
MEASURED = "measured"
# name: environment, cores told, how bitsandbytes fails on import, and what must be measured
PROCESSES = {
    "avx2, one core": (AVX2 | {"OMP_NUM_THREADS": "1"}, 1, "OSError", {"float32", "int8"}),
    "no vector units, sixteen cores told": (
        {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "16"},
        16,
        "dies",
        {"float32", "int8"},
    ),
}


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A tiny encoder, short measurements, and no trial remembered from another machine."""
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    monkeypatch.setattr(measure, "MOST_SECONDS", 0.001)
    monkeypatch.setattr(measure, "LENGTHS", (8,))
    forget()
    yield
    forget()


def forget():
    for trial in (trials.bfloat16, trials.int8, trials.int4, trials.onnx, trials.eight_bits_on_a_cpu):
        trial.cache_clear()
    precision.half_precision.cache_clear()
    precision.no_bitsandbytes.cache_clear()
    if sys.modules.get("bitsandbytes", "absent") is None:
        del sys.modules["bitsandbytes"]


def environment(more, folder=None):
    """This process's environment and more, with a folder in front of where packages are looked for."""
    places = [str(folder)] if folder else []
    places += [str(HERE.parents[1]), str(HERE.parent / "helpers")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)} | more


@pytest.mark.slow
@pytest.mark.parametrize("machine", PROCESSES)
def test_another_processor_or_package_ends_with_rows_or_reasons(tmp_path, machine):
    more, cores, broken, able = PROCESSES[machine]
    command = [sys.executable, str(HERE / "tries.py"), str(cores)]
    given = environment(more, broken_package(tmp_path / "site", broken))
    done = subprocess.run(command, capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["outcomes"] == ["ok"] * 3 and set(found["measured"]) == set(LINEAR_BITS) and all(found["measured"])
    assert able <= {dtype for dtype, said in found["measured"].items() if said == MEASURED}
    assert found["measured"]["int4"].startswith("int4 does not run here") and not found["facts"]["bitsandbytes"]
    assert found["facts"]["threads"] == int(more["OMP_NUM_THREADS"]) and found["facts"]["cpus"] == cores
    if more.get("ONEDNN_MAX_CPU_ISA"):
        assert not found["facts"]["bf16"] and found["measured"]["bfloat16"] == trials.SLOW_BF16


@pytest.mark.parametrize("kind", IMPORTS)
def test_bitsandbytes_that_cannot_be_imported_is_a_reason_and_leaves_no_line(tmp_path, monkeypatch, capfd, kind):
    for name, value in environment({}, broken_package(tmp_path / "site", kind)).items():
        monkeypatch.setenv(name, value)
    reasons = measure.refused_dtypes(tiny_models.model_params("encoder", device="cpu"))
    assert reasons["float32"] == reasons["int8"] == ""
    expected = "status -6" if kind == "dies" else IMPORTS[kind].partition("raise ")[2].partition("(")[0]
    assert reasons["int4"].startswith("int4 does not run here (") and expected in reasons["int4"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", sorted(set(IMPORTS) - {"dies"}))
def test_a_gpu_whose_bitsandbytes_is_broken_is_told_in_one_line(tmp_path, monkeypatch, capfd, kind):
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(broken_package(tmp_path / "site", kind))
    why = precision.no_bitsandbytes()
    assert sys.modules["bitsandbytes"] is None, "hidden from peft"
    assert why.startswith("bitsandbytes cannot be imported (") and len(why.splitlines()) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("regroups", [True, False])
def test_four_bits_are_rows_or_a_reason_whichever_way_bitsandbytes_takes(monkeypatch, regroups):
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: regroups)
    (rows,) = measure.measure_in_turn(tiny_models.model_params("encoder", device="cpu"), ["int4"])
    assert all(row["basis"] == MEASURED or row["reason"] for row in rows)
    if not regroups:  # what every processor can do; a slip of ours would read as a machine that cannot
        assert {row["basis"] for row in rows} == {MEASURED}


def test_a_system_without_clear_refs_says_that_loading_is_in_the_peak(monkeypatch):
    def refused(self, *_, **__):
        raise PermissionError(13, "not permitted", str(self))

    monkeypatch.setattr(Path, "write_text", refused)
    rows = next(measure.measure_in_turn(tiny_models.model_params("encoder", device="cpu"), ["float32", "int8"]))
    assert {(row["basis"], row["peak_of"]) for row in rows} == {(MEASURED, "loading and inference")}


DEVICES = {
    "no GPU": ("cpu", {}),
    "MPS": ("mps", {}),
    "a GPU without bf16": ("cuda", {"bfloat16": "this GPU has no bf16 instructions"}),
}


@pytest.mark.parametrize("machine", DEVICES)
def test_another_device_ends_with_rows_or_reasons(monkeypatch, machine):
    """The GPU is not there, so what the plan lets pass is refused by PyTorch: a reason again. On MPS the CPU is measured."""
    device, kept = DEVICES[machine]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**9, 10**10))
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for module in (precision, measure, backbone.precision):
        monkeypatch.setattr(
            module, "pick_device", lambda model: torch.device("cpu" if model.device == "cpu" else device)
        )
    if device == "cuda":
        monkeypatch.setattr(trials, "tried_apart", lambda name, device: "")
    model = tiny_models.model_params("encoder")
    assert precision.hardware(model)["device"] == device
    reasons = measure.hindrances(model)
    assert all(reasons[dtype].startswith(why) for dtype, why in kept.items())
    if device == "mps":
        assert reasons == measure.hindrances(model.model_copy(update={"device": "cpu"}))
    able = [dtype for dtype, reason in reasons.items() if not reason]
    assert able
    for rows in measure.measure_in_turn(model, able[:1]):
        assert all(row["basis"] == MEASURED or row["reason"] for row in rows)


def test_peft_comes_without_bitsandbytes_and_packs_all_the_same_once_it_is_asked():
    code = (
        "import sys; from emosafe_lib.models import quantization as q; q.spare_bitsandbytes(); "
        "from peft import import_utils as p; assert not p.is_bnb_available() and 'bitsandbytes' not in sys.modules; "
        "q.show_peft_bitsandbytes(); assert p.is_bnb_4bit_available()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment({}))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bf16_products_that_are_missing_or_slow_are_found_by_trying(monkeypatch):
    for slowness, able in ((0.2, True), (1.9, True), (5.0, False), (60.0, False), (float("inf"), False)):
        monkeypatch.setattr(precision, "bf16_slowness", lambda slowness=slowness: slowness)
        precision.half_precision.cache_clear()
        assert precision.half_precision() is able
        monkeypatch.setattr(precision, "bf16_slowness", lambda: 1 / 0)
        assert precision.half_precision() is able, "remembered"
