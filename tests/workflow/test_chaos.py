"""A few kills of a toy study in the ordinary suite; `make chaos` does fifty on the real notebooks.

A count of zero says something only where the counter can count: each is shown one planted fault.
"""

import json
import subprocess
import sys
import time

import chaos
import pytest
import toy

from emosafe_lib.study import files

STAGE = "01_data_merge"


@pytest.mark.slow
def test_72_74_a_study_that_is_killed_again_and_again_loses_nothing_and_ends_as_if_nobody_had(tmp_path):
    count = chaos.torment(chaos.toy_world(tmp_path), kills=3, seed=1)
    assert sum(count.kills.values()) == 3 and count.finished_rounds >= 1
    assert count.clean(), count.as_json()["faults"]


@pytest.fixture
def world(tmp_path):
    """A world in which the first stage is finished as the runner leaves it."""
    world = chaos.toy_world(tmp_path)
    publish(world, executed_notebook())
    return world


def executed_notebook():
    """A toy notebook with a count at every code cell."""
    notebook = toy.notebook(STAGE, "1")
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = number
    return notebook


def publish(world, notebook):
    """Write a stage's files, and a receipt whose every hash holds; returns the stage's folder."""
    folder = world.outputs / "toy" / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{STAGE}.ipynb").write_text(json.dumps(notebook))
    (folder / "rows.txt").write_text("rows")
    outputs = {f"{STAGE}/rows.txt": files.file_sha256(folder / "rows.txt")}
    files.write_json(folder / "manifest.json", {"model": None, "outputs": outputs})
    hashes = {name: files.file_sha256(folder / name) for name in (f"{STAGE}.ipynb", "manifest.json")}
    receipt = {"stage": STAGE, "files": {f"{STAGE}.ipynb": hashes[f"{STAGE}.ipynb"]}}
    files.write_json(folder / "receipt.json", receipt | {"manifest": hashes["manifest.json"]})
    return folder


def counts(count):
    """Every counter by its name."""
    facts = count.as_json()
    return {name: facts[name] for name in facts["faults"]}


def only(name):
    """What the counters say where one fault of one kind is there."""
    return counts(chaos.Count()) | {name: 1}


def test_a_stage_that_the_runner_finished_counts_as_no_fault(world):
    count = chaos.Count()
    assert list(chaos.look_through(world, count, "planted")) == [STAGE] and count.clean()


@pytest.mark.parametrize("fault", ["never ran", "error", "cut"])
def test_a_receipt_of_a_notebook_that_did_not_run_is_a_false_green_though_every_hash_holds(world, fault):
    notebook = executed_notebook()
    if fault == "never ran":
        notebook["cells"][-1]["execution_count"] = None
        notebook["cells"][-1]["metadata"]["papermill"] = {"status": "completed"}
    if fault == "error":
        notebook["cells"][2]["outputs"] = [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]
    publish(world, notebook if fault != "cut" else {"metadata": {}})
    count = chaos.Count()
    assert list(chaos.look_through(world, count, "planted")) == [STAGE]
    assert counts(count) == only("false_greens") and not count.clean()


@pytest.mark.parametrize("fault", ["begun again", "vanished"])
def test_a_finished_stage_that_is_begun_again_or_vanishes_is_lost(world, fault):
    count, before = chaos.Count(), chaos.finished(world)
    now, said = (before, [f"{STAGE}: started"]) if fault == "begun again" else ({}, [])
    chaos.compare(before, now, said, count, "planted")
    assert counts(count) == only("lost")


def test_a_process_that_outlives_its_study_is_an_orphan_and_is_ended(world, monkeypatch):
    monkeypatch.setattr(chaos, "CLEAN_UP_SECONDS", 0.5)
    left = subprocess.Popen([sys.executable, "-c", "import time\ntime.sleep(60)"], env=world.environment)
    deadline = time.monotonic() + 10
    while not chaos.processes(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    count = chaos.Count()
    chaos.settle(world, count)
    assert counts(count) == only("orphans") and left.wait(timeout=10) != 0


@pytest.mark.parametrize("fault", ["output changed", "page cut", "table cut"])
def test_a_file_that_does_not_hold_or_cannot_be_read_is_corrupt(world, fault):
    folder = world.outputs / "toy" / STAGE
    name, text = {
        "output changed": ("rows.txt", "other"),
        "page cut": ("page.html", "<html><p>cut"),
        "table cut": ("p.parquet", "PAR1"),
    }[fault]
    (folder / name).write_text(text)
    count = chaos.Count()
    chaos.look_through(world, count, "planted")
    assert counts(count) == only("corrupt")


def test_a_result_that_differs_from_the_undisturbed_run_is_counted(world, monkeypatch):
    monkeypatch.setattr(chaos, "run_to_end", lambda *_: [])
    count = chaos.Count()
    expected = chaos.results(world) | {f"toy/{STAGE}/rows.txt": "another hash"}
    chaos.finish_round(world, world.root / "run.log", expected, chaos.finished(world), count)
    assert counts(count) == only("different") and not world.outputs.exists()
