"""A study on a real SLURM: success, a failing job, a cancelled one, one that exceeds its memory, a controller restart.

Run by `make test-cluster` and by continuous integration where SLURM is installed; skipped, with the reason, elsewhere.
Toy notebooks stand for the real ones; the runner, Snakemake, its SLURM plugin, the profile and SLURM are real. Nothing
here waits without a limit: a run that takes longer is ended, and the test says what SLURM's daemons had to say.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import slurm
import toy

RUN_SECONDS, JOB_SECONDS = 600, 300
DECLARED_MB = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not slurm.available() and "EMOSAFE_NEEDS_SLURM" not in os.environ,
        reason="no SLURM: install slurm-wlm and munge, and run as root",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    if not slurm.available():
        pytest.fail("no SLURM: install slurm-wlm and munge, run as root, and leave no configuration in /etc/slurm")
    began = time.monotonic()
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
        states = Counter(job["state"] for job in running.jobs())
        print(f"\nSLURM jobs: {dict(states)} in {time.monotonic() - began:.0f} s")


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs, cluster):
    folder = toy.checkout(tmp_path / "toy")
    shutil.copytree(toy.ROOT / "workflow" / "profiles", folder / "profiles")
    profile = folder / "profiles" / "slurm" / "config.yaml"
    profile.write_text(profile.read_text().replace("checks: 10", "checks: 2"))
    for path in (folder / "params" / "models").glob("nano-*.yaml"):
        path.write_text(path.read_text() + f"resources: {{memory_mb: {DECLARED_MB}, minutes: 5}}\n")
    monkeypatch.setenv("EMOSAFE_ROOT", str(folder))
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    yield folder
    cluster.client("scancel", "--user=root")


def start(*models, until):
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "study", "--study", "toy", "--models", " ".join(models)]
    command += ["--until", until, "--profile", str(Path(os.environ["EMOSAFE_ROOT"]) / "profiles" / "slurm")]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": os.environ.copy()}
    return subprocess.Popen(command, start_new_session=True, **options)


def finish(run, cluster):
    """Exit status and output; a run that takes too long is ended with everything it started."""
    try:
        said, _ = run.communicate(timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        said, _ = run.communicate(timeout=30)
        pytest.fail(f"the run hung for {RUN_SECONDS} s\n{said}\n{cluster.said()}")
    return run.returncode, said


def receipts(outputs):
    return {str(path.parent.relative_to(outputs / "toy")) for path in (outputs / "toy").rglob("receipt.json")}


def wait_for_job(cluster, run, rule):
    """The number of the job of a rule once it runs."""
    deadline, known = (
        time.monotonic() + JOB_SECONDS,
        {job["number"] for job in cluster.jobs() if job["state"] != "RUNNING"},
    )
    while time.monotonic() < deadline and run.poll() is None:
        for job in cluster.jobs():
            if job["state"] == "RUNNING" and rule in job["rule"] and job["number"] not in known:
                return job["number"]
        time.sleep(0.5)
    raise AssertionError(f"no running job of {rule}: {cluster.said()}")


def asked_memory(cluster, rule):
    """Memory that the latest job of a rule asked for, in MB."""
    latest = max((job for job in cluster.jobs() if rule in job["rule"]), key=lambda job: int(job["number"]))
    return int(latest["memory"].removesuffix("M"))


def test_a_study_finishes_and_what_it_measured_corrects_what_the_next_run_asks_for(checkout, outputs, cluster):
    code, said = finish(start("nano-1", "nano-2", until="05_scaling_analysis"), cluster)
    assert code == 0, said
    assert len(receipts(outputs)) == 7
    assert asked_memory(cluster, "lora_finetuning") == DECLARED_MB
    toy.write(checkout, "04_lora_finetuning", toy.BODY["04_lora_finetuning"] + "\n# edited")
    code, said = finish(start("nano-1", until="04_lora_finetuning"), cluster)
    assert code == 0, said
    corrected = asked_memory(cluster, "lora_finetuning")
    assert corrected != DECLARED_MB and 1000 < corrected < 2000


def test_a_failing_job_fails_the_study_and_the_next_run_goes_on(checkout, outputs, cluster):
    toy.write(checkout, "03_prompting_baselines", "1 / 0")
    code, said = finish(start("nano-1", until="03_prompting_baselines"), cluster)
    assert code != 0
    assert receipts(outputs) == {"01_data_merge", "02_chatgpt_augmentation"}, said
    toy.write(checkout, "03_prompting_baselines", toy.BODY["03_prompting_baselines"])
    code, said = finish(start("nano-1", until="03_prompting_baselines"), cluster)
    assert code == 0, said


def test_a_cancelled_job_is_not_done_and_the_next_run_goes_on(checkout, outputs, cluster):
    toy.write(checkout, "02_chatgpt_augmentation", "import time\ntime.sleep(300)")
    run = start("nano-1", until="02_chatgpt_augmentation")
    cluster.client("scancel", wait_for_job(cluster, run, "chatgpt_augmentation"))
    code, _ = finish(run, cluster)
    assert code != 0 and receipts(outputs) == {"01_data_merge"}
    toy.write(checkout, "02_chatgpt_augmentation", toy.BODY["02_chatgpt_augmentation"])
    code, said = finish(start("nano-1", until="02_chatgpt_augmentation"), cluster)
    assert code == 0, said


def test_a_job_that_exceeds_its_memory_is_not_done_and_the_next_run_goes_on(checkout, outputs, cluster):
    greedy = "import time\nkept = bytearray(2_500_000_000)\nkept[::4096] = b'x' * len(kept[::4096])\ntime.sleep(120)"
    toy.write(checkout, "03_prompting_baselines", greedy)
    code, said = finish(start("nano-1", until="03_prompting_baselines"), cluster)
    assert code != 0 and "nano-1/03_prompting_baselines" not in receipts(outputs), said
    assert "exceeded memory limit" in (cluster.folder / "slurmd.log").read_text()
    toy.write(checkout, "03_prompting_baselines", toy.BODY["03_prompting_baselines"])
    code, said = finish(start("nano-1", until="03_prompting_baselines"), cluster)
    assert code == 0, said


def running(cluster):
    """Numbers of the jobs that the controller still works on."""
    return {job["number"] for job in cluster.jobs() if job["state"] in ("PENDING", "RUNNING", "COMPLETING")}


def test_jobs_of_a_run_that_was_killed_are_cancelled_by_the_next_one(checkout, outputs, cluster):
    toy.write(checkout, "02_chatgpt_augmentation", "import time\ntime.sleep(300)")
    run = start("nano-1", until="02_chatgpt_augmentation")
    left = wait_for_job(cluster, run, "chatgpt_augmentation")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=30)
    assert left in running(cluster)
    toy.write(checkout, "02_chatgpt_augmentation", toy.BODY["02_chatgpt_augmentation"])
    code, said = finish(start("nano-1", until="02_chatgpt_augmentation"), cluster)
    assert code == 0 and "1 cluster jobs of a run that was killed: cancelled" in said, said
    assert left not in running(cluster)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
def test_a_run_that_is_stopped_cancels_its_jobs(checkout, outputs, cluster, number):
    toy.write(checkout, "02_chatgpt_augmentation", "import time\ntime.sleep(300)")
    run = start("nano-1", until="02_chatgpt_augmentation")
    job = wait_for_job(cluster, run, "chatgpt_augmentation")
    run.send_signal(number)
    code, said = finish(run, cluster)
    assert code != 0, said
    cluster.wait(lambda: job not in running(cluster))
    assert receipts(outputs) == {"01_data_merge"}


def test_the_controller_may_be_away_for_longer_than_several_status_checks(checkout, outputs, cluster):
    slow = "import time\ntime.sleep(40)\n" + toy.BODY["02_chatgpt_augmentation"]
    toy.write(checkout, "02_chatgpt_augmentation", slow)
    run = start("nano-1", until="02_chatgpt_augmentation")
    wait_for_job(cluster, run, "chatgpt_augmentation")
    cluster.stop("slurmctld")
    time.sleep(20)
    cluster.start("slurmctld", "-D")
    code, said = finish(run, cluster)
    assert code == 0, said + cluster.said()
    assert receipts(outputs) == {"01_data_merge", "02_chatgpt_augmentation"}
