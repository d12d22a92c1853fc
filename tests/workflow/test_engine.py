"""The engine ends with its runner, never forgets a cluster job, and costs little to start."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import toy
import yaml

from emosafe_lib.study import stage
from emosafe_lib.study.errors import ParameterError, StageError
from emosafe_lib.study.parameters import load_model
from workflow import slurm
from workflow import study_run as workflow_runner
from workflow.execute import run_stage
from workflow.snakemake_run import snakemake_arguments
from workflow.study_run import run_study

TRAINING = ("torch", "transformers", "peft", "datasets", "sklearn")
HEAVY = ("torch", "transformers", "pandas", "numpy", "papermill", "nbformat", "snakemake", "sklearn", "matplotlib")


class Plugin(SimpleNamespace):
    """What the SLURM plugin's executor offers to its status check, with the reports kept."""

    def __init__(self):
        said = SimpleNamespace(info=print, debug=print, warning=print, error=print)
        super().__init__(run_uuid="run", logger=said, succeeded=[], failed={})

    def report_job_success(self, job):
        self.succeeded.append(job.external_jobid)

    def report_job_error(self, job, msg="", aux_logs=()):
        self.failed[job.external_jobid] = msg


def answers(monkeypatch, states):
    """SLURM's answer to the next status checks: states by job, or None where it does not answer."""
    from snakemake_executor_plugin_slurm import job_status_query

    async def query_job_status(command, logger):
        return (None, None) if states is None else (states, 0.1)

    monkeypatch.setattr(job_status_query, "query_job_status", query_job_status)


def check(plugin, *numbers, receipt="receipt.json", before=None):
    """One status check of jobs whose receipt was last written at `before`; returns those that count as running."""

    async def collect():
        made = SimpleNamespace(output=[str(receipt)])
        aux = {"emosafe_written": [before]}
        jobs = [SimpleNamespace(external_jobid=number, aux=aux, job=made) for number in numbers]
        return [job.external_jobid async for job in slurm.check_active_jobs(plugin, jobs)]

    return asyncio.run(collect())


def test_jobs_are_reported_by_their_state(monkeypatch):
    plugin = Plugin()
    answers(monkeypatch, {"1": "COMPLETED", "2": "OUT_OF_MEMORY", "3": "RUNNING", "4": "PENDING", "5": "CANCELLED"})
    assert check(plugin, "1", "2", "3", "4", "5") == ["3", "4"]
    assert plugin.succeeded == ["1"] and set(plugin.failed) == {"2", "5"}


def test_a_silent_controller_loses_no_job_and_is_waited_for_only_so_long(monkeypatch):
    plugin = Plugin()
    answers(monkeypatch, None)
    for _ in range(20):
        assert check(plugin, "1", "2") == ["1", "2"]
    monkeypatch.setattr(slurm, "SILENCE_SECONDS", -1)
    assert check(plugin, "1") == [] and "has not answered" in plugin.failed["1"]


def test_a_job_that_slurm_no_longer_knows_has_succeeded_only_by_a_receipt_of_its_own(monkeypatch, tmp_path):
    plugin, receipt = Plugin(), tmp_path / "receipt.json"
    answers(monkeypatch, {})
    assert check(plugin, "1", receipt=receipt) == ["1"]
    monkeypatch.setattr(slurm, "UNKNOWN_SECONDS", -1)
    assert check(plugin, "1", receipt=receipt) == [] and "left no receipt" in plugin.failed["1"]
    receipt.write_text("{}")
    old = receipt.stat().st_mtime_ns
    assert check(plugin, "2", receipt=receipt, before=old) == [] and "left no receipt" in plugin.failed["2"]
    assert check(plugin, "3", receipt=receipt) == [] and plugin.succeeded == ["3"]
    os.utime(receipt, ns=(old, old - 1))  # by a node whose clock is behind
    assert check(plugin, "4", receipt=receipt, before=old) == [] and plugin.succeeded == ["3", "4"]


def test_a_submission_notes_what_its_receipt_was_before(monkeypatch, tmp_path):
    from snakemake_executor_plugin_slurm import Executor
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    receipt, reported = tmp_path / "receipt.json", []
    receipt.write_text("{}")
    monkeypatch.setattr(RemoteExecutor, "report_job_submission", lambda self, job, more: reported.append((job, more)))
    for name in ("report_job_submission", "check_active_jobs"):
        monkeypatch.setattr(Executor, name, None)
    slurm.mend_slurm()
    made = SimpleNamespace(output=[str(receipt), str(tmp_path / "absent")])
    job = SimpleNamespace(external_jobid="1", aux={"slurm_logfile": "log"}, job=made)
    Executor.report_job_submission(Plugin(), job)
    assert reported == [(job, True)] and job.aux["slurm_logfile"] == "log"
    assert job.aux["emosafe_written"] == [receipt.stat().st_mtime_ns, None]


def test_a_plugin_that_was_never_seen_to_lose_jobs_stays_as_it_is_and_a_line_says_so(monkeypatch, capsys):
    from snakemake_executor_plugin_slurm import Executor

    own = Executor.check_active_jobs, Executor.report_job_submission
    monkeypatch.setattr(slurm, "version", lambda name: "2.9.0")
    slurm.mend_slurm()
    assert own == (Executor.check_active_jobs, Executor.report_job_submission)
    said = capsys.readouterr()
    assert "2.9.0 is used unpatched" in said.out + said.err and (said.out + said.err).count("\n") == 1


def fake_slurm(monkeypatch, folder, queue):
    """`squeue` that prints a file and `scancel` that takes its jobs out of it, before all others on the path."""
    (folder / "queue").write_text(queue)
    python = f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nqueue = Path({str(folder / 'queue')!r})\n"
    scancel = "lines = queue.read_text().splitlines(True)\n"
    scancel += "queue.write_text(''.join(line for line in lines if line.split()[0] not in sys.argv))\n"
    for name, body in (("squeue", "print(queue.read_text(), end='')\n"), ("scancel", scancel)):
        (folder / name).write_text(python + body)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_jobs_that_a_killed_run_left_on_the_cluster_are_cancelled_and_no_others(monkeypatch, tmp_path):
    mine, other = slurm.job_prefix(tmp_path / "toy"), slurm.job_prefix(tmp_path / "real")
    assert len(mine) <= 50 and mine != other
    others = f"13 {other}_uuid\n14 my job\n15 {mine}\n"
    fake_slurm(monkeypatch, tmp_path, f"11 {mine}_uuid\n12 {mine}_older\n" + others)
    assert slurm.cancel_leftovers(tmp_path / "toy") == 2
    assert (tmp_path / "queue").read_text() == others
    assert slurm.cancel_leftovers(tmp_path / "toy") == 0
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert slurm.cancel_leftovers(tmp_path / "toy") == 0


def test_the_profile_names_its_jobs_so_that_the_next_run_finds_them(checkout, outputs, monkeypatch):
    asked = []
    monkeypatch.setattr(workflow_runner, "run_engine", lambda command: asked.append(command) or 0)
    monkeypatch.setattr(workflow_runner, "require_slurm", lambda: None)
    for profile in ("", "slurm"):
        run_study("toy", ["nano-1"], 1, profile=profile)
    assert "--slurm-jobname-prefix" not in asked[0]
    assert asked[1][asked[1].index("--slurm-jobname-prefix") + 1] == slurm.job_prefix(outputs / "toy")


def test_a_machine_without_slurm_is_told_so_before_anything_starts(checkout, outputs, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="profile slurm: needs SLURM's sbatch and squeue, which this machine lacks"):
        run_study("toy", ["nano-1"], 1, profile="slurm")
    assert not outputs.exists()


def test_a_profile_of_ones_own_is_found_from_where_the_command_is_typed(checkout, outputs, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(workflow_runner, "run_engine", lambda command: asked.append(command) or 0)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    run_study("toy", ["nano-1"], 1, profile="mine")
    assert asked[0][asked[0].index("--profile") + 1] == str(tmp_path / "mine")


def test_what_cannot_be_done_is_told_before_anything_starts(checkout, outputs):
    with pytest.raises(ParameterError, match="--extra: its quotes do not close"):
        run_study("toy", ["nano-1"], 1, extra='"')
    with pytest.raises(ParameterError, match="--profile: there is no folder 'yours'"):
        run_study("toy", ["nano-1"], 1, profile="yours")
    facts = {"name": "served", "family": "llama", "weights": "hub", "path": "m", "backend": "openai"}
    (checkout / "params" / "models" / "served.yaml").write_text(json.dumps(facts))
    with pytest.raises(StageError, match="04_lora_finetuning: needs weights, and servers answer for all"):
        run_study("toy", ["served"], 1, until="04_lora_finetuning")
    assert not outputs.exists()


INTERRUPTED = """
import signal, sys, time
from workflow import snakemake_run as engine
signal.signal(signal.SIGINT, engine.interrupt_once())
try:
    print("ready", flush=True)
    time.sleep(20)
except KeyboardInterrupt:
    time.sleep(1.5)
    print("cancelled", flush=True)
"""


def test_a_second_interrupt_does_not_disturb_the_cancelling_of_jobs():
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert process.communicate(timeout=20)[0] == "cancelled\n" and process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whatever_stops_the_runner_reaches_the_engine_as_an_interrupt(number):
    """At SIGTERM Snakemake waits for its cluster jobs; at SIGINT it cancels them."""
    heard = "import signal, time\ntry:\n    print('up', flush=True)\n    time.sleep(20)\n"
    heard += "except KeyboardInterrupt:\n    print('cancelled', flush=True)"
    code = f"import sys\nfrom workflow.study_run import run_engine\nrun_engine([sys.executable, '-c', {heard!r}])"
    runner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert runner.stdout.readline() == "up\n"
    runner.send_signal(number)
    assert runner.communicate(timeout=20)[0] == "cancelled\n"


def test_the_plugin_still_loses_jobs_so_its_check_is_still_replaced(monkeypatch):
    import snakemake_executor_plugin_slurm as slurm

    async def silent(command, logger):
        return None, None

    class Free:
        async def __aenter__(self):
            pass

        async def __aexit__(self, *failure):
            pass

    monkeypatch.setattr(slurm, "query_job_status", silent)
    monkeypatch.setattr(slurm, "get_min_job_age", lambda: None)
    settings = SimpleNamespace(status_attempts=2, init_seconds_before_status_checks=1)
    plugin = Plugin()
    vars(plugin).update(workflow=SimpleNamespace(executor_settings=settings), status_rate_limiter=Free())
    vars(plugin).update(get_status_command=lambda: "squeue", _status_query_failures=0, _status_query_calls=0)

    async def collect():
        return [job async for job in slurm.Executor.check_active_jobs(plugin, [SimpleNamespace(external_jobid="1")])]

    kept = asyncio.run(collect())
    assert not kept and not plugin.failed, "the plugin keeps its jobs now: check_active_jobs may go"


def test_a_process_notices_that_its_parent_is_gone(tmp_path):
    note = tmp_path / "noticed"
    child = (
        "import pathlib, time\nfrom workflow.snakemake_run import watch_parent\n"
        f"watch_parent(lambda: pathlib.Path({str(note)!r}).write_text('yes'))\ntime.sleep(20)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    time.sleep(3)
    assert not note.exists()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(pid, 9)
    assert note.exists()


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


def test_a_stage_that_has_finished_is_not_run_again_where_only_its_receipt_was_removed(checkout, outputs, capsys):
    receipt = run_stage("01_data_merge", "toy")
    first = json.loads(receipt.read_text())
    receipt.unlink()
    assert json.loads(run_stage("01_data_merge", "toy", after=[]).read_text()) == first
    assert "had finished" in capsys.readouterr().out


def test_a_stage_is_run_again_when_something_changed_or_a_person_asks(checkout, outputs, capsys):
    receipt = run_stage("01_data_merge", "toy")
    newer = outputs / "newer"
    newer.write_text("x")
    os.utime(newer, (time.time() + 3600, time.time() + 3600))
    rows = outputs / "toy" / "01_data_merge" / "rows.txt"
    for change in ("by hand", "earlier stage is newer", "output touched", "notebook changed"):
        if change == "output touched":
            rows.write_text("touched")
        if change == "notebook changed":
            toy.write(checkout, "01_data_merge", toy.BODY["01_data_merge"] + "\n# edited")
        after = {"by hand": None, "earlier stage is newer": [str(newer)]}.get(change, [])
        capsys.readouterr()
        run_stage("01_data_merge", "toy", after=after)
        assert "01_data_merge: started" in capsys.readouterr().out, change
        assert rows.read_text() == "rows" and receipt.is_file()


def test_a_stage_is_open_in_one_kernel_at_a_time(checkout, outputs, monkeypatch):
    hold = (
        "import sys\nfrom emosafe_lib.study.stage import begin\n"
        "run = begin('01_data_merge', 'toy')\nprint('begun', flush=True)\nsys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert other.stdout.readline() == "begun\n"
    monkeypatch.setattr(stage, "LOCK_SECONDS", 0.2)
    with pytest.raises(StageError, match="open in another kernel"):
        stage.begin("01_data_merge", "toy")
    other.kill()
    other.wait()
    stage.begin("01_data_merge", "toy").finish()


def test_stages_side_by_side_share_the_cores_that_they_are_given(checkout, outputs, monkeypatch):
    toy.write(checkout, "01_data_merge", 'import os\nrun.out("rows.txt").write_text(os.environ["OMP_NUM_THREADS"])')
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_stage("01_data_merge", "toy")
    assert (outputs / "toy" / "01_data_merge" / "rows.txt").read_text() == "1"
    snakefile = (toy.ROOT / "workflow" / "Snakefile").read_text()
    assert (
        snakefile.count("    shell:") - 1 == snakefile.count("{STAGE} 0") and "OMP_NUM_THREADS={{threads}}" in snakefile
    )
    assert load_model("nano-1").resources.threads == 1


def test_importing_the_package_and_its_runner_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time\nstarted = time.perf_counter()\nimport emosafe_lib\nseconds = time.perf_counter() - started\n"
        "import workflow.command, workflow.study_run, workflow.snakemake_run, emosafe_lib.study.stage\n"
        f"print(seconds, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = found.stdout.split(maxsplit=1)
    print(f"import emosafe_lib: {float(seconds) * 1000:.1f} ms")
    assert float(seconds) < 0.3 and loaded.strip() == "[]"


def test_the_engine_of_a_study_loads_neither_pytorch_nor_what_trains_with_it(checkout, outputs):
    """It stands between a person and every `make study`; Snakemake alone takes its three seconds."""
    given = snakemake_arguments(checkout, 1, study="toy", models="nano-1", until="01_data_merge")
    code = (
        "import os, sys\nfrom workflow import command\n"
        f"command.main(['engine', {str(outputs)!r}, str(os.getppid()), *{given!r}, '--dry-run'])\n"
        f"print([name for name in {TRAINING!r} if name in sys.modules], 'snakemake' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=toy.ROOT)
    assert "01_data_merge" in found.stdout and found.stdout.splitlines()[-1] == "[] True"


def test_the_workflow_runs_every_small_model_and_refuses_an_unknown_one():
    listing = [sys.executable, str(toy.ROOT / ".ci" / "models.py")]
    said = subprocess.run(listing, capture_output=True, text=True, env=os.environ | {"ASKED": "llama-1b llama-70b"})
    lists = {line.partition("=")[0]: json.loads(line.partition("=")[2]) for line in said.stdout.splitlines()}
    assert lists["small"] == ["minilm", "nano-1", "nano-2", "nano-3", "nano-4", "smollm2-135m"]
    assert lists["asked"] == ["llama-1b", "llama-70b"]
    refused = subprocess.run(listing, capture_output=True, text=True, env=os.environ | {"ASKED": "x; rm -rf /"})
    assert refused.returncode == 1 and "no file for" in refused.stderr
    workflow = yaml.safe_load((toy.ROOT / ".github" / "workflows" / "ci.yml").read_text())
    matrices = {
        name: job["strategy"]["matrix"].get("model") for name, job in workflow["jobs"].items() if "strategy" in job
    }
    assert "outputs.small" in matrices["small-sizes"] and "outputs.asked" in matrices["real-sizes"]
    for name, folder in (("small-sizes", "outputs/sample/"), ("real-sizes", "outputs/${{ inputs.study }}/")):
        uploads = workflow["jobs"][name]["steps"][-1]["with"]["path"].splitlines()
        assert uploads and all(path.startswith(folder) for path in uploads), "the committed reference is no artifact"
    commands = [step.get("run", "") for step in workflow["jobs"]["real-sizes"]["steps"]]
    order = [next(n for n, text in enumerate(commands) if word in text) for word in ("make setup", "study")]
    assert order == sorted(order)
