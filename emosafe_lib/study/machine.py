"""What this run is made on: processor, versions, and the memory that the process took at its peak."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft", "datasets", "scikit-learn", "numpy", "pandas", "papermill")


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    Linux hands a parent's peak on to `ru_maxrss` of every process that it starts; VmHWM is the process's own. macOS
    counts `ru_maxrss` in bytes. Windows has no `resource`, and tells by its working set.
    """
    own = next((line.split()[1] for line in lines_of("/proc/self/status") if line.startswith("VmHWM")), None)
    if own is not None:
        return float(own) / 1024
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Python and package versions, and the kind of machine; no host or user name."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": sys.platform}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found | {"cpus": str(os.cpu_count())}


def machine() -> dict:
    """What the numbers were measured on; no host or user name."""
    import torch

    named = (line.split(":")[1].strip() for line in lines_of("/proc/cpuinfo") if line.startswith("model name"))
    name = next(named, platform.machine())
    gpu = "Apple MPS" if torch.backends.mps.is_available() else "none"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else gpu
    return {"cpu": name, "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def lines_of(name: str) -> list[str]:
    """The lines of one of Linux's files of facts; none on a system without it."""
    path = Path(name)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
