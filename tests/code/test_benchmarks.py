"""Benchmarks run as `make bench` runs them, and never leave a result file that is half written or no JSON."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
REPORT = {"machine": {}, "versions": {}, "rows": [{"case": "made up", "ours": 1.0}]}


@pytest.fixture
def reporting(monkeypatch):
    """The benchmarks' helper, found as their own folder finds it."""
    monkeypatch.syspath_prepend(FOLDER)
    import reporting

    return reporting


def test_every_file_that_make_bench_runs_is_a_benchmark():
    scripts = sorted(FOLDER.glob("*.py"))
    assert scripts and all("def main() -> None:" in path.read_text() for path in scripts)


def test_a_report_is_written_whole_or_not_at_all(reporting, tmp_path):
    path = tmp_path / "results" / "made.json"
    reporting.publish(REPORT, path)
    assert json.loads(path.read_text()) == REPORT and [*path.parent.iterdir()] == [path]
    with pytest.raises(ValueError, match="JSON"):
        reporting.publish(REPORT | {"rows": [{"ours": math.nan}]}, path)
    assert json.loads(path.read_text()) == REPORT


def test_a_printed_report_is_not_written(reporting, tmp_path, capsys):
    reporting.publish(REPORT, tmp_path / "made.json", only_print=True)
    assert json.loads(capsys.readouterr().out) == REPORT and not [*tmp_path.iterdir()]


def test_versions_are_those_of_this_environment(reporting):
    found = reporting.versions("python", "pytest")
    assert found == {"python": ".".join(map(str, sys.version_info[:3])), "pytest": pytest.__version__}


def test_a_benchmark_finds_the_helper_when_it_is_run_as_a_file():
    command = [sys.executable, str(FOLDER / "merge.py"), "--one", "ours", "--sizes", "300"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["groups"] > 200
