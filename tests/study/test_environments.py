"""Machines and environments other than the developers': Apple's MPS, systems that are not POSIX, what a user's shell sets.

MPS and Windows are mocked: what is shown is what emosafe asks of them, not what they answer.
"""

import errno
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import tiny_models
import torch
import toy

from emosafe_lib.finetuning import finetune
from emosafe_lib.models import backbone, precision
from emosafe_lib.ondevice import export, measure
from emosafe_lib.study import machine, paths
from emosafe_lib.study.errors import ParameterError, StageError
from emosafe_lib.study.taxonomy import TASKS
from workflow import kernels
from workflow.checks import failure_in_words
from workflow.execute import run_stage

STAGE = "01_data_merge"


def has_devices(monkeypatch, *names, macos=(14, 0)):
    """Let torch see these devices besides the CPU, on this version of macOS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *version: macos >= version)


@pytest.mark.parametrize(
    ("there", "asked", "given"),
    [
        (["cuda", "mps"], "auto", "cuda"),
        (["mps"], "auto", "mps"),
        ([], "auto", "cpu"),
        (["mps"], "mps", "mps"),
        (["cuda"], "mps", "cpu"),
        (["mps"], "cuda", "cpu"),
        (["cuda", "mps"], "cpu", "cpu"),
    ],
)
def test_a_model_runs_on_the_device_that_it_asks_for_or_on_the_cpu_and_says_so(monkeypatch, there, asked, given):
    has_devices(monkeypatch, *there)
    model = tiny_models.model_params(device=asked)
    assert precision.pick_device(model).type == given
    assert len(precision.hardware(model)["fallbacks"]) == (asked not in ("auto", given))


@pytest.mark.parametrize(
    ("asked", "macos", "given"),
    [("float32", 13, "float32"), ("float16", 13, "float16"), ("bfloat16", 13, "float16"), ("bfloat16", 14, "bfloat16")],
)
def test_apples_device_loads_in_half_precision_trains_in_full_and_packs_nothing(monkeypatch, asked, macos, given):
    has_devices(monkeypatch, "mps", macos=(macos, 0))
    model = tiny_models.model_params(dtype=asked, quantization="int4")
    found = precision.hardware(model)
    assert (found["device"], found["dtype"], found["quantization"]) == ("mps", given, "none")
    told = [f"{asked} is not fit for this mps: runs in {given}"] if asked != given else []
    assert found["fallbacks"] == [*told, "int4 needs a CUDA GPU: runs unquantized"]
    assert precision.trained_dtype(model) == torch.float32 and not precision.mixes_precision(model)


def test_a_device_without_a_count_of_its_peak_is_measured_on_the_cpu(monkeypatch):
    has_devices(monkeypatch, "mps")
    model, seen = tiny_models.model_params(), []

    def network_for(model, dtype):
        seen.append(precision.pick_device(model).type)
        raise RuntimeError("far enough")

    monkeypatch.setattr(measure, "network_for", network_for)
    assert next(measure.measure_in_turn(model, ["float32"]))[0]["reason"] == "RuntimeError: far enough"
    assert seen == ["cpu"] and machine.machine()["gpu"] == "Apple MPS"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_peak_memory_is_read_where_there_is_no_proc(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(machine, "lines_of", lambda name: [])
    facts = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**20))
    monkeypatch.setattr(psutil, "Process", lambda: facts)
    resource = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", None if system == "win32" else resource)
    assert machine.peak_memory_mb() == 3


BARE = """
import builtins, importlib, pkgutil, signal, sys, types

plain = builtins.__import__
of_posix = ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGUSR1", "SIGUSR2")
signals = types.SimpleNamespace(**{name: part for name, part in vars(signal).items() if name not in of_posix})

def bare(name, globals=None, *more, **named):
    ours = (globals or {}).get("__name__", "").startswith(("emosafe_lib", "workflow"))
    if ours and name in ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "readline"):
        raise ModuleNotFoundError(name)
    return signals if ours and name == "signal" else plain(name, globals, *more, **named)

builtins.__import__ = bare
import emosafe_lib, workflow
for package in (emosafe_lib, workflow):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from emosafe_lib import cli
sys.exit(cli.main(["classify", "--model", sys.argv[1], "a message"]))
"""


def test_everything_imports_and_classifies_without_posix_modules_and_signals(tmp_path):
    """Other people's packages keep theirs: on Windows they have code of their own, which is not here to be tried."""
    tiny_models.make_llama(tmp_path / "llama")
    rows = tiny_models.make_rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "ASSETS", tmp_path)
        model, study = tiny_models.model_params(), tiny_models.study_params(epochs=1.0)
        results = {task: finetune.finetune(model, study, rows, task, 0, tmp_path / "runs") for task in TASKS}
        folder = export.export(model, results, rows, study.finetuning.max_length, tmp_path / "exported")
    command = [sys.executable, "-c", BARE, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=toy.ROOT, timeout=300)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["outcome"] == "ok"


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


LOOK = """
import os, sys
from pathlib import Path
found = [name for name in ("from_ipython", "from_python") if name in globals()]
found += ["optimized"] * sys.flags.optimize
run.out("found.txt").write_text(" ".join(found))
"""


def test_a_users_startup_files_kernels_proxies_and_folders_do_not_reach_a_stage(
    checkout, tmp_path, monkeypatch, outputs
):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("from_ipython = True")
    (tmp_path / "startup.py").write_text("from_python = True")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "mine", "language": "python"}')
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    odd = {"IPYTHONDIR": tmp_path / "ipython", "PYTHONSTARTUP": tmp_path / "startup.py", "TMPDIR": deep}
    odd |= nowhere | {"JUPYTER_PATH": tmp_path / "jupyter", "SSL_CERT_FILE": "/nowhere", "PYTHONOPTIMIZE": "1"}
    for name, value in odd.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("tempfile.tempdir", None)
    toy.write(checkout, STAGE, LOOK)
    run_stage(STAGE, "toy")
    assert (outputs / "toy" / STAGE / "found.txt").read_text() == ""
    assert not (tmp_path / "ipython" / "profile_default" / "history.sqlite").exists()


def test_kernels_talk_over_tcp_where_no_place_is_short_enough_for_sockets(checkout, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "LONGEST_SOCKET_PATH", 28)
    assert kernels.socket_place() is None
    assert run_stage(STAGE, "toy").is_file()


@pytest.mark.parametrize("place", ["outputs", "outputs/below"])
def test_outputs_that_would_lie_in_a_file_are_refused(checkout, monkeypatch, tmp_path, place):
    (tmp_path / "outputs").write_text("")
    monkeypatch.setenv("EMOSAFE_OUTPUTS", str(tmp_path / place))
    with pytest.raises(ParameterError, match=r"^EMOSAFE_OUTPUTS=.*: outputs is a file; name a folder$"):
        paths.outputs_root()


@pytest.mark.parametrize("command", [["run", "stage", "--help"], ["classify", "--help"], ["data", "--help"]])
def test_a_command_drops_pythonoptimize(command):
    environment = os.environ | {"PYTHONOPTIMIZE": "2"}
    run = [sys.executable, "-m", "emosafe_lib.cli", *command]
    found = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=toy.ROOT, timeout=120)
    assert found.returncode == 0 and found.stdout.startswith(f"usage: emosafe {command[0]}"), found.stderr


def test_a_full_disk_names_the_file(checkout, monkeypatch):
    said = {"ename": "OSError", "evalue": "[Errno 28] No space left on device: '/outputs/rows.parquet'"}
    assert failure_in_words(said) == "OSError: No space left on device (rows.parquet)"
    assert (
        failure_in_words(said | {"evalue": "[Errno 28] No space left on device"}) == "OSError: No space left on device"
    )
    assert failure_in_words(said | {"evalue": "[Errno 2] No such file: 'a message'"}) == "OSError"

    def full(*given, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("papermill.execute_notebook", full)
    with pytest.raises(OSError, match=f"{STAGE}.ipynb"):
        run_stage(STAGE, "toy")


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_what_a_stage_leaves_is_readable_as_its_user_says(checkout, outputs, mask):
    old = os.umask(mask)
    try:
        run_stage(STAGE, "toy")
    finally:
        os.umask(old)
    left = [path for path in (outputs / "toy" / STAGE).iterdir() if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in left} == {0o666 & ~mask} and len(left) == 6


@pytest.mark.parametrize(
    ("stage", "model", "why"),
    [("03_prompting_baselines", None, "needs a model"), (STAGE, "nano-1", "belongs to the whole study")],
)
def test_a_stage_that_cannot_run_as_asked_touches_nothing(checkout, outputs, stage, model, why):
    run_stage(STAGE, "toy")
    before = {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()}
    with pytest.raises(StageError, match=why):
        run_stage(stage, "toy", model)
    assert {path: path.read_bytes() for path in outputs.rglob("*") if path.is_file()} == before
