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
MODULES = sorted(path for folder in (LIBRARY, ROOT / "workflow") for path in folder.rglob("*.py"))


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
    names = {
        re.split(r"[><=]", entry)[0].lower().replace("_", "-")
        for entry in project["dependencies"] + project["optional-dependencies"]["study"]
    }
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = set(pins(next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))))
    assert names <= set(lock()) and names <= listed | {"jupyterlab", "pyyaml", "tqdm"}


def test_torch_is_pinned_without_a_build_or_an_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "\ntorch==2.13.0\n" in text
    assert not re.search(r"https?://|file:|@ |--index|--find-links", text)


def module_name(path):
    """A module's dotted name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# Each room with what it may import; a room may import itself. The runner and the command line stand on top.
BELOW = {
    "study": set(),
    "data": {"study"},
    "models": {"study"},
    "evaluation": {"study", "data", "models"},
    "augment": {"study", "data", "models", "evaluation"},
    "prompting": {"study", "data", "models", "evaluation"},
    "finetuning": {"study", "data", "models", "evaluation"},
    "ondevice": {"study", "data", "models", "evaluation", "finetuning"},
    "nano": {"study", "data", "models", "evaluation", "prompting"},
    "cli": {"study"},
}
BELOW["workflow"] = {*BELOW}
BELOW["teaching"] = {*BELOW} - {"workflow", "cli"}  # notebooks and tests alone call it
# Imported inside a function, so that who asks for something small does not wait for something large.
LATE = {
    "emosafe_lib.cli": "one command alone is imported",
    "emosafe_lib.augment.reinterpretation": "openai takes a second, and templates need no server",
    "emosafe_lib.ondevice.classify": "an ONNX graph needs no PyTorch",
    "emosafe_lib.prompting.backends": "openai takes a second, and local models need no server",
    "workflow.command": "a stage needs no engine, a page no stage",
    "workflow.execute": "nbconvert takes a second, which the notebook need not wait for",
}


def room_of(module):
    """The room of a module, by its dotted name."""
    first, *rest = module.split(".")
    return first if first == "workflow" else rest[0] if rest else "study"


def imported(path):
    """Modules of ours that a file imports anywhere in it, with the imports inside functions apart: (all, late)."""
    names, every, late = {module_name(other) for other in MODULES}, set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        else:
            continue
        found = {name for name in found & names - {module_name(path)} if name.count(".") or name == "workflow"}
        every |= found
        late |= found if node.col_offset else set()
    return every, late


def test_rooms_import_only_what_stands_below_them():
    wrong = [
        f"{module_name(path)} imports {other}"
        for path in MODULES
        for other in imported(path)[0]
        if room_of(other) not in {room_of(module_name(path)), *BELOW[room_of(module_name(path))]}
    ]
    assert not wrong, "; ".join(wrong)


def test_a_planted_import_of_the_runner_is_caught(tmp_path, monkeypatch):
    planted = ROOT / "emosafe_lib" / "study" / "planted.py"
    found = ast.parse("def f():\n    from workflow.study_run import run_study\n")
    monkeypatch.setattr(ast, "parse", lambda text: found)
    monkeypatch.setattr(type(planted), "read_text", lambda self, **_: "")
    assert "workflow.study_run" in imported(planted)[1] and room_of("workflow.study_run") not in BELOW["study"]


def test_imports_never_run_in_a_circle_not_even_inside_functions():
    graph = {module_name(path): imported(path)[0] for path in MODULES}
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


def test_ours_is_imported_at_the_top_of_a_file_but_for_the_named_exceptions():
    late = {module_name(path): imported(path)[1] for path in MODULES}
    assert {name for name, found in late.items() if found} <= set(LATE), late


def test_a_room_says_what_it_is_for():
    rooms = [path for path in MODULES if path.name == "__init__.py"]
    assert {path.parent.name for path in rooms} >= {*BELOW} - {"cli"}
    assert all(len(ast.get_docstring(ast.parse(path.read_text())) or "") > 40 for path in rooms)
    assert {path.name for path in LIBRARY.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module_name(path))
def test_every_module_says_why_it_exists(path):
    tree = ast.parse(path.read_text())
    assert len(ast.get_docstring(tree) or "") > 40
    assert len(path.read_text().splitlines()) <= 700, "split it: a module is read in a sitting"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module_name(path))
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
