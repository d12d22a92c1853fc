"""A study on a real SLURM: success, a failing job, a cancelled one, one that exceeds its memory, a controller restart.

Run by `make test-cluster`; skipped, with the reason, where SLURM is not installed.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "code"))
import slurm  # noqa: E402
import toy  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm.available(), reason="no SLURM: install slurm-wlm and munge, and run as root"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs, cluster):
    folder = toy.checkout(tmp_path / "toy")
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    profile = folder / "profiles" / "slurm" / "config.yaml"
    quick = profile.read_text().replace("checks: 10", "checks: 2").replace("mem_mb=4000", "mem_mb=500")
    profile.write_text(quick)
    for path in (folder / "params" / "models").glob("nano-*.yaml"):
        path.write_text(path.read_text() + "resources: {memory_mb: 900, minutes: 5}\n")
    snakefile = folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("mem_mb=4000", "mem_mb=900"))
    monkeypatch.setenv("EMOSAFE_ROOT", str(folder))
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    return folder


def start(*models):
    command = [sys.executable, "-m", "emosafe_lib.execute", "study", "--study", "toy", "--models", " ".join(models)]
    command += ["--until", "05_scaling_analysis", "--profile", "slurm"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": os.environ.copy()}
    return subprocess.Popen(command, **options)


def finish(run):
    said, _ = run.communicate(timeout=240)
    return run.returncode, said


def receipts(outputs):
    return {str(path.parent.relative_to(outputs / "toy")) for path in (outputs / "toy").rglob("receipt.json")}


def wait_for_job(cluster, rule, state="RUNNING", seconds=90):
    """The id of the job of a rule once it is in a state."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in cluster.client("squeue", "-h", "-o", "%i|%T|%k").splitlines():
            number, current, comment = line.split("|", 2)
            if current == state and rule in comment:
                return number
        time.sleep(0.5)
    raise AssertionError(f"no {state} job of {rule}: {cluster.client('squeue')}")


def test_a_study_finishes(checkout, outputs, cluster):
    code, said = finish(start("nano-1", "nano-2"))
    assert code == 0, said
    assert len(receipts(outputs)) == 7


def test_a_failing_job_fails_the_study_and_the_next_run_goes_on(checkout, outputs, cluster):
    toy.write(checkout, "04_lora_finetuning", "1 / 0")
    code, said = finish(start("nano-1"))
    assert code != 0
    assert receipts(outputs) == {"01_data_merge", "02_chatgpt_augmentation", "nano-1/03_prompting_baselines"}
    toy.write(checkout, "04_lora_finetuning", toy.BODY["04_lora_finetuning"])
    code, said = finish(start("nano-1"))
    assert code == 0, said


def test_a_cancelled_job_is_not_done(checkout, outputs, cluster):
    toy.write(checkout, "02_chatgpt_augmentation", "import time\ntime.sleep(120)")
    run = start("nano-1")
    cluster.client("scancel", wait_for_job(cluster, "chatgpt_augmentation"))
    code, _ = finish(run)
    assert code != 0 and receipts(outputs) == {"01_data_merge"}
    toy.write(checkout, "02_chatgpt_augmentation", toy.BODY["02_chatgpt_augmentation"])
    assert finish(start("nano-1"))[0] == 0


def test_a_job_that_exceeds_its_memory_is_not_done(checkout, outputs, cluster):
    greedy = "import time\nkept = bytearray(3_000_000_000)\nkept[::4096] = b'x' * len(kept[::4096])\ntime.sleep(60)"
    toy.write(checkout, "02_chatgpt_augmentation", greedy)
    code, _ = finish(start("nano-1"))
    assert code != 0 and receipts(outputs) == {"01_data_merge"}


def test_the_controller_may_restart_in_the_middle(checkout, outputs, cluster):
    slow = "import time\ntime.sleep(12)\n" + toy.BODY["02_chatgpt_augmentation"]
    toy.write(checkout, "02_chatgpt_augmentation", slow)
    run = start("nano-1")
    wait_for_job(cluster, "chatgpt_augmentation")
    cluster.stop("slurmctld")
    time.sleep(3)
    cluster.start("slurmctld", "-D")
    code, said = finish(run)
    if code != 0:
        code, said = finish(start("nano-1"))
    assert code == 0, said
    assert len(receipts(outputs)) == 5
