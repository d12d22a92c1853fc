"""Latency and memory of classifying on this machine, measured in a process of its own.

A claim such as "fits on a phone" needs three numbers that people often mix up: the bytes of the weights, the memory of
the whole process at its peak, and the time until one message is classified. They are measured here for a network with a
fresh head (training moves no byte and no millisecond), on random tokens, with the machine named beside them. For the same
reason a LLaMA's true shape needs no checkpoint: on a GPU it is measured with random weights.
"""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from emosafe_lib.models.backbone import load_network, quiet
from emosafe_lib.models.capacity import LINEAR_BITS, count_parameters, weight_bytes
from emosafe_lib.models.precision import on_counted_memory, pick_device, use_threads
from emosafe_lib.models.quantization import four_bits
from emosafe_lib.ondevice import trials
from emosafe_lib.study.machine import peak_memory_mb
from emosafe_lib.study.memory import give_back
from emosafe_lib.study.optional import ends_a_stage, note, reason, without_folders
from emosafe_lib.study.parameters import ModelParams, load_model

BATCHES, LENGTHS = (1, 8), (64, 256)
COLUMNS = (
    "model dtype device batch length runs p50_ms p95_ms weights_mb loading_mb peak_mb peak_of basis reason".split()
)
COLUMN_TYPES = dict.fromkeys(["batch", "length", "runs"], "Int64") | dict.fromkeys(
    ["p50_ms", "p95_ms", "weights_mb", "loading_mb", "peak_mb"], "float64"
)
MEASURED, NOT_MEASURED = "measured", "not measured"
SHARE_OF_MEMORY = 0.7
MOST_SECONDS, FEWEST_RUNS, MOST_RUNS = 0.3, 3, 40
SLOW_SECONDS = 2.0  # of few runs together: what takes so long varies little from run to run


def on_gpu(model: ModelParams) -> bool:
    """Whether this model is measured on a GPU here."""
    return pick_device(model).type == "cuda"


def hindrances(model: ModelParams) -> dict[str, str]:
    """What keeps this machine from measuring a model, one short reason a dtype; an empty text where nothing does."""
    if model.backend != "transformers":
        return dict.fromkeys(LINEAR_BITS, "a server answers for it")
    model = on_counted_memory(model)
    counts = count_parameters(model)
    return {dtype: reason or no_room(model, counts, dtype) for dtype, reason in refused_dtypes(model).items()}


def refused_dtypes(model: ModelParams) -> dict[str, str]:
    """Why the device cannot run a dtype at a sensible speed, whatever the model's size; an empty text where it can."""
    device = pick_device(model).type
    trial = {"bfloat16": trials.bfloat16, "int8": trials.int8, "int4": trials.int4}
    return {dtype: trial[dtype](device) if dtype in trial else "" for dtype in LINEAR_BITS}


def no_room(model: ModelParams, counts: dict[str, int], dtype: str) -> str:
    """Which memory is too small for a model's weights in a dtype; an empty text where each is large enough."""
    for place, (needed, free) in rooms(model, counts, dtype).items():
        if needed > SHARE_OF_MEMORY * free:
            return f"{needed / 1e9:.1f} GB of weights are too much for {free / 1e9:.1f} GB of {place}"
    return ""


def rooms(model: ModelParams, counts: dict[str, int], dtype: str) -> dict[str, tuple[int, int]]:
    """Bytes of weights that each memory has to hold at once, and bytes free there.

    A CPU quantizes what it has loaded in fp32. On their way to a GPU weights lie in RAM, and random ones that are to be
    packed lie in temporary files too (`saved_and_loaded`); bitsandbytes reads a checkpoint piece by piece.
    """
    import torch

    ram, disk = psutil.virtual_memory().available, shutil.disk_usage(tempfile.gettempdir()).free
    if not on_gpu(model):
        return {"RAM": (weight_bytes(counts, "float32"), ram)}
    packed, made = dtype.startswith("int"), model.weights == "random"
    places = [()]  # this process's own GPU; packed weights take all where the file asks for several, see `placement`
    if packed and model.resources.gpus > 1:
        places = [(gpu,) for gpu in range(torch.cuda.device_count())]
    passing = weight_bytes(counts, "bfloat16" if packed else dtype)
    return {
        "GPU memory": (weight_bytes(counts, dtype), sum(torch.cuda.mem_get_info(*gpu)[0] for gpu in places)),
        "RAM": (passing if made or not packed else 0, ram),
        "disk": (passing if made and packed else 0, disk),
    }


def cases(kept_from: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """The dtypes of each model that can be measured here, out of its `hindrances`; no model without a dtype."""
    able = {name: [dtype for dtype, reason in reasons.items() if not reason] for name, reasons in kept_from.items()}
    return {name: dtypes for name, dtypes in able.items() if dtypes}


def true_shapes(names: Iterable[str]) -> dict[str, ModelParams]:
    """These models with random weights, where there is a GPU to measure them on; none on a CPU, which would take hours."""
    import torch

    named = names if torch.cuda.is_available() else ()
    return {name: load_model(name).model_copy(update={"weights": "random"}) for name in named}


def network_for(model: ModelParams, dtype: str):
    """A classifier with a fresh head in a dtype that meets no `hindrances`.

    bitsandbytes packs weights for a GPU, and four bits on a CPU, where it multiplies in fp32; eight are PyTorch's there.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    gpu, packed, options = on_gpu(model), dtype.startswith("int"), {}
    if gpu:
        kind = {"quantization": dtype if packed else "none", "dtype": "bfloat16" if packed else dtype}
        model = model.model_copy(update=kind)
    elif dtype == "int4":
        options["quantization_config"] = four_bits(torch.float32)
    if model.weights == "random" and packed and (gpu or dtype == "int4"):
        network = saved_and_loaded(model, **options)
    else:
        full = {} if gpu else {"dtype": torch.float32}
        network = load_network(model, AutoModelForSequenceClassification, num_labels=3, **full, **options)
    if getattr(network.config, "pad_token_id", None) is None:
        network.config.pad_token_id = 0  # Llama 3 declares none, and without one several rows at once are refused
    if gpu:
        return network
    unmap(network)
    if dtype == "int4":
        return network
    if packed:
        linear = {torch.nn.Linear}
        return torch.ao.quantization.quantize_dynamic(network, linear, dtype=torch.qint8, inplace=True)
    return network.to(getattr(torch, dtype))


def unmap(network) -> None:
    """Copy weights out of the file that they are mapped from.

    One bias that stays keeps all of a file's weights in memory, packed or not, and pages not yet read are not counted.
    """
    for tensor in [*network.parameters(), *network.buffers()]:
        tensor.data = tensor.data.clone()


def saved_and_loaded(model: ModelParams, **options):
    """A classifier of random weights that went through a checkpoint: bitsandbytes packs what it reads from one, as
    `options` for `from_pretrained` or the model's own parameters say.

    Weights are made in bf16, half of what a CPU would take by itself: `rooms` counts on it.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    with tempfile.TemporaryDirectory() as folder:
        plain = model.model_copy(update={"device": "cpu", "quantization": "none"})
        kind = {"num_labels": 3, "dtype": torch.bfloat16}
        load_network(plain, AutoModelForSequenceClassification, **kind).save_pretrained(folder)
        stored = model.model_copy(update={"weights": "hub", "path": folder})
        return load_network(stored, AutoModelForSequenceClassification, num_labels=3, **options)


def latencies(network, batch: int, length: int, vocabulary: int) -> np.ndarray:
    """Seconds of repeated forward passes over random tokens, after one row to warm up, and the whole batch where that is
    quick; shape (runs,).

    A pass that takes `SLOW_SECONDS` by itself is made once: its percentiles are then its one time.
    """
    import torch

    device = getattr(network, "device", "cpu")
    ids = torch.randint(5, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)
    mask, spent = torch.ones_like(ids), []
    with torch.inference_mode():
        started = time.perf_counter()
        network(input_ids=ids[:1], attention_mask=mask[:1])
        if (time.perf_counter() - started) * batch < MOST_SECONDS:
            network(input_ids=ids, attention_mask=mask).logits.cpu()
        while still_few(spent):
            started = time.perf_counter()
            network(input_ids=ids, attention_mask=mask).logits.cpu()
            spent.append(time.perf_counter() - started)
    return np.array(spent)


def still_few(spent: list[float]) -> bool:
    """Whether a latency needs further runs, by the seconds of those that were made."""
    if len(spent) < FEWEST_RUNS:
        return sum(spent) < SLOW_SECONDS
    return sum(spent) < MOST_SECONDS and len(spent) < MOST_RUNS


def peak_mb(gpu: bool = False) -> float:
    """Peak memory in MiB since `forget_peak`: what PyTorch allocated on all GPUs, else this process's resident memory."""
    import torch

    if not gpu:
        return peak_memory_mb()
    return sum(torch.cuda.max_memory_allocated(each) for each in range(torch.cuda.device_count())) / 2**20


def forget_peak(gpu: bool = False) -> bool:
    """Give back what nobody needs, then count the peak anew from what is held; False where the system cannot.

    Without it int8 weights would seem to need more than fp32 ones, since they are made from these.
    """
    import torch

    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        for each in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(each)
        return True
    give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def stored_mb(network) -> float:
    """MiB of all weights as they lie in memory, packed ones and their scales included."""
    tensors = [*network.parameters(), *network.buffers()]
    states = [tensor.quant_state for tensor in tensors if getattr(tensor, "quant_state", None) is not None]
    tensors += [part.absmax for state in states for part in (state, state.state2)]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    for module in network.modules():
        packed = getattr(module, "weight", None)
        if callable(packed):  # a dynamically quantized layer gives its weight through a method
            total += packed().numel() * packed().element_size()
    return total / 2**20


def measure_dtype(model: ModelParams, dtype: str) -> list[dict]:
    """One row per batch and length, measured in this process.

    `peak_mb` is of reading messages alone, or of loading too where `peak_of` says so; `loading_mb` is the peak before.
    """
    model = on_counted_memory(model)
    with quiet():
        network = network_for(model, dtype)
    gpu, rows = on_gpu(model), []
    loading, weights = peak_mb(gpu), stored_mb(network)
    for batch in BATCHES:
        for length in LENGTHS:
            peak_of = "inference" if forget_peak(gpu) else "loading and inference"
            spent = latencies(network, batch, length, network.config.vocab_size)
            low, high = np.percentile(spent, [50, 95]) * 1000
            rows.append(
                {"model": model.name, "dtype": dtype, "device": pick_device(model).type}
                | {"batch": batch, "length": length, "runs": len(spent)}
                | {"p50_ms": round(float(low), 2), "p95_ms": round(float(high), 2)}
                | {"weights_mb": round(weights, 2), "loading_mb": round(loading, 1)}
                | {"peak_mb": round(peak_mb(gpu), 1), "peak_of": peak_of, "basis": MEASURED, "reason": ""}
            )
    return rows


def unmeasured_row(name: str, dtype: str, why: str) -> dict:
    """The row of a precision that this machine does not run: no numbers, but why there are none."""
    return {"model": name, "dtype": dtype, "basis": NOT_MEASURED, "reason": why}


def measure_in_turn(model: ModelParams, dtypes: Iterable[str]) -> Iterator[list[dict]]:
    """The rows of one dtype after another, as far as this process can: where a peak cannot be counted anew, the next
    dtype would be charged with the last one's.

    A dtype that the libraries refuse here, such as a layer whose width does not fit a packed format, gives a single row
    that says so: one precision less is no reason to know nothing of the others.
    """
    for dtype in dtypes:
        try:
            rows = measure_dtype(model, dtype)
        except Exception as error:  # whatever a library may raise on this machine, and nobody can list that
            if ends_a_stage(error):
                raise
            rows = [unmeasured_row(model.name, dtype, reason(error))]
        yield rows
        if not forget_peak(on_gpu(model)):
            break


def environment() -> dict[str, str]:
    """What every process is measured in: as many threads as this one, and memory that goes back when it is freed. Whatever
    keeps it, as the runner has glibc do, would be counted.
    """
    import torch

    found = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    found.pop("GLIBC_TUNABLES", None)
    return found


def measure_apart(name: str, dtypes: Sequence[str], random: bool = False) -> pd.DataFrame:
    """`measure_in_turn` in a fresh process with as many threads as this one, so that peak memory belongs to this model
    alone; `random` for its shape only. It may leave later dtypes out, never the first.

    A process that dies takes only the dtype with it that it was measuring, which gets a row that says so.
    """
    command = [sys.executable, "-m", "emosafe_lib.ondevice.measure", name, ",".join(dtypes)]
    command += ["random"] if random else []
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    rows = [row for line in done.stdout.splitlines() if line.startswith("[") for row in json.loads(line)]
    told = {row["dtype"] for row in rows}
    left = [dtype for dtype in dtypes if dtype not in told]
    if done.returncode and left:
        rows.append(unmeasured_row(name, left[0], ending(done)))
    return pd.DataFrame(rows, columns=COLUMNS)


def ending(done: subprocess.CompletedProcess) -> str:
    """How a process of its own ended: its status and the last line that it left."""
    last = (done.stderr.strip().splitlines() or ["it left no message"])[-1][:200]
    return f"its process ended with status {done.returncode}: {without_folders(last)}"


def measure_all(
    chosen: Iterable[tuple[str, Sequence[str]]],
    random: Collection[str] = (),
    kept_from: dict[str, dict[str, str]] | None = None,
) -> pd.DataFrame:
    """`measure_apart` for models and their dtypes until none is left, one below the other; no rows, but the columns,
    where there is no model.

    `random` names the models whose shape alone is measured. What is not measured has a row and is noted for the stage's
    manifest, that which `hindrances` kept from being tried as well.
    """
    parts = []
    for name, left in chosen:
        while left:
            part = measure_apart(name, left, name in random)
            left = [dtype for dtype in left if dtype not in set(part["dtype"])]
            parts.append(part)
    hindered = [(name, *pair) for name, reasons in (kept_from or {}).items() for pair in reasons.items() if pair[1]]
    parts += [pd.DataFrame([unmeasured_row(*each) for each in hindered], columns=COLUMNS)] if hindered else []
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    found = table.reindex(columns=COLUMNS).astype(COLUMN_TYPES)
    for row in found[found["basis"] == NOT_MEASURED].itertuples():
        note("precision", f"{row.model} {row.dtype}", row.reason)
    return found


def main() -> None:
    """`python -m emosafe_lib.ondevice.measure MODEL DTYPE,DTYPE [random]` prints a line of JSON a dtype: its rows."""
    model = load_model(sys.argv[1])
    if "random" in sys.argv[3:]:
        model = model.model_copy(update={"weights": "random"})
    use_threads(model)
    for rows in measure_in_turn(model, sys.argv[2].split(",")):
        print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
