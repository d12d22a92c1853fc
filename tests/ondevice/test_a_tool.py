"""`emosafe classify` starts like a tool: with an ONNX export it imports onnxruntime, tokenizers and numpy, and no more."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_damaged_folders import whole  # noqa: F401 (a fixture)

from emosafe_lib import cli
from emosafe_lib.ondevice import classify

ROOT = Path(cli.__file__).parents[1]
TOOL = {"numpy", "onnxruntime", "tokenizers"}
RUN = """\
import sys
BLOCKED = set(sys.argv[1].split(","))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from emosafe_lib import cli
status = cli.main(sys.argv[2:])
roots = {name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names
print(sorted(roots), file=sys.stderr)
sys.exit(status)
"""


def run(given, blocked=""):
    """`emosafe ...` in a process of its own, where some packages are not installed: (it, the packages imported)."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, blocked, *given], capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT
    )
    return done, set(eval(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("runtime", [[], ["--runtime", "onnx"], ["--runtime", "onnx-int8"]])
def test_an_onnx_export_is_read_without_torch(whole, runtime):  # noqa: F811
    done, imported = run(["classify", "--model", str(whole), *runtime, "calm"])
    assert done.returncode == 0 and json.loads(done.stdout)["outcome"] == "ok"
    assert not {"torch", "transformers", "peft", "pandas", "sklearn", "pyarrow", "pydantic", "scipy"} & imported
    installed = {"emosafe_lib", *TOOL, "google", "flatbuffers", "packaging", "coloredlogs", "humanfriendly", "sympy"}
    assert {name for name in imported if not name.startswith(("_", "sitecustomize"))} <= installed


def test_the_onnx_graph_is_the_default_and_torch_where_there_is_none(whole, tmp_path, monkeypatch):  # noqa: F811
    assert {part.runtime for part in classify.Classifier(whole).parts.values()} == {"onnx"}


def test_without_torch_a_folder_without_graphs_says_what_to_install(exported_without_graphs):
    done, _ = run(["classify", "--model", str(exported_without_graphs), "calm"], "torch,transformers,pandas,pydantic")
    said = done.stderr.splitlines()[-2]
    assert done.returncode == 1 and said.startswith("error: ") and ".[study]" in said
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("runtime", ["torch", "bf16+fp32"])
def test_without_torch_its_runtimes_are_refused_by_name_and_the_graphs_are_not_denied(whole, runtime):  # noqa: F811
    done, _ = run(
        ["classify", "--model", str(whole), "--runtime", runtime, "calm"], "torch,transformers,pandas,pydantic"
    )
    said = done.stderr.splitlines()[-2]
    assert done.returncode == 1 and f"--runtime {runtime} needs PyTorch, and" in said and "leave --runtime out" in said
    assert "no ONNX" not in said


@pytest.fixture
def exported_without_graphs(whole, tmp_path):  # noqa: F811
    """An export whose tasks have neither graph."""
    import shutil

    from emosafe_lib.models import seals

    folder = shutil.copytree(whole, tmp_path / "plain")
    for seal in folder.glob("*/sealed.json"):
        for graph in seal.parent.glob("*.onnx"):
            graph.unlink()
        facts = {key: value for key, value in json.loads(seal.read_text()).items() if key != "files"}
        seals.seal(seal.parent, **facts)
    return folder


@pytest.mark.parametrize("command", ["onnx", "train", "compare", "params", "data"])
def test_other_commands_say_what_they_need(command):
    done, _ = run([command, "--help"], "torch,transformers,pandas,pydantic,scipy,pyarrow,sklearn")
    assert done.returncode == 1 and ".[study]" in done.stderr and "Traceback" not in done.stderr


def test_the_small_environment_is_what_is_installed_first():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {entry.split(">")[0] for entry in project["dependencies"]} == TOOL
    assert set(project["optional-dependencies"]["classify"]) == set(project["dependencies"])
