"""What every benchmark says beside its numbers, and how its result file is written.

A ratio is worth nothing to a reader who cannot see on what it was measured. This is a folder, since `make bench` runs
every file that lies beside it.
"""

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path


def machine() -> dict:
    """The processor and the number of cores."""
    return {"cpu": platform.machine(), "cpus": os.cpu_count()}


def machine_and_load() -> dict:
    """The same with the system, and with how many processes wanted a core in the last minute."""
    return {
        "machine": platform.machine(),
        "system": sys.platform,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
