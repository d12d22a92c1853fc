"""What a model runs on: its device, the precision of its weights and products, its threads.

Where the machine cannot do what the parameter file asks for, the fallback is declared by `hardware`, so that every
result can say what it really ran on.
"""

import importlib.util
import os

from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams


def pick_device(model: ModelParams):
    """The torch device that this model's parameter file asks for, the CPU where there is none such; `auto` takes CUDA,
    then Apple's MPS, then the CPU.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = list(there) if model.device == "auto" else [model.device, "cpu"]
    return torch.device(next(name for name in wanted if there[name]))


def pick_dtype(model: ModelParams):
    """The torch dtype to load in: float32 on a CPU, where reduced precision is far slower, else as declared."""
    import torch

    device = pick_device(model).type
    if device == "cpu":
        return torch.float32
    return torch.float16 if model.dtype == "bfloat16" and not has_bfloat16(device) else getattr(torch, model.dtype)


def has_bfloat16(device: str) -> bool:
    """Whether a GPU, "cuda" or "mps", multiplies bfloat16 itself; Apple's do from macOS 14 on."""
    import torch

    if device == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    return torch.cuda.is_bf16_supported(including_emulation=False)


def trained_dtype(model: ModelParams):
    """The torch dtype of a classifier's backbone: `pick_dtype`'s where it is frozen, float32 where all of it trains, since
    AdamW's steps are smaller than what half precision can add to a weight. On MPS always float32: the Trainer's mixed
    precision is CUDA's.
    """
    import torch

    frozen = model.training.method == "lora" and pick_device(model).type != "mps"
    return pick_dtype(model) if frozen else torch.float32


def half_precision() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; one that does not is many times slower at them."""
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


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
    if importlib.util.find_spec("bitsandbytes") is None:
        what = f"asks for {model.quantization}, and bitsandbytes is not installed"
        raise ModelError(model.name, what, "run `.venv/bin/pip install bitsandbytes`, or set quantization: none")
    return model.quantization


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
