"""Fetch what the course needs onto a machine that somebody else set up, such as Colab or Kaggle.

Such a machine has torch and much else in versions of its own, and a notebook server that must not be replaced beneath the
notebook that asks. So only what is missing or too old is installed, and of the server's own packages nothing. The first
cell of every notebook calls this from a fresh clone; nothing but `packaging` has to be there.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SERVER = {"jupyterlab", "jupyter-client", "pyzmq", "ipython", "ipykernel", "ipywidgets"}


def needed(pyproject: Path) -> list[str]:
    """The requirements of the course, without those that the notebook's own server answers for."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["study"]]
    return [line for line in listed if canonicalize_name(Requirement(line).name) not in SERVER]


def is_met(line: str) -> bool:
    """Whether a requirement is installed in a version that will do."""
    wanted = Requirement(line)
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


def main() -> int:
    """Install what is missing; returns pip's exit status."""
    missing = [line for line in needed(Path(__file__).resolve().parents[2] / "pyproject.toml") if not is_met(line)]
    if not missing:
        return 0
    print(f"installing {len(missing)} packages: a few minutes, once", flush=True)
    return subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing]).returncode


if __name__ == "__main__":
    sys.exit(main())
