"""What every benchmark says beside its numbers, and how its result file is written.

A ratio is worth nothing to a reader who cannot see on what it was measured. This is a folder, since `make bench` runs
every file that lies beside it.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

import emosafe_lib
from emosafe_lib.study.files import replacing

# When the run began, and how many processes wanted a core in the minute before it.
STARTED = datetime.now(UTC).isoformat(timespec="seconds")
LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
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
    kind = " ".join(f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts)
    named = {"cpu": facts.get("model name", platform.machine()), "cpu_kind": kind, "instruction_sets": sets}
    named |= {"cpus": os.cpu_count(), "machine": platform.machine(), "system": sys.platform, "load_before": LOAD}
    return named | {"glibc_tunables": os.environ.get("GLIBC_TUNABLES", "")}


def code() -> dict:
    """The commit of the library that this process imports, and whether its code or the benchmarks' differ from it; both None
    where there is no git checkout.
    """
    git = ["git", "-C", str(Path(emosafe_lib.__file__).parents[1])]
    against = ["diff", "--quiet", "HEAD", "--", "emosafe_lib", "benchmarks", ":!benchmarks/results"]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": subprocess.run([*git, *against]).returncode != 0}


# As it was when the run began. Processes that a benchmark starts are told: asking git would be in their time.
if "EMOSAFE_BENCHMARKED" not in os.environ:
    os.environ["EMOSAFE_BENCHMARKED"] = json.dumps(code())
CODE = json.loads(os.environ["EMOSAFE_BENCHMARKED"])


def clocked(work: Callable) -> tuple[object, float, float]:
    """What a function returns, its seconds by the clock, and those of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - clock, time.process_time() - processor


def in_own_process(file: str, *words: object, **environment: str):
    """What a benchmark's file prints last, read as JSON, when these words start it in a process of its own, whose memory
    and threads are nobody else's.

    Raises
    ------
    CalledProcessError : it failed
    """
    command = [sys.executable, file, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


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


def exponents(sizes: list[int], seconds: list[float]) -> list[float]:
    """b in seconds = a * size^b from each size to the next: 1 is linear. Fixed costs hold the first ones down."""
    return np.round(np.diff(np.log(seconds)) / np.diff(np.log(sizes)), 3).tolist()


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages by name; that of the interpreter for `python`."""
    return {name: platform.python_version() if name == "python" else metadata.version(name) for name in packages}


def publish(report: dict, path: Path, only_print: bool = False) -> None:
    """Write a report and what code it is of by rename, or print it.

    Raises
    ------
    ValueError : a number is not finite, which JSON cannot hold
    """
    measured = CODE | {"changed": CODE["changed"] or code() != CODE, "started": STARTED}
    text = json.dumps({"code": measured} | report, indent=1, allow_nan=False) + "\n"
    if only_print:
        print(text)
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
