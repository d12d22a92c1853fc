"""What a model runs on: its device, the precision of its weights and products, its threads.

Where the machine cannot do what the parameter file asks for, the fallback is declared by `hardware`, so that every
result can say what it really ran on.
"""

import importlib.util
import io
import math
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import cache

from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams

# Seconds of a bfloat16 product of this width, by those of a float32 one, as measured on one processor that oneDNN was told
# to see less and less of: 0.2 with matrix units (amx_bf16), 1.8 with vector instructions alone (avx512_bf16), 5 with
# avx512 without them, 45 to 60 with avx2. The bound lies amid the gap.
TRIED_WIDTH, TRIED_SECONDS, MOST_SLOWNESS = 384, 0.2, 3.0


def pick_device(model: ModelParams):
    """The torch device that this model's parameter file asks for, the CPU where there is none such; `auto` takes CUDA,
    then Apple's MPS, then the CPU.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = list(there) if model.device == "auto" else [model.device, "cpu"]
    return torch.device(next(name for name in wanted if there[name]))


def pick_dtype(model: ModelParams):
    """The torch dtype to load in, as declared where the device is fit for it. A CPU takes bfloat16 where that is fast, and
    else float32, since reduced precision is far slower there.
    """
    import torch

    device = pick_device(model).type
    if device == "cpu":
        return torch.bfloat16 if model.dtype == "bfloat16" and half_precision() else torch.float32
    return torch.float16 if model.dtype == "bfloat16" and not has_bfloat16(device) else getattr(torch, model.dtype)


def has_bfloat16(device: str) -> bool:
    """Whether a GPU, "cuda" or "mps", multiplies bfloat16 itself; Apple's do from macOS 14 on."""
    import torch

    if device == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.cuda.is_bf16_supported(including_emulation=False)


def trained_dtype(model: ModelParams):
    """The torch dtype of a classifier's backbone: `pick_dtype`'s where it is frozen, float32 where all of it trains, since
    AdamW's steps are smaller than what half precision can add to a weight. Always float32 on MPS and CPU: the Trainer's
    mixed precision is CUDA's, ours on a CPU is `mixed_precision`, and what is saved there must serve other processors.
    """
    import torch

    frozen = model.training.method == "lora" and pick_device(model).type == "cuda"
    return pick_dtype(model) if frozen else torch.float32


@cache
def half_precision() -> bool:
    """Whether bfloat16 products are fit for use on this processor, tried once a process."""
    return bf16_slowness() < MOST_SLOWNESS


def bf16_slowness() -> float:
    """How many times the seconds of a float32 product the same one takes in bfloat16, on one thread.

    The two take turns for a while and the fastest of each counts, so that whatever else runs here falls on neither.
    """
    import torch

    threads, seconds = torch.get_num_threads(), {torch.float32: [], torch.bfloat16: []}
    squares = {dtype: torch.ones(TRIED_WIDTH, TRIED_WIDTH, dtype=dtype) for dtype in seconds}
    torch.set_num_threads(1)
    try:
        while len(seconds[torch.bfloat16]) < 3 or sum(map(sum, seconds.values())) < TRIED_SECONDS:
            for dtype, square in squares.items():
                started = time.perf_counter()
                square @ square
                seconds[dtype].append(time.perf_counter() - started)
    except RuntimeError:  # this build of PyTorch has no such product
        return math.inf
    finally:
        torch.set_num_threads(threads)
    return min(seconds[torch.bfloat16][1:]) / min(seconds[torch.float32][1:])


@cache
def no_bitsandbytes() -> str:
    """Why bitsandbytes cannot be imported here, tried once a process; an empty text where it can.

    The import stays silent, and what fails is hidden from then on: peft imports every bitsandbytes that is installed, and
    stands only one that is absent.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            importlib.import_module("bitsandbytes")
        except Exception as error:  # whatever a native library may raise on a machine that it was not built for
            sys.modules["bitsandbytes"] = None
            return f"bitsandbytes cannot be imported ({type(error).__name__})"
    return ""


def mixes_precision(model: ModelParams) -> bool:
    """Whether training multiplies in bfloat16 over float32 weights on this CPU; a GPU's precision is the Trainer's."""
    return pick_device(model).type == "cpu" and model.training.mixed_precision and half_precision()


def mixed_precision(model: ModelParams):
    """The context of a training step's forward pass: autocast to bfloat16 where `mixes_precision` says so."""
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixes_precision(model))


def pick_quantization(model: ModelParams) -> str:
    """int8 or int4 where it is asked for and runs on CUDA, else none: bitsandbytes packs nothing for MPS.

    Raises
    ------
    ModelError : a GPU without bitsandbytes; whoever asks for four bits there has no room for sixteen
    """
    if model.quantization == "none" or pick_device(model).type != "cuda":
        return "none"
    if why := no_bitsandbytes():
        what = f"asks for {model.quantization}, and {why}"
        raise ModelError(model.name, what, "run `.venv/bin/pip install -e '.[quantized]'`, or set quantization: none")
    return model.quantization


def rounds(model: ModelParams) -> bool:
    """Whether a CPU answers prompts in bfloat16, so that close calls can and should be looked at once more in float32."""
    return pick_device(model).type == "cpu" and str(pick_dtype(model)) != "torch.float32"


def hardware(model: ModelParams) -> dict:
    """What this model really runs on: device, dtype, quantization, and a note for each fallback from its file; of one
    that a server answers for, nothing is known.
    """
    if model.backend != "transformers":
        return {"device": "a server", "dtype": "unknown", "quantization": "unknown", "fallbacks": []}
    device, dtype = pick_device(model).type, str(pick_dtype(model)).removeprefix("torch.")
    quantization = pick_quantization(model)
    notes = []
    if model.device not in ("auto", device):
        notes.append(f"no {'GPU' if model.device == 'cuda' else 'MPS device'} here: runs on the CPU")
    if dtype != model.dtype:
        notes.append(f"{model.dtype} is not fit for this {device}: runs in {dtype}")
    if quantization != model.quantization:
        notes.append(f"{model.quantization} needs a CUDA GPU: runs unquantized")
    return {"device": device, "dtype": dtype, "quantization": quantization, "fallbacks": notes}


def precision(model: ModelParams) -> dict:
    """What of `hardware` decides a model's numbers: device, dtype and quantization."""
    return {name: value for name, value in hardware(model).items() if name != "fallbacks"}


def on_counted_memory(model: ModelParams) -> ModelParams:
    """The model on a device whose peak memory torch counts: on MPS it counts none, so the CPU is measured there."""
    return model.model_copy(update={"device": "cpu"}) if pick_device(model).type == "mps" else model


def use_threads(model: ModelParams) -> int:
    """Give torch as many threads as OMP_NUM_THREADS, else the model's file, says; returns the number."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or model.resources.threads))
    return torch.get_num_threads()
