"""Snakemake as emosafe starts it: one at a time, never outliving its runner, never forgetting a cluster job.

Snakemake stays the engine; some of its habits do not fit a run that must survive anything. A Snakemake whose runner
was killed goes on alone, beside the next run: here it ends with its parent, and it holds the study's lock itself, so
that the lock lasts exactly as long as its work. Cluster jobs of a Snakemake that was killed go on as well: the next run
cancels them first. And the SLURM plugin (2.8.0) loses jobs: when `scontrol` or `squeue` fail a few times, on a busy
machine or during a restart of the controller, it asks `sacct` instead, which fails wherever there is no accounting
database, then drops every job from its list, and the run waits for ever.
"""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from emosafe_lib.errors import StageError

POLL_SECONDS = 0.5
LOCK_SECONDS = 15
# A controller that is restarted or upgraded answers within this time; a job unknown to a controller that answers, sooner.
SILENCE_SECONDS, UNKNOWN_SECONDS = 1800, 60
# How long a client of SLURM may take to answer, and jobs that were cancelled to end.
CLIENT_SECONDS, CANCEL_SECONDS = 60, 120
INTERRUPT_SECONDS = 10
FAILED = "BOOT_FAIL CANCELLED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY TIMEOUT ERROR REVOKED".split()


def snakemake_arguments(root: Path, cores: int, **config: str) -> list[str]:
    """What every call of Snakemake is told: the project's folder, what makes a result old, and the Snakefile's config."""
    place = ["--snakefile", str(root / "Snakefile"), "--directory", str(root)]
    rules = ["--cores", str(cores), "--nolock", "--rerun-triggers", "mtime", "input", "params"]
    return [*place, *rules, "--config", *(f"{name}={value}" for name, value in config.items())]


def watch_parent(stop: Callable[[], None], parent: int | None = None) -> None:
    """Call `stop` in a thread once the process that started this one is gone.

    `parent` is its number. Where it is not given, process 1 counts as no parent: the real one was gone before we looked.
    """
    expected = parent or os.getppid()

    def watch() -> None:
        while os.getppid() == expected and (parent or expected != 1):
            time.sleep(POLL_SECONDS)
        stop()

    threading.Thread(target=watch, daemon=True).start()


def stop_stages(process: int) -> None:
    """Ask every stage that runs below a process to end; its clean-up ends its kernel."""
    import psutil

    try:
        below = psutil.Process(process).children(recursive=True)
    except psutil.Error:
        return
    for child in below:
        try:
            if "emosafe_lib.execute" in child.cmdline():
                child.terminate()
        except psutil.Error:
            continue


def stop_alone() -> None:
    """End this Snakemake and its stages after its runner has died; cluster jobs are cancelled."""
    os.kill(os.getpid(), signal.SIGINT)
    stop_stages(os.getpid())


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
    """Put `check_active_jobs` in place of the plugin's, and note what it needs to know of each submission."""
    import snakemake_executor_plugin_slurm as plugin

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


def interrupt_once() -> Callable:
    """A handler that raises KeyboardInterrupt, but not again for a while.

    A terminal and the runner may both send SIGINT, and the second must not disturb the cancelling of cluster jobs.
    """
    heard: list[float] = []

    def interrupt(number, frame) -> None:
        if heard and time.monotonic() - heard[-1] < INTERRUPT_SECONDS:
            return
        heard.append(time.monotonic())
        raise KeyboardInterrupt

    return interrupt


def main(arguments: list[str]) -> int:
    """`python -m emosafe_lib.engine FOLDER RUNNER ...`: Snakemake with the further arguments, for a study's output folder
    and the process that runs it.

    Returns
    -------
    Snakemake's exit status; 1 and one line on standard error where another run is at work in the folder; 130 where it was
    interrupted before Snakemake listened
    """
    from filelock import FileLock, Timeout

    folder, runner, given = Path(arguments[0]), int(arguments[1]), arguments[2:]
    signal.signal(signal.SIGINT, interrupt_once())  # which a shell's background jobs would ignore
    watch_parent(stop_alone, runner)
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            if "--profile" in given:
                mend_slurm()
                if cancelled := cancel_leftovers(folder):
                    print(f"{cancelled} cluster jobs of a run that was killed: cancelled", flush=True)
            from snakemake import cli

            cli.main(given)
    except Timeout:
        error = StageError(f"outputs/{folder.name}", "another run is at work here", "wait for it or stop it")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
