"""Snakemake as emosafe starts it: one at a time, never outliving its runner, never forgetting a cluster job.

Snakemake stays the engine; three of its habits do not fit a run that must survive anything. A Snakemake whose runner
was killed goes on alone, beside the next run: here it ends with its parent, and it holds the study's lock itself, so
that the lock lasts exactly as long as its work. And the SLURM plugin (2.8.0) loses jobs: when `scontrol` or `squeue`
fail a few times, on a busy machine or during a restart of the controller, it asks `sacct` instead, which fails
wherever there is no accounting database, then drops every job from its list, and the run waits for ever.
"""

import os
import signal
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
    job that SLURM no longer knows is left to Snakemake, which looks for the stage's receipt.
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
        elif state == "COMPLETED" or (states is not None and state is None and silent > UNKNOWN_SECONDS):
            self.report_job_success(job)
        elif states is None and silent > SILENCE_SECONDS:
            self.report_job_error(job, msg=f"SLURM has not answered for {silent:.0f} s. ")
        else:
            yield job


def mend_slurm() -> None:
    """Put `check_active_jobs` in place of the plugin's."""
    import snakemake_executor_plugin_slurm as plugin

    plugin.Executor.check_active_jobs = check_active_jobs


def main(arguments: list[str]) -> int:
    """`python -m emosafe_lib.engine FOLDER RUNNER ...`: Snakemake with the further arguments, for a study's output folder
    and the process that runs it.

    Returns
    -------
    Snakemake's exit status; 1 and one line on standard error where another run is at work in the folder
    """
    from filelock import FileLock, Timeout

    folder, runner, given = Path(arguments[0]), int(arguments[1]), arguments[2:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs would ignore
    watch_parent(stop_alone, runner)
    try:
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            if "--profile" in given:
                mend_slurm()
            from snakemake import cli

            cli.main(given)
    except Timeout:
        error = StageError(f"outputs/{folder.name}", "another run is at work here", "wait for it or stop it")
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
