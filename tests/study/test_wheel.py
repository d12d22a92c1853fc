"""The wheel holds what the checkout holds: an editable install would hide a module that was left out."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        if name.startswith("emosafe_lib/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(folder)], check=True, capture_output=True)
    return next(folder.glob("emosafe-*.whl"))


def names_in(folder):
    """Python files and assets of the library, as paths from the checkout."""
    found = [path for path in (folder / "emosafe_lib").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix() for path in found}


def test_every_module_and_asset_is_in_the_wheel_and_nothing_else(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == names_in(wheel.parent) and len(packed) > 100


def test_every_module_of_the_wheel_can_be_imported_where_there_is_no_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    modules = [name.removesuffix(".py").replace("/", ".") for name in names_in(tmp_path) if name.endswith(".py")]
    modules = sorted(name.removesuffix(".__init__") for name in modules)
    code = f"import emosafe_lib, importlib\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += "print(emosafe_lib.__file__)"
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip() == str(tmp_path / "emosafe_lib" / "__init__.py")
    code = "from emosafe_lib import cli; raise SystemExit(cli.main(['run', 'study']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == (
        "error: emosafe run: needs a checkout, with its notebooks; clone the repository\n"
    )
