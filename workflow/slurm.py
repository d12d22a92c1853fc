"""Two patches for the SLURM plugin of Snakemake, and the clean-up of jobs that a killed run left behind.

The problem upstream, in words for a report to snakemake-executor-plugin-slurm, measured in 2.8.0: the plugin loses jobs
while SLURM does not answer.

- The call: `Executor.check_active_jobs`. Snakemake keeps as active the jobs that this generator yields, and no others.
- The condition: `query_job_status` returns `(None, None)`, because `squeue` or `sacct` failed or timed out, in all
  `status_attempts` of one check, as on a busy machine or during a restart of the controller. With
  `--slurm-status-command squeue` it takes less: where `scontrol show config` fails once, `get_min_job_age` is None and
  the check goes over to `sacct`, which always fails where there is no accounting database.
- What is lost: the generator then skips its loop (`if status_of_jobs is not None`), so it neither yields nor reports a
  single job. Snakemake drops them all, never asks for them again, and waits for ever, while the jobs run and finish.
- A remedy: yield all of `active_jobs` where no query was answered. `test_engine.py` shows the loss without a cluster.

A second one, of the same check: a job that `squeue` has forgotten (`MinJobAge` after its end) is yielded at every check.
"""

import hashlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

from emosafe_lib.study.errors import StageError
from emosafe_lib.study.progress import say

PLUGIN = "snakemake-executor-plugin-slurm"
# Where the plugin was seen to lose jobs. A new version is tried by `make test-cluster` before it is added or found mended.
LOSES_JOBS = ("2.8.0",)

# A controller that is restarted or upgraded answers within this time; a job unknown to a controller that answers, sooner.
SILENCE_SECONDS, UNKNOWN_SECONDS = 1800, 60
# How long a client of SLURM may take to answer, and jobs that were cancelled to end.
CLIENT_SECONDS, CANCEL_SECONDS, POLL_SECONDS = 60, 120, 0.5
FAILED = "BOOT_FAIL CANCELLED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY TIMEOUT ERROR REVOKED".split()


def require_slurm() -> None:
    """Raise StageError where no job can be handed to SLURM, before anything is started."""
    missing = [client for client in ("sbatch", "squeue") if not shutil.which(client)]
    if missing:
        what = f"needs SLURM's {' and '.join(missing)}, which this machine lacks"
        raise StageError("profile slurm", what, "start it on the cluster, or leave the profile out")


async def check_active_jobs(self, active_jobs: list) -> AsyncIterator:
    """Yield the cluster jobs that still run, and report the others; in place of the SLURM plugin's method.

    A job counts as running for as long as SLURM does not answer, up to `SILENCE_SECONDS`, after which it is an error. A
    job that SLURM no longer knows has succeeded if it has written its receipt anew; one that lies there from an earlier
    run proves nothing.
    """
    from snakemake_executor_plugin_slurm.job_status_query import query_job_status, query_job_status_squeue

    if not active_jobs:
        return
    states, _ = await query_job_status(query_job_status_squeue(self.run_uuid), self.logger)
    seen, now = self.__dict__.setdefault("emosafe_seen", {}), time.monotonic()
    for job in active_jobs:
        state = (states or {}).get(job.external_jobid)
        silent = now - seen.setdefault(job.external_jobid, now)
        if state is not None:
            seen[job.external_jobid] = now
        if state in FAILED:
            self.report_job_error(job, msg=f"SLURM job {job.external_jobid}: {state}. ")
        elif state == "COMPLETED":
            self.report_job_success(job)
        elif states is not None and state is None and silent > UNKNOWN_SECONDS:
            if rewritten(job):
                self.report_job_success(job)
            else:
                self.report_job_error(
                    job, msg=f"SLURM no longer knows job {job.external_jobid}, which left no receipt. "
                )
        elif states is None and silent > SILENCE_SECONDS:
            self.report_job_error(job, msg=f"SLURM has not answered for {silent:.0f} s. ")
        else:
            yield job


def written(job) -> list[int | None]:
    """When each output of a cluster job was last written (ns); None where it is absent."""
    paths = [Path(name) for name in job.job.output]
    return [path.stat().st_mtime_ns if path.is_file() else None for path in paths]


def rewritten(job) -> bool:
    """Whether every output of a cluster job is there, and written since the job was submitted.

    Times are compared for being different, not later: nodes that share a disk need not share a clock.
    """
    now, before = written(job), job.aux["emosafe_written"]
    return all(new is not None and new != old for new, old in zip(now, before, strict=True))


def report_job_submission(self, job, register_job: bool = True) -> None:
    """Note what a cluster job's outputs were before it, then do as Snakemake does."""
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    job.aux = (job.aux or {}) | {"emosafe_written": written(job)}
    RemoteExecutor.report_job_submission(self, job, register_job)


def mend_slurm() -> None:
    """Put `check_active_jobs` in place of the plugin's, and note what it needs to know of each submission.

    Only in a version that is known to lose jobs; another one is used as it is, and a line says so.
    """
    import snakemake_executor_plugin_slurm as plugin

    if (installed := version(PLUGIN)) not in LOSES_JOBS:
        say(f"{PLUGIN} {installed} is used unpatched: only {', '.join(LOSES_JOBS)} is known to lose jobs")
        return
    plugin.Executor.check_active_jobs = check_active_jobs
    plugin.Executor.report_job_submission = report_job_submission


def job_prefix(folder: Path) -> str:
    """How the SLURM jobs of a study's output folder are named, before the plugin's own number of the run."""
    return f"emosafe-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def cancel_leftovers(folder: Path) -> int:
    """Cancel the SLURM jobs that a killed run left behind in a study's folder, wait for their end, return their number.

    They would go on beside the new run and hold their stages. Whoever calls this holds the folder's lock.
    """

    def ask(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CLIENT_SECONDS)
        except (OSError, subprocess.TimeoutExpired):  # no SLURM here, or it is silent: then nothing is known to be left
            return ""
        return done.stdout

    def left() -> list[str]:
        lines = [line.split() for line in ask("squeue", "--me", "--noheader", "--format=%i %j").splitlines()]
        return [words[0] for words in lines if len(words) == 2 and words[1].startswith(f"{job_prefix(folder)}_")]

    found, deadline = left(), time.monotonic() + CANCEL_SECONDS
    if found:
        ask("scancel", *found)
    while found and left() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return len(found)
