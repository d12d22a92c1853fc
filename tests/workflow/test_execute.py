"""The runner believes only what it can check: the ways in which a notebook can pretend to be done."""

import copy
import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import toy

from emosafe_lib import cli
from emosafe_lib.study import files, paths, progress
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.stage import begin
from workflow import checks, digests, execute, receipts
from workflow import command as workflow_command
from workflow import study_run as workflow_runner
from workflow.checks import cap_outputs, check_executed, check_source
from workflow.execute import execute_notebook, run_stage
from workflow.pages import rendering
from workflow.study_run import machine_limits, run_study

STAGE = "01_data_merge"


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


def published(outputs):
    folder = outputs / "toy" / STAGE
    return {path.name: path.read_bytes() for path in folder.glob("*") if "receipt.json" not in path.name}


def kernels(outputs):
    """Process ids of kernels that work for this test: they inherit its outputs folder in their environment."""
    found = set()
    for process in psutil.process_iter(["cmdline", "pid"]):
        try:
            mine = process.environ().get("EMOSAFE_OUTPUTS") == str(outputs)
            if mine and "ipykernel_launcher" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def wait_until(condition, seconds=30):
    """Poll until the condition holds; returns whether it came to hold."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


CANARY = "zelda quux 4711"


def failing(code: str) -> dict:
    """A notebook with one cell and what IPython leaves of its failure."""
    from IPython.core.ultratb import FormattedTB

    cell = nbformat.v4.new_code_cell(code)
    try:
        exec(code, {})
    except Exception as error:
        lines = FormattedTB(mode="Context").structured_traceback(*sys.exc_info())
        facts = {"ename": type(error).__name__, "evalue": str(error), "traceback": [*lines]}
        cell.outputs = [nbformat.v4.new_output("error", **facts)]
    return nbformat.v4.new_notebook(cells=[cell])


def test_an_error_of_another_package_leaves_no_message_in_the_notebook_that_is_kept():
    code = "try:\n    {}['%s']\nexcept KeyError as found:\n    raise ValueError('%s\\nmore: 4711') from found"
    notebook = failing(code % (CANARY, CANARY))
    assert "4711" in notebook.cells[0].outputs[0].evalue
    checks.mask_foreign(notebook)
    (left,) = notebook.cells[0].outputs
    assert "4711" not in left.evalue and left.ename == "ValueError"
    assert "4711" not in "".join(left.traceback) and any("KeyError" in line for line in left.traceback)


def test_an_error_of_ours_keeps_its_words_whatever_class_it_is_made_from():
    ours = "from emosafe_lib.study.errors import ServerError\nraise ServerError('chat', 'asks for a key', 'export one')"
    notebook = failing(ours)
    before = copy.deepcopy(notebook)
    checks.mask_foreign(notebook)
    assert notebook == before
    said = checks.failure_in_words(notebook.cells[0].outputs[0])
    assert said == "ServerError: chat: asks for a key; export one"


def test_a_good_stage_leaves_notebook_page_manifest_and_receipt(checkout, outputs):
    receipt = json.loads(run_stage(STAGE, "toy").read_text())
    names = {"01_data_merge.ipynb", "01_data_merge.html", "manifest.json", "rows.txt"}
    assert set(published(outputs)) == names
    assert 0.2 < receipt["overhead_seconds"] < 20 and not list((outputs / "toy" / "logs").iterdir())


def test_a_receipt_counts_from_the_start_of_the_process_to_its_own_writing(checkout, outputs, monkeypatch, capsys):
    page, began = rendering.page, time.monotonic()

    def slow_page(*given):
        time.sleep(2)
        return page(*given)

    monkeypatch.setattr(rendering, "page", slow_page)
    monkeypatch.setattr(workflow_command, "process_age", lambda: 100.0)
    assert cli.main(["run", "stage", STAGE, "--study", "toy"]) == 0
    wall = 100 + time.monotonic() - began
    receipt = json.loads((outputs / "toy" / STAGE / "receipt.json").read_text())
    rounding = 0.005
    assert wall - 1.5 < receipt["seconds"] <= wall + rounding
    assert 102 < receipt["overhead_seconds"] < receipt["seconds"]
    said = float(capsys.readouterr().out.split("done in ")[1].split()[0])
    assert said == pytest.approx(wall, abs=1)


def test_two_runners_of_one_stage_do_not_meet(checkout, outputs, monkeypatch):
    receipt = run_stage(STAGE, "toy")
    before = published(outputs)
    monkeypatch.setattr(execute, "LOCK_SECONDS", 0)
    with execute.only_runner("toy", STAGE), pytest.raises(StageError, match="01_data_merge: is being run by another"):
        run_stage(STAGE, "toy")
    assert receipt.is_file() and published(outputs) == before
    assert run_stage(STAGE, "toy") == receipt


@pytest.mark.parametrize("work", ["{sleep}\nrun.finish()", "run.finish()\n{sleep}"], ids=["before", "after"])
def test_what_cells_do_before_and_after_they_finish_is_no_overhead(checkout, outputs, work):
    toy.write(checkout, STAGE, "1", last=work.format(sleep="import time\ntime.sleep(2)"))
    receipt = json.loads(run_stage(STAGE, "toy").read_text())
    assert receipt["seconds"] > 2 and 0.2 < receipt["overhead_seconds"] < receipt["seconds"] - 2


def test_a_stage_that_is_refused_keeps_the_proof_of_what_had_finished(checkout, outputs):
    receipt = run_stage(STAGE, "toy")
    before, notebook = receipt.read_bytes(), checkout / "notebooks" / f"{STAGE}.ipynb"
    source = notebook.read_bytes()
    receipt.unlink()  # as the engine does before it runs a stage again
    toy.write(checkout, STAGE, toy.BODY[STAGE], tags=["raises-exception"])
    with pytest.raises(StageError, match="raises-exception"):
        run_stage(STAGE, "toy")
    notebook.write_bytes(source)
    assert run_stage(STAGE, "toy", after=[]).read_bytes() == before, "it ran again"


@pytest.mark.parametrize("left", ["<<<<<<< HEAD\n{}", "{}", '{"cells": [1]}', "\udcff"])
def test_what_is_no_notebook_is_told_in_one_line(checkout, outputs, left):
    (checkout / "notebooks" / f"{STAGE}.ipynb").write_text(left, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StageError, match=f"^notebooks/{STAGE}.ipynb: is no notebook; "):
        run_stage(STAGE, "toy")


def test_what_is_wrong_with_a_page_is_said_when_it_is_due(checkout, outputs, monkeypatch):
    monkeypatch.setattr(rendering, "body", lambda notebook: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_stage(STAGE, "toy")
    assert not (outputs / "toy" / STAGE / "receipt.json").exists()


def test_make_tells_its_processes_what_the_runner_tells_kernels():
    lines = (paths.project_root() / "Makefile").read_text().splitlines()
    exported = {line.split()[1]: line.split(maxsplit=3)[3] for line in lines if line.startswith("export ")}
    assert exported == workflow_command.FOR_KERNELS


def test_a_process_knows_its_age_its_imports_among_it():
    code = "import time\ntime.sleep(1)\nfrom workflow.execute import process_age\nprint(process_age())"
    began = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(found.stdout) < time.monotonic() - began + 0.1


FALSE_GREENS = {
    "exception": ("1 / 0", {}),
    "sys-exit-0": ("import sys\nsys.exit(0)", {}),
    "kernel-killed": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", {}),
    "kernel-exit": ("import os\nos._exit(0)", {}),
    "no-finish": ("x = 1", {"last": "x = 2"}),
    "finish-forged": ("run.folder.mkdir(exist_ok=True)", {"last": "(run.folder / 'manifest.json').write_text('{}')"}),
    "finish-torn": ("run.folder.mkdir(exist_ok=True)", {"last": "(run.folder / 'manifest.json').write_text('{')"}),
    "output-changed": (
        "run.out('a.txt').write_text('a')",
        {"last": "run.finish()\n(run.folder / 'a.txt').write_text('b')"},
    ),
    "shell": ("!false", {}),
    "shell-kept": ("said = !false", {}),
    "bash-cell": ("%%bash\nfalse", {}),
    "shell-cell": ("%%!\nfalse", {}),
    "raises-tag": ("1 / 0", {"tags": ["raises-exception"]}),
    "skip-tag": ("1 / 0", {"tags": ["skip-execution"]}),
}


@pytest.mark.parametrize("case", FALSE_GREENS)
def test_72_73_a_stage_that_did_not_finish_is_failed_and_the_last_good_output_stays(checkout, outputs, capsys, case):
    run_stage(STAGE, "toy")
    before = published(outputs)
    body, more = FALSE_GREENS[case]
    toy.write(checkout, STAGE, body, **more)
    capsys.readouterr()
    assert cli.main(["run", "stage", STAGE, "--study", "toy"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and STAGE in said
    assert not (outputs / "toy" / STAGE / "receipt.json").exists()
    if case.startswith("finish"):
        assert "left a manifest that cannot be read" in said
    elif case != "output-changed":
        assert published(outputs) == before


def test_72_a_cell_that_runs_too_long_fails_and_its_kernel_ends(checkout, outputs, tmp_path):
    toy.write(checkout, STAGE, "import time\ntime.sleep(60)")
    with pytest.raises(StageError, match=r"longer than|kernel died"):
        execute_notebook(checkout / "notebooks" / f"{STAGE}.ipynb", tmp_path / "out.ipynb", {}, STAGE, minutes=0.05)
    assert wait_until(lambda: not kernels(outputs), 10)


def hear_interrupts() -> None:
    """A shell starts its background jobs deaf to SIGINT; the runner under test must hear it wherever tests are run."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=["TERM", "INT", "KILL"])
def test_72_a_stopped_runner_is_not_done_and_leaves_no_kernel(checkout, outputs, number):
    toy.write(checkout, STAGE, "import time\ntime.sleep(60)")
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "stage", STAGE, "--study", "toy"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runner = subprocess.Popen(command, env=os.environ.copy(), preexec_fn=hear_interrupts, **quiet)
    assert wait_until(lambda: kernels(outputs)), "no kernel started, so nothing was tested"
    time.sleep(2)
    runner.send_signal(number)
    assert runner.wait(timeout=30) != 0
    assert wait_until(lambda: not kernels(outputs)), "an orphan kernel is left"
    assert not (outputs / "toy" / STAGE / "receipt.json").exists()


def test_75_the_source_is_never_its_own_target(checkout):
    source = checkout / "notebooks" / f"{STAGE}.ipynb"
    with pytest.raises(StageError, match="overwritten by its own execution"):
        execute_notebook(source, source, {}, STAGE, minutes=1)


@pytest.mark.parametrize(
    "body",
    [
        "print('x' * 30_000_000)",
        "'x' * 30_000_000",
        "from IPython.display import HTML, display\ndisplay(HTML('<p>x</p>' * 5_000_000))",
    ],
)
def test_78_thirty_megabytes_of_output_are_capped_with_a_notice(checkout, outputs, body):
    toy.write(checkout, STAGE, body)
    run_stage(STAGE, "toy")
    page = outputs / "toy" / STAGE / f"{STAGE}.html"
    assert page.stat().st_size < 1_000_000 and "characters left out" in page.read_text()


def shown(*outputs):
    """A notebook of one cell with these outputs; returns what is left of them."""
    cell = nbformat.v4.new_code_cell("x", execution_count=1, outputs=list(outputs))
    cap_outputs(nbformat.v4.new_notebook(cells=[cell]))
    return cell["outputs"]


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "image/png"])
def test_78_many_outputs_of_a_cell_are_capped_together(kind):
    display = nbformat.v4.new_output("display_data", data={kind: "x" * 100_000})
    left = shown(*(copy.deepcopy(display) for _ in range(300)))
    size = len(json.dumps(left))
    limit = checks.MAX_CELL_CHARACTERS if kind == "image/png" else checks.MAX_CELL_TEXT
    assert 0.9 * limit < size < 1.02 * limit
    assert left[0] == display and "more outputs left out" in left[-1]["text"]


def test_78_a_figure_stays_where_only_text_is_too_long():
    figure = nbformat.v4.new_output("display_data", data={"image/png": "x" * 100, "text/plain": "<Figure>"})
    lines = [nbformat.v4.new_output("stream", text="x" * 150_000) for _ in range(3)]
    left = shown(*lines, figure)
    assert [len(output.get("text", "")) > 100_000 for output in left] == [True, False, False, False]
    assert "100000 characters left out" in left[1]["text"] and left[2]["data"]["image/png"] == "x" * 100
    assert left[3]["text"] == "[1 more outputs left out]\n"


def test_a_disk_that_is_full_or_may_not_be_written_is_told_in_one_line(checkout, capsys, monkeypatch):
    for number in (errno.ENOSPC, errno.EACCES):

        def refuse(*_, number=number):
            raise OSError(number, os.strerror(number), "/somewhere/receipt.json")

        monkeypatch.setattr(execute, "publish", refuse)
        assert cli.main(["run", "stage", STAGE, "--study", "toy"]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith(f"error: receipt.json: {os.strerror(number)}; ")


def test_an_error_of_a_foreign_class_never_shows_its_message(checkout, capsys):
    toy.write(checkout, STAGE, "raise ValueError('private words of a person')")
    assert cli.main(["run", "stage", STAGE, "--study", "toy"]) == 1
    assert "private words" not in capsys.readouterr().err


def test_a_receipt_of_other_code_is_old_even_where_the_engine_has_lost_its_notes(checkout, outputs, monkeypatch):
    def receipt(stage, model=None, digest=""):
        params = load_model(model) if model else None
        digest = digest or digests.stage_digest(stage, load_study("toy"), params, ["nano-1"])
        folder = paths.stage_folder("toy", stage, model)
        files.write_json(folder / "manifest.json", {"outputs": {}})
        fits = files.file_sha256(folder / "manifest.json")
        files.write_json(folder / "receipt.json", {"digest": digest, "files": {}, "manifest": fits})
        return str(folder / "receipt.json")

    asked = []
    monkeypatch.setattr(workflow_runner, "run_engine", lambda command: asked.append(command) or 0)
    run_study("toy", ["nano-1"], 1)
    receipt("01_data_merge")
    receipt("05_scaling_analysis")
    run_study("toy", ["nano-1"], 1)
    assert not any("--forcerun" in command for command in asked)
    old = [receipt(f"0{n}", "nano-1", "old") for n in ("3_prompting_baselines", "4_lora_finetuning")]
    run_study("toy", ["nano-1"], 1)
    at = asked[-1].index("--forcerun")
    assert asked[-1][at + 1 : at + 4] == [*old, "--keep-going"] and "--rerun-incomplete" in asked[-1]
    study = load_study("toy")
    assert receipts.outdated(study, ["nano-1"], "03_prompting_baselines") == old[:1]
    assert receipts.outdated(study, ["nano-1"], "04_lora_finetuning") == old[1:]
    assert receipts.outdated(study, ["nano-1"], "01_data_merge") == []


@pytest.mark.parametrize("lost", ["rows.txt", "01_data_merge.html", "manifest.json"])
def test_a_stage_whose_files_were_deleted_is_old(checkout, outputs, lost):
    run_stage(STAGE, "toy")
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == []
    (outputs / "toy" / STAGE / lost).unlink()
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == [str(outputs / "toy" / STAGE / "receipt.json")]


def test_a_stage_that_was_run_again_by_hand_is_old(checkout, outputs):
    receipt = run_stage(STAGE, "toy")
    begun = begin(STAGE, "toy")
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == []
    begun.finish()
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == [str(receipt)]


def test_a_notebook_that_is_no_python_fails_by_its_cell_and_does_not_stop_the_plan(checkout, outputs, capsys):
    toy.write(checkout, STAGE, "x = (")
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == []
    assert cli.main(["run", "stage", STAGE, "--study", "toy"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {STAGE}: cell ")


def test_outputs_that_jupyterlab_saved_are_no_change_of_a_notebook_and_its_source_and_tags_are(checkout, outputs):
    path, study = checkout / "notebooks" / f"{STAGE}.ipynb", load_study("toy")
    before = digests.stage_digest(STAGE, study)
    notebook = nbformat.read(path, 4)
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", text="seen")]
    notebook.cells[3].execution_count, notebook.metadata["language_info"] = 7, {"name": "python"}
    nbformat.write(notebook, path)
    assert digests.stage_digest(STAGE, study) == before
    for change in ({"source": "x = 2"}, {"metadata": {"tags": ["other"]}}):
        changed = copy.deepcopy(notebook)
        changed.cells[3].update(change)
        nbformat.write(changed, path)
        assert digests.stage_digest(STAGE, study) != before, change


@pytest.mark.parametrize(
    ("stage", "model"),
    [("02_chatgpt_augmentation", "minilm"), ("05_scaling_analysis", "llama-1b"), ("06_on_device", "llama-70b")],
)
def test_the_file_of_a_model_that_a_stage_looks_at_is_part_of_its_digest(checkout, outputs, stage, model):
    study, path = load_study("toy"), checkout / "params" / "models" / f"{model}.yaml"
    before = digests.stage_digest(stage, study, models=["nano-1"])
    lines = [line for line in path.read_text().splitlines() if not line.startswith("context_tokens")]
    path.write_text("\n".join([*lines, "context_tokens: 77", ""]))
    assert digests.stage_digest(stage, study, models=["nano-1"]) != before


def test_a_receipt_that_was_cut_short_is_old(checkout, outputs):
    receipt = run_stage(STAGE, "toy")
    for path in (receipt, receipt.with_name(receipts.PROOF)):
        path.write_text("")
    assert receipts.outdated(load_study("toy"), ["nano-1"]) == [str(receipt)]
    assert json.loads(run_stage(STAGE, "toy", after=[]).read_text())["stage"] == STAGE


def test_a_clock_that_was_set_back_fails_no_stage(checkout, outputs):
    run_stage(STAGE, "toy")
    path = outputs / "toy" / STAGE / "manifest.json"
    files.write_json(path, json.loads(path.read_text()) | {"finished": "2999-01-01T00:00:00+00:00"})
    toy.write(checkout, STAGE, "run.out('rows.txt').write_text('later')")
    assert json.loads(run_stage(STAGE, "toy").read_text())["stage"] == STAGE


def test_stages_with_a_gpu_take_turns_and_one_that_asks_for_more_than_there_is_still_runs(tmp_path):
    """What Snakemake makes of the limits: two stages that ask for four GPUs and a petabyte run, one after the other."""
    work = "date +%s.%N > {0}; sleep 1; date +%s.%N >> {0}"
    rule = f"rule {{0}}:\n output: '{{0}}'\n resources: gpu=4, mem_mb=10**9\n shell: '{work}'\n"
    (tmp_path / "Snakefile").write_text("rule all:\n input: 'a', 'b'\n" + rule.format("a") + rule.format("b"))
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(tmp_path)]
    command += ["--snakefile", str(tmp_path / "Snakefile"), *machine_limits()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    first, second = sorted([float(time) for time in (tmp_path / name).read_text().split()] for name in "ab")
    assert first[1] <= second[0]


def test_executed_checks_name_the_cell():
    notebook = toy.notebook(STAGE, "1")
    with pytest.raises(StageError, match="cell 1 never ran"):
        check_executed(notebook, "n")
    for count, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    check_executed(notebook, "n")
    notebook["cells"][2]["execution_count"] = 9
    with pytest.raises(StageError, match="once each, in order"):
        check_executed(notebook, "n")


def test_markdown_may_speak_of_shell_commands():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("!false")])
    check_source(notebook, "n")


def test_a_line_leaves_in_one_write_so_that_stages_side_by_side_do_not_cut_it(monkeypatch):
    written = []
    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=written.append, flush=lambda: None))
    progress.say("03_prompting_baselines nano-1: started")
    assert written == ["03_prompting_baselines nano-1: started\n"]
