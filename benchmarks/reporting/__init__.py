"""What every benchmark says beside its numbers, and how its result file is written.

A ratio is worth nothing to a reader who cannot see on what it was measured. This is a folder, since `make bench` runs
every file that lies beside it.
"""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from emosafe_lib.study.files import replacing

# Those that decide which kernels run: of x86 first, then of ARM.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")


def machine() -> dict:
    """The processor by name, its instruction sets (both as Linux tells them), the number of cores, and how glibc was told to
    keep freed memory: `make` tells it, to ours and to every peer, and training is up to twice as fast for it.
    """
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    there = (facts.get("flags") or facts.get("Features") or "").split()
    sets = [name for name in INSTRUCTION_SETS if name in there]
    named = {"cpu": facts.get("model name", platform.machine()), "instruction_sets": sets, "cpus": os.cpu_count()}
    return named | {"glibc_tunables": os.environ.get("GLIBC_TUNABLES", "")}


def machine_and_load() -> dict:
    """The same with the system, and with how many processes wanted a core in the last minute."""
    return machine() | {"machine": platform.machine(), "system": sys.platform, "load": os.getloadavg()[0]}


def rounds(jobs: dict[str, Callable], repeats: int) -> dict[str, list]:
    """What each job returned, round by round; every second round goes backwards, so that a slow minute falls on all."""
    found = {name: [] for name in jobs}
    for number in range(repeats):
        for name in list(jobs)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(jobs[name]())
    return found


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the rounds' ratios: what two sides took in the same minutes is compared, and nothing else."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """b in seconds = a * sizes^b, by least squares on the logarithms: 1 is linear."""
    return round(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 3)


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages by name; that of the interpreter for `python`."""
    return {name: platform.python_version() if name == "python" else metadata.version(name) for name in packages}


def publish(report: dict, path: Path, only_print: bool = False) -> None:
    """Write a report by rename, or print it.

    Raises
    ------
    ValueError : a number is not finite, which JSON cannot hold
    """
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if only_print:
        print(text)
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
