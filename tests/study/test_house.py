"""The house stays in order: one set of versions, imports that run downwards, every module with its reason."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "emosafe_lib"
MODULES = sorted(path for path in LIBRARY.rglob("*.py"))


def pins(lines):
    """`name==version` lines as a mapping, names in their normal form."""
    found = (line.strip().split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in found}


def lock():
    return pins((ROOT / "requirements.lock").read_text().splitlines())


def test_conda_environment_has_the_versions_of_the_lock():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    wanted = pins(next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)))
    assert len(wanted) > 20
    assert {name: lock().get(name) for name in wanted} == wanted


def test_every_declared_dependency_is_pinned_and_listed_for_conda():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=]", entry)[0].lower().replace("_", "-") for entry in project["dependencies"]}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = set(pins(next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))))
    assert names <= set(lock()) and names <= listed | {"jupyterlab", "pyyaml", "tqdm"}


def test_torch_is_pinned_without_a_build_or_an_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "\ntorch==2.13.0\n" in text
    assert not re.search(r"https?://|file:|@ |--index|--find-links", text)


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def top_level_imports(path):
    """Modules of ours that a module imports when it is itself imported."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emosafe_lib"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("emosafe_lib.")}
    return found & {module_name(other) for other in MODULES} - {"emosafe_lib", module_name(path)}


def test_imports_never_run_in_a_circle():
    graph = {module_name(path): top_level_imports(path) for path in MODULES}
    state: dict = {}

    def visit(name, trail):
        assert state.get(name) != "open", " -> ".join([*trail, name])
        if name not in state:
            state[name] = "open"
            for other in graph[name]:
                visit(other, [*trail, name])
            state[name] = "done"

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_says_why_it_exists(path):
    tree = ast.parse(path.read_text())
    assert len(ast.get_docstring(tree) or "") > 40
    assert len(path.read_text().splitlines()) <= 700, "split it: a module is read in a sitting"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_public_functions_are_documented_and_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            lines = node.end_lineno - node.lineno - len((ast.get_docstring(node) or "").splitlines())
            if isinstance(node, ast.FunctionDef):
                assert lines <= 60, f"{node.name} has {lines} lines"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


def test_make_alone_lists_the_targets():
    said = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    assert all(f"make {target}" in said for target in ("study", "test", "lab", "reference", "setup"))


def test_no_code_of_a_repository_is_ever_trusted():
    for path in MODULES:
        assert "trust_remote_code=True" not in path.read_text()
