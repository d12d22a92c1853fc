"""Snakemake as emosafe starts it: one at a time, never outliving its runner, never forgetting a cluster job.

Snakemake stays the engine; some of its habits do not fit a run that must survive anything. A Snakemake whose runner
was killed goes on alone, beside the next run: here it ends with its parent, and it holds the study's lock itself, so
that the lock lasts exactly as long as its work. Cluster jobs of a Snakemake that was killed go on as well: the next run
cancels them first.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from emosafe_lib.study.errors import StageError
from workflow.slurm import cancel_leftovers, mend_slurm

POLL_SECONDS = 0.5
STAGE = ("emosafe_lib.cli", "run", "stage")  # what the Snakefile starts
LOCK_SECONDS = 15
INTERRUPT_SECONDS = 10


def snakemake_arguments(root: Path, cores: int, **config: str) -> list[str]:
    """What every call of Snakemake is told: the project's folder, what makes a result old, and the Snakefile's config.

    The config is one text, as in an address: by itself a study called `007` would arrive as a number, quoted or not.
    """
    place = ["--snakefile", str(Path(__file__).with_name("Snakefile")), "--directory", str(root)]
    rules = ["--cores", str(cores), "--nolock", "--rerun-triggers", "mtime", "input", "params"]
    return [*place, *rules, "--config", f"asked={urlencode(config)}"]


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
            if " ".join(STAGE) in " ".join(child.cmdline()):
                child.terminate()
        except psutil.Error:
            continue


def stop_alone() -> None:
    """End this Snakemake and its stages after its runner has died; cluster jobs are cancelled."""
    os.kill(os.getpid(), signal.SIGINT)
    stop_stages(os.getpid())


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
    """`emosafe run engine FOLDER RUNNER ...`: Snakemake with the further arguments, for a study's output folder
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
