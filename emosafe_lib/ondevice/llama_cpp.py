"""A GGUF file in llama.cpp itself: its bytes, the time and memory of reading a message, and whether it goes on as PyTorch.

The table has the columns of `measure`, so that both stand below each other, and two more. xllamacpp brings llama.cpp as a
wheel; it is an extra, and where it is absent, or fails on a machine, the one row says so. Like every precision, llama.cpp
is measured in a process of its own, to whose end alone a native library can come.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd

from emosafe_lib.models import backbone, gguf_files
from emosafe_lib.models.capacity import count_parameters
from emosafe_lib.ondevice import measure
from emosafe_lib.study.machine import peak_memory_mb
from emosafe_lib.study.optional import ends_a_stage, note, reason
from emosafe_lib.study.parameters import ModelParams, load_model

DTYPE, EXTRA = "gguf", "run `.venv/bin/pip install -e '.[llamacpp]'`"
COLUMNS = [*measure.COLUMNS, "file_mb", "agreement"]
RUNS, SECONDS = 5, 600


def hindrance(model: ModelParams) -> str:
    """What keeps a model from being measured in llama.cpp here; an empty text where nothing is known to.

    `model` is as PyTorch reads it for comparison, in fp32 and on the CPU, which takes more memory than llama.cpp does.
    """
    if model.weights != "gguf":
        return f"weights: {model.weights} is no GGUF file"
    if importlib.util.find_spec("xllamacpp") is None:
        return f"xllamacpp is not installed: {EXTRA}"
    return measure.no_room(model, count_parameters(model), "float32")


def measure_llama_cpp(model: ModelParams, texts: list[str]) -> pd.DataFrame:
    """A row a length, on one message at a time; a single row with the reason where nothing could be measured.

    Parameters
    ----------
    texts : messages by which agreement is measured: the share of them behind which llama.cpp finds the same next token
        likeliest as PyTorch does in fp32 on the unpacked weights

    Returns
    -------
    columns of `measure`, then file_mb and agreement
    """
    plain, rows = model.model_copy(update={"dtype": "float32", "device": "cpu"}), []
    try:
        if not (why := hindrance(plain)):
            ids, likeliest = next_tokens(plain, texts)
            rows, why = measured_apart(model, ids)
    except Exception as error:  # whatever a library may raise while it reads the file
        if ends_a_stage(error):
            raise
        why = reason(error, "class")  # it has read messages
    if why:
        note("precision", f"{model.name} {DTYPE}", why)
        return pd.DataFrame([measure.unmeasured_row(model.name, DTYPE, why)], columns=COLUMNS)
    same = float(np.mean([found == wanted for found, wanted in zip(rows.pop(), likeliest, strict=True)]))
    size = gguf_files.gguf_file(model).stat().st_size / 2**20
    shared = {"model": model.name, "dtype": DTYPE, "device": "cpu", "batch": 1}
    shared |= {"weights_mb": round(size, 2), "file_mb": round(size, 2)}
    shared |= {"basis": measure.MEASURED, "reason": "", "agreement": round(same, 4), "peak_of": "loading and inference"}
    return pd.DataFrame([shared | row for row in rows], columns=COLUMNS)


def next_tokens(model: ModelParams, texts: list[str]) -> tuple[list[list[int]], list[int]]:
    """The token ids of texts, and which token PyTorch finds likeliest behind each."""
    import torch

    network, tokenizer = backbone.load_causal(model)
    ids = [tokenizer(text, split_special_tokens=True)["input_ids"] for text in texts]
    with torch.inference_mode():
        return ids, [int(network(torch.tensor([each]), logits_to_keep=1).logits.argmax()) for each in ids]


def measured_apart(model: ModelParams, ids: list[list[int]]) -> tuple[list, str]:
    """What `main` finds in a process of its own, and why it found nothing."""
    command = [sys.executable, "-m", "emosafe_lib.ondevice.llama_cpp", model.name]
    options = {"capture_output": True, "text": True, "timeout": SECONDS, "env": measure.environment()}
    try:
        done = subprocess.run(command, input=json.dumps(ids), **options)
    except subprocess.TimeoutExpired:
        return [], f"it was not done after {SECONDS} seconds"
    lines = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    return (json.loads(lines[-1]), "") if lines else ([], measure.ending(done))


def answered(server, ids: list[int]) -> tuple[int, float]:
    """The token that llama.cpp finds likeliest behind others, and the seconds that it took."""
    asked = {"prompt": ids, "max_tokens": 1, "temperature": 0.0, "logprobs": 1, "cache_prompt": False}
    started = time.perf_counter()
    reply = server.handle_completions(asked)
    return reply["choices"][0]["logprobs"]["content"][0]["id"], time.perf_counter() - started


def main() -> None:
    """`python -m emosafe_lib.ondevice.llama_cpp MODEL` prints a line of JSON: a mapping a length, and at the end the
    likeliest tokens behind the ids on standard input.
    """
    import xllamacpp

    model, ids = load_model(sys.argv[1]), json.load(sys.stdin)
    settings = xllamacpp.CommonParams()
    settings.model.path = str(gguf_files.gguf_file(model))
    settings.n_ctx, settings.n_parallel = max([*map(len, ids), *measure.LENGTHS]) + 8, 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or model.resources.threads)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.ui = settings.endpoint_slots = settings.warmup = False
    settings.hostnames, settings.cors_origins, settings.verbosity = ["127.0.0.1"], "", 0
    server = xllamacpp.Server(settings)
    loading, rows = peak_memory_mb(), []
    random = np.random.default_rng(0)
    for length in measure.LENGTHS:
        answered(server, [5] * length)
        spent = [answered(server, random.integers(100, 4000, length).tolist())[1] for _ in range(RUNS)]
        low, high = np.percentile(spent, [50, 95]) * 1000
        row = {"length": length, "runs": RUNS, "p50_ms": round(float(low), 2), "p95_ms": round(float(high), 2)}
        rows.append(row | {"loading_mb": round(loading, 1), "peak_mb": round(peak_memory_mb(), 1)})
    print(json.dumps([*rows, [answered(server, each)[0] for each in ids]]), flush=True)


if __name__ == "__main__":
    main()
