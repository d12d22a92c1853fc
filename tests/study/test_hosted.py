"""On a machine that somebody else set up, only what is missing is installed, and the notebook's server is left alone."""

import subprocess

from emosafe_lib.study import hosted
from emosafe_lib.study.paths import project_root

PYPROJECT = project_root() / "pyproject.toml"


def test_here_nothing_is_missing_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assert hosted.main() == 0


def test_what_is_absent_or_too_old_is_installed_in_one_go(monkeypatch):
    there = {"torch": "2.13.0", "transformers": "4.57.0"}

    def version(name):
        if name not in there:
            raise hosted.PackageNotFoundError(name)
        return there[name]

    asked = []
    monkeypatch.setattr(hosted, "version", version)
    monkeypatch.setattr(
        hosted.subprocess, "run", lambda command: asked.append(command) or subprocess.CompletedProcess(command, 0)
    )
    assert hosted.main() == 0
    (command,) = asked
    names = {line.partition(">")[0].partition("=")[0] for line in command[5:]}
    assert {"transformers", "peft", "datasets", "snakemake"} <= names and "torch" not in names
    assert not names & {"ipykernel", "jupyterlab", "jupyter_client", "ipython", "pyzmq", "ipywidgets"}


def test_every_package_of_the_server_is_one_that_the_project_names():
    listed = {hosted.canonicalize_name(hosted.Requirement(line).name) for line in hosted.needed(PYPROJECT)}
    assert not listed & hosted.SERVER and len(listed) > 30
