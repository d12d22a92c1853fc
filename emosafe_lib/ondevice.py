"""Latency and memory of classifying on this machine, measured in a process of its own.

A claim such as "fits on a phone" needs three numbers that people often mix up: the bytes of the weights, the memory of
the whole process at its peak, and the time until one message is classified. They are measured here for a network with a
fresh head (training moves no byte and no millisecond), on random tokens, with the machine named beside them. For the same
reason a LLaMA's true shape needs no checkpoint: on a GPU it is measured with random weights.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.errors import ModelError
from emosafe_lib.models import load_network, pick_device, quiet, use_threads
from emosafe_lib.params import ModelParams, load_model
from emosafe_lib.stage import peak_memory_mb
from emosafe_lib.taxonomy import TASKS

BATCHES, LENGTHS = (1, 32), (64, 256)
COLUMNS = "model dtype batch length runs p50_ms p95_ms weights_mb loaded_mb peak_mb basis".split()
SHARE_OF_MEMORY = 0.7
BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
MOST_SECONDS, FEWEST_RUNS, MOST_RUNS = 1.0, 3, 40


def machine() -> dict:
    """What the numbers were measured on; no host or user name."""
    import torch

    named = (line.split(":")[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name"))
    name = next(named, platform.machine())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"cpu": name, "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def lines_of(name: str) -> list[str]:
    """The lines of one of Linux's files of facts; none on a system without it."""
    path = Path(name)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def dtypes_here(model: ModelParams) -> list[str]:
    """What this machine can run at a sensible speed."""
    return [dtype for dtype, hindrance in hindrances(model).items() if not hindrance]


def hindrances(model: ModelParams) -> dict[str, str]:
    """What keeps this machine from running a dtype, an empty text where nothing does."""
    import torch

    if pick_device(model).type == "cpu":
        able = {name for name, found in torch.cpu.get_capabilities().items() if found is True}
        slow = "" if able & BF16_INSTRUCTIONS else "this CPU has no bf16 instructions: it would be far slower than fp32"
        return {"float32": "", "bfloat16": slow, "int8": "", "int4": "needs bitsandbytes and a GPU"}
    packed = "" if importlib.util.find_spec("bitsandbytes") else "bitsandbytes is not installed"
    old = "" if torch.cuda.is_bf16_supported() else "this GPU has no bf16 instructions"
    return {"float32": "", "bfloat16": old, "int8": packed, "int4": packed}


def cases(models: dict[str, ModelParams]) -> list[tuple[str, str]]:
    """The (model, dtype) pairs that can be measured here: of models that run in this process and fit into its memory."""
    from emosafe_lib.capacity import count_parameters, weight_bytes

    pairs = [(name, dtype) for name in models for dtype in local_dtypes(models[name])]
    counts = {name: count_parameters(models[name]) for name in dict(pairs)}
    room = SHARE_OF_MEMORY * memory_bytes()
    return [(name, dtype) for name, dtype in pairs if weight_bytes(counts[name], loaded_as(dtype)) <= room]


def local_dtypes(model: ModelParams) -> list[str]:
    """`dtypes_here`, or none for a model that a server answers for."""
    return dtypes_here(model) if model.backend == "transformers" else []


def true_shapes(names: Iterable[str]) -> dict[str, ModelParams]:
    """These models with random weights, where there is a GPU to measure them on; none on a CPU, which would take hours."""
    import torch

    named = names if torch.cuda.is_available() else ()
    return {name: load_model(name).model_copy(update={"weights": "random"}) for name in named}


def loaded_as(dtype: str) -> str:
    """The dtype whose weights lie in memory while loading: a CPU quantizes what it has loaded in fp32."""
    import torch

    return dtype if torch.cuda.is_available() else "float32"


def memory_bytes() -> int:
    """Memory of the device that `measure` uses: the first GPU's, else the machine's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def network_for(model: ModelParams, dtype: str):
    """A classifier with a fresh head in one of `dtypes_here`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    cpu, packed = pick_device(model).type == "cpu", dtype.startswith("int")
    if not cpu:
        kind = {"quantization": dtype if packed else "none", "dtype": "bfloat16" if packed else dtype}
        model = model.model_copy(update=kind)
    if packed and not cpu and model.weights == "random":
        return saved_and_loaded(model)
    network = load_network(model, AutoModelForSequenceClassification, num_labels=3)
    if cpu and packed:
        return torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    return network.to(getattr(torch, dtype)) if cpu else network


def saved_and_loaded(model: ModelParams):
    """A classifier of random weights that went through a checkpoint: bitsandbytes packs what it reads from one."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with tempfile.TemporaryDirectory() as folder:
        plain = model.model_copy(update={"device": "cpu", "quantization": "none"})
        network = load_network(plain, AutoModelForSequenceClassification, num_labels=3)
        network.to(torch.bfloat16).save_pretrained(folder)
        stored = model.model_copy(update={"weights": "hub", "path": folder})
        return load_network(stored, AutoModelForSequenceClassification, num_labels=3)


def latencies(network, batch: int, length: int, vocabulary: int) -> np.ndarray:
    """Seconds of repeated forward passes over random tokens, after one row to warm up; shape (runs,)."""
    import torch

    device = getattr(network, "device", "cpu")
    ids = torch.randint(5, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    mask, spent = torch.ones_like(ids), []
    with torch.inference_mode():
        network(input_ids=ids[:1], attention_mask=mask[:1])
        while len(spent) < FEWEST_RUNS or (sum(spent) < MOST_SECONDS and len(spent) < MOST_RUNS):
            started = time.perf_counter()
            network(input_ids=ids, attention_mask=mask).logits.cpu()
            spent.append(time.perf_counter() - started)
    return np.array(spent)


def peak_mb() -> float:
    """Peak memory of this process so far, in MiB: on a GPU the device's, else resident memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_memory_mb()


def stored_mb(network) -> float:
    """MiB of all weights as they lie in memory, packed int8 weights included."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in [*network.parameters(), *network.buffers()])
    for module in network.modules():
        packed = getattr(module, "weight", None)
        if callable(packed):  # a dynamically quantized layer gives its weight through a method
            total += packed().numel() * packed().element_size()
    return total / 2**20


def measure(model: ModelParams, dtype: str) -> list[dict]:
    """One row per batch and length, measured in this process."""
    with quiet():
        network = network_for(model, dtype)
    base, vocabulary = peak_mb(), network.config.vocab_size
    rows = []
    for batch in BATCHES:
        for length in LENGTHS:
            spent = latencies(network, batch, length, vocabulary)
            low, high = np.percentile(spent, [50, 95]) * 1000
            rows.append(
                {"model": model.name, "dtype": dtype, "batch": batch, "length": length, "runs": len(spent)}
                | {"p50_ms": round(float(low), 2), "p95_ms": round(float(high), 2)}
                | {"weights_mb": round(stored_mb(network), 2), "loaded_mb": round(base, 1)}
                | {"peak_mb": round(peak_mb(), 1), "basis": "measured"}
            )
    return rows


def measure_apart(name: str, dtype: str, random: bool = False) -> pd.DataFrame:
    """`measure` in a fresh process, so that peak memory belongs to this model alone; `random` for its shape only.

    Raises
    ------
    ModelError : the process died, for want of memory perhaps
    """
    command = [sys.executable, "-m", "emosafe_lib.ondevice", name, dtype, *(["random"] if random else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        raise ModelError(f"{name} in {dtype}", f"could not be measured ({last})", "see that the model loads")
    return pd.DataFrame(json.loads(done.stdout.splitlines()[-1]))


def measure_all(chosen: Iterable[tuple[str, str]], random: Collection[str] = ()) -> pd.DataFrame:
    """`measure_apart` for (model, dtype) pairs, one below the other; no rows, but the columns, where there is no pair.

    `random` names the models whose shape alone is measured.
    """
    parts = [measure_apart(name, dtype, name in random) for name, dtype in chosen]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def compare_runtimes(folder: Path, rows: pd.DataFrame, tokens_per_batch: int = 512) -> pd.DataFrame:
    """An export's runtimes on the same rows: size, speed, and whether they still say what PyTorch says.

    Parameters
    ----------
    folder : an export with its ONNX files; bf16 is left out where the processor would be slow at it
    rows : labelled rows, such as the test split

    Returns
    -------
    one row a task and runtime: task, runtime, file_mb, rows_per_second (one pass, tokenizing included), agreement
    (share of rows with the label, or the whole set of labels, that PyTorch gives), largest_difference (between
    probabilities), macro_f1, rows
    """
    from emosafe_lib import classify, metrics, predictions

    truth, found = metrics.truth_of(rows), []
    for task in (task for task in TASKS if (Path(folder) / task).is_dir()):
        plain = None
        for runtime in classify.runtimes_here(Path(folder) / task):
            part = classify.TaskClassifier(Path(folder) / task, runtime)
            part.probabilities(rows["text"].tolist()[:8], tokens_per_batch)
            started = time.perf_counter()
            chances, _ = part.probabilities(rows["text"].tolist(), tokens_per_batch)
            seconds, limits = time.perf_counter() - started, part.fitted.get("thresholds")
            table = predictions.make(rows["id"], task, "fine-tuned", chances, thresholds=limits)
            plain = (chances, table["label"]) if plain is None else plain
            same = [set(a) == set(b) for a, b in zip(plain[1], table["label"], strict=True)]
            found.append(
                {"task": task, "runtime": runtime, "file_mb": round(part.path.stat().st_size / 2**20, 2)}
                | {"rows_per_second": round(len(rows) / seconds, 1), "agreement": round(float(np.mean(same)), 4)}
                | {"largest_difference": round(float(np.abs(chances - plain[0]).max()), 6)}
                | {"macro_f1": metrics.scores(truth, metrics.align(table, truth))["macro_f1", ""], "rows": len(rows)}
            )
    return pd.DataFrame(found)


def main() -> None:
    """`python -m emosafe_lib.ondevice MODEL DTYPE [random]` prints the rows as JSON."""
    model = load_model(sys.argv[1])
    if "random" in sys.argv[3:]:
        model = model.model_copy(update={"weights": "random"})
    use_threads(model)
    print(json.dumps(measure(model, sys.argv[2])))


if __name__ == "__main__":
    main()
