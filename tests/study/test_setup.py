"""`make setup` after one that was killed, beside one that is at work, and after one that finished.

Python is a script that makes a folder in place of an environment and notes what pip is asked for: what is tested is the
recipe, and no package is installed.
"""

import os
import shutil
import signal as signals
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >> pip.log
    [ ! -e fails ] || exit 1
    [ ! -e killed ] || { touch .venv/half-a-package; kill -"$(cat killed)" $PPID; rm killed; exit 1; } ;;
esac
"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """A function that calls `make setup` in a folder with the Makefile and the files it compares."""
    for name in ("Makefile", "requirements.lock", "weights.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for name in ("VENV", "MAKEFLAGS"):
        monkeypatch.delenv(name, raising=False)
    command = ["make", "setup", f"PYTHON={python}"]
    return lambda: subprocess.run(command, capture_output=True, text=True, preexec_fn=hear_ctrl_c)


def hear_ctrl_c():
    """A shell's background jobs ignore SIGINT, and so would all that a test started by one starts."""
    signals.signal(signals.SIGINT, signals.SIG_DFL)


@pytest.mark.parametrize("signal", ["9", "INT", "TERM"])
def test_a_setup_that_was_killed_is_made_anew_by_the_next_one_and_then_left_alone(setup, signal):
    Path("killed").write_text(signal)
    assert setup().returncode != 0
    assert Path(".venv/half-a-package").exists()
    second = setup()
    assert second.returncode == 0 and "did not finish" in second.stdout
    assert not Path(".venv/half-a-package").exists() and not Path(".venv/unfinished").exists()
    asked = Path("pip.log").read_text().splitlines()
    assert len(asked) == 1 + 3
    assert setup().returncode == 0
    assert Path("pip.log").read_text().splitlines() == asked


@pytest.mark.parametrize("lock", ["weights.lock", "pyproject.toml"])
def test_a_later_part_that_was_killed_is_found_as_well(setup, lock):
    setup()
    Path(lock).write_text("changed")
    Path("killed").write_text("9")
    assert setup().returncode != 0
    assert "did not finish" in setup().stdout
    assert not Path(".venv/half-a-package").exists()


def test_where_pip_fails_without_a_kill_what_is_installed_stays(setup):
    setup()
    Path(".venv/installed").touch()
    Path("weights.lock").write_text("changed")
    Path("fails").touch()
    assert setup().returncode != 0 and setup().returncode != 0
    Path("fails").unlink()
    assert setup().returncode == 0 and Path(".venv/installed").exists()


@pytest.mark.parametrize("who", [(os.getpid(), os.uname().nodename), (1, "elsewhere")])
def test_two_setups_at_once_do_not_undo_each_other(setup, who):
    Path(".venv").mkdir()
    Path(".venv/unfinished").write_text("{} {}\n".format(*who))
    refused = setup()
    assert refused.returncode != 0 and f"process {who[0]} of {who[1]}" in refused.stderr
    assert Path(".venv/unfinished").exists() and not Path("pip.log").exists()
