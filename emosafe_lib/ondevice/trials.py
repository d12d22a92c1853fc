"""What this machine can do, tried once on a small example and remembered for the process.

That a package is installed, or that a processor lists an instruction, says little: packages come in builds that a machine
cannot load, and print, raise or die when they are imported. So each trial does in small what is wanted in large. What
may end a process is tried in one of its own, by `python -m emosafe_lib.ondevice.trials NAME DEVICE`. Every trial gives
a short reason why the machine cannot do it, or an empty text where it can.
"""

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from emosafe_lib.models.precision import half_precision
from emosafe_lib.models.quantization import keep_narrow_layers_plain
from emosafe_lib.study.optional import reason, without_folders

TRIAL_SECONDS = 300
SLOW_BF16 = "bf16 is far slower than fp32 on this CPU"
# Columns and rows of a layer that bitsandbytes regroups, and of one that it cannot: see `keep_narrow_layers_plain`.
TRIED_LAYERS = (64, 32), (64, 48)


@cache
def bfloat16(device: str) -> str:
    """Why bf16 products are no good on a device, "cpu" or "cuda"; MPS is never measured, see `on_counted_memory`."""
    import torch

    if device == "cpu":
        return "" if half_precision() else SLOW_BF16
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    return "" if able else "this GPU has no bf16 instructions"


@cache
def int8(device: str) -> str:
    """Why weights in 8 bits are no good on a device: PyTorch's own on a CPU, bitsandbytes' on a GPU."""
    return eight_bits_on_a_cpu() if device == "cpu" else tried_apart("int8", device)


@cache
def int4(device: str) -> str:
    """Why bitsandbytes' weights in 4 bits are no good on a device."""
    return tried_apart("int4", device)


@cache
def onnx() -> str:
    """Why PyTorch cannot write, or onnxruntime not shrink and run, a graph here."""
    return tried_apart("onnx", "cpu")


@cache
def eight_bits_on_a_cpu() -> str:
    """Why PyTorch's dynamic quantization does not work here; its engine is chosen first where none is."""
    import torch

    engines = torch.backends.quantized.supported_engines
    if torch.backends.quantized.engine == "none" and set(engines) - {"none"}:
        torch.backends.quantized.engine = next(name for name in engines if name != "none")
    layer = torch.nn.Sequential(torch.nn.Linear(16, 8))
    try:
        with warnings.catch_warnings(action="ignore"):
            packed = torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}, dtype=torch.qint8)
        return "" if close(packed(torch.ones(1, 16)), layer(torch.ones(1, 16))) else "PyTorch's int8 answers otherwise"
    except Exception as error:  # whatever an engine may raise
        return f"PyTorch's int8 does not run here ({reason(error)})"


def close(found, wanted) -> bool:
    """Whether packed weights give about what plain ones give: within a quarter of the largest value."""
    return bool((found.float() - wanted.float()).abs().max() <= 0.25 * wanted.float().abs().max())


def tried_apart(name: str, device: str) -> str:
    """Why a trial fails in a process of its own; the last line that it left, where it died."""
    command = [sys.executable, "-m", "emosafe_lib.ondevice.trials", name, device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"{name} did not end within {TRIAL_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    left = (done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"])[-1]
    return f"{name} does not run here ({without_folders(left)[:160]})"


def pack_with_bitsandbytes(name: str, device: str) -> None:
    """Pack and multiply a small layer of each kind as `quantization` does it.

    Raises
    ------
    Exception : whatever bitsandbytes raises, or ArithmeticError where the packed layer answers otherwise
    """
    import bitsandbytes
    import torch

    for columns, rows in TRIED_LAYERS:
        plain = torch.nn.Linear(columns, rows, bias=False)
        if name == "int4":
            packed = bitsandbytes.nn.Linear4bit(columns, rows, bias=False, quant_type="nf4", compress_statistics=True)
        else:
            packed = bitsandbytes.nn.Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False)
        packed.load_state_dict(plain.state_dict())
        network = torch.nn.Sequential(packed).to(device).eval()
        keep_narrow_layers_plain(network)
        ones = torch.ones(1, columns)
        with torch.inference_mode():
            if not close(network(ones.to(device)).cpu(), plain(ones)):
                raise ArithmeticError("packed weights answer otherwise")


def write_and_run_a_graph() -> None:
    """Write a small graph with PyTorch, shrink it to int8 with onnxruntime, and run both.

    Raises
    ------
    Exception : whatever one of them raises, or ArithmeticError where a graph answers otherwise
    """
    import numpy as np
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    layer, ones = torch.nn.Linear(16, 8).eval(), torch.ones(1, 16)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("plain.onnx", "small.onnx")]
        torch.onnx.export(layer, (ones,), str(paths[0]), input_names=["x"], dynamo=False)
        quantize_dynamic(*map(str, paths), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        for path in paths:
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            (found,) = session.run(None, {"x": np.ones((1, 16), np.float32)})
            if not close(torch.from_numpy(found), layer(ones)):
                raise ArithmeticError("a graph answers otherwise than PyTorch")


def main() -> int:
    """Do one trial in this process; 1 and a line on stderr where it fails."""
    name, device = sys.argv[1:]
    try:
        write_and_run_a_graph() if name == "onnx" else pack_with_bitsandbytes(name, device)
    except Exception as error:
        print(reason(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
