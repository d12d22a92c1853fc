"""The notebooks of the course as tests read them, and what all of them share."""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))

# The first code cell of every notebook; the address of the repository stands in one place, outside of it.
FIRST_CELL = """\
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("emosafe_lib") is None:  # on Colab or Kaggle: fetch the course and what it needs
    if not os.path.isdir("emosafe"):
        address = os.environ.get("EMOSAFE_REPOSITORY")
        if not address:
            raise ModuleNotFoundError(
                "emosafe_lib is not here: choose the kernel of its .venv or, on Colab and Kaggle, run first, in a cell "
                "above, %env EMOSAFE_REPOSITORY=(the address of its git repository)"
            )
        subprocess.run(["git", "clone", "--depth", "1", address, "emosafe"], check=True)
    subprocess.run([sys.executable, "-m", "emosafe_lib.study.hosted"], cwd="emosafe", check=True)
    os.environ["PYTHONPATH"] = os.path.abspath("emosafe")
    sys.path.insert(0, os.environ["PYTHONPATH"])
    os.chdir("emosafe/notebooks")"""


def cells(path: Path, kind: str) -> list[str]:
    """The sources of a notebook's cells of a kind, "code" or "markdown"; empty ones too."""
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def code_of(path: Path) -> list[str]:
    """A notebook's code cells that hold something, without the first, which all have in common."""
    return [source for source in cells(path, "code") if source.strip() and source != FIRST_CELL]


def called(sources: list[str]) -> set[str]:
    """The last parts of all names that code cells call or derive from, such as `Trainer` and `from_pretrained`."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = [node.func for node in nodes if isinstance(node, ast.Call)]
    names += [base for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
    return {getattr(name, "attr", getattr(name, "id", "")) for name in names}


def imported(sources: list[str]) -> set[str]:
    """The packages that code cells import."""
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found
