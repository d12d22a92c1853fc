"""Run notebooks and believe only what can be checked.

papermill alone reports false greens: after a killed kernel it saves a notebook in which every cell looks completed,
and `sys.exit(0)` counts as success. Here a stage is done only if no exception was raised, every code cell has an
execution count, no output is an error, and the manifest that the stage wrote is new and matches the files on disk. The
notebook is executed beside, checked, rendered, and only then renamed; `receipt.json` comes last and is what Snakemake
looks for.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from emosafe_lib.study import files, paths
from emosafe_lib.study import stage as stages
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import STUDY_RESOURCES
from emosafe_lib.study.paths import project_root
from emosafe_lib.study.progress import say
from workflow.checks import cap_outputs, check_executed, check_source, failure_in_words, mask_foreign
from workflow.digests import stage_digest
from workflow.receipts import PROOF, RECEIPT, check_manifest, finished_before, manifest_text

HEARTBEAT_SECONDS = 15
REHEARSAL_SECONDS = 3
LOCK_SECONDS = 15
START_SECONDS = 600  # for a kernel to answer; on a crowded machine a minute, which is the usual, may be too short


def notebook_source(stage: str) -> Path:
    """The committed notebook of a stage."""
    path = project_root() / "notebooks" / f"{stage}.ipynb"
    if stage not in stages.STAGES or not path.is_file():
        raise StageError(stage, "is not a notebook of this study", f"use one of {', '.join(stages.STAGES)}")
    return path


@contextmanager
def heartbeats(label: str, path: Path) -> Iterator[None]:
    """While the block runs, print what the kernel's progress bars say, every few seconds."""
    done = threading.Event()

    def watch() -> None:
        last = ""
        while not done.wait(HEARTBEAT_SECONDS):
            now = ""
            with suppress(OSError, ValueError):  # it may be gone by now, or half written
                now = path.read_text(encoding="utf-8")
            if now and now != last:
                say(f"{label}: {now}")
            last = now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        path.unlink(missing_ok=True)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that papermill's clean-up ends the kernel before this process goes.

    A second one, such as a group and its runner both send, must not disturb the clean-up.
    """

    def stop(number, frame):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + number)

    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def execute_notebook(
    source: Path, target: Path, parameters: dict, label: str, minutes: float, remedy: str = "raise resources.minutes"
) -> None:
    """Execute `source` into `target` with papermill, with a kernel of this very environment.

    `remedy` is what to do about a cell that takes longer than `minutes`. Only its owner can read `target`, which may hold
    what nobody has looked through yet.

    Raises
    ------
    StageError : the two paths are the same, a cell failed, timed out, or the kernel died
    """
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from workflow import sparing_engine

    if source.resolve() == target.resolve():
        raise StageError(source.name, "would be overwritten by its own execution", "choose another output")
    beat = target.with_suffix(".progress")
    target.unlink(missing_ok=True)
    target.touch(files.PRIVATE)
    os.environ |= {"EMOSAFE_PROGRESS": str(beat), "EMOSAFE_PREFIX": sys.prefix}
    try:
        with heartbeats(label, beat), signals_as_exceptions():
            papermill.execute_notebook(
                source,
                target,
                parameters=parameters,
                engine_name=sparing_engine.NAME,
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar=False,
                start_timeout=START_SECONDS,
                execution_timeout=minutes * 60,
                autosave_cell_every=10,
                kernel_manager_class="workflow.kernels.PrivateKernelManager",
                shutdown_kernel="immediate",  # all that it had to give has come, and to unload PyTorch takes a second
            )
    except papermill.PapermillExecutionError as error:
        failure = failure_in_words({"ename": error.ename, "evalue": error.evalue})
        failed = nbformat.read(target, 4)
        mask_foreign(failed)
        target.write_text(nbformat.writes(failed), encoding="utf-8")
        raise StageError(label, f"cell {error.cell_index} failed: {failure}", "see the failed notebook") from None
    except CellTimeoutError:
        raise StageError(label, f"a cell ran longer than {minutes} minutes", remedy) from None
    except OSError as error:
        error.filename = error.filename or str(target)  # a full disk names no file
        raise
    except (DeadKernelError, RuntimeError) as error:
        raise StageError(label, f"the kernel died ({type(error).__name__})", "run again; check memory") from None


@contextmanager
def rehearsed(notebook: dict) -> Iterator[None]:
    """While the block runs, render a notebook that has not run in a thread beside, so that what rendering imports and
    compiles is there when the executed one comes; after some seconds, in which the block's own imports come first.
    """

    def render() -> None:
        from workflow.pages import rendering

        with suppress(Exception):  # what is wrong with a page is said when it is due
            rendering.body(notebook)

    timer = threading.Timer(REHEARSAL_SECONDS, render)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    timer.join()  # not after a failure: a stage that is stopped must not wait for a page


def process_age() -> float:
    """Seconds since this process was created: its own start and imports are part of what a stage costs.

    Linux tells it in hundredths of a second since boot; as a time of day it is known to the second only.
    """
    stat = Path("/proc/self/stat")
    if stat.is_file():
        ticks = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    import psutil

    return max(0.0, time.time() - psutil.Process().create_time())


@contextmanager
def only_runner(study: str, label: str) -> Iterator[None]:
    """Keep other runners from a stage, who would write the same log and take away the receipt of a run that succeeds.

    Raises
    ------
    StageError : another one runs it, and goes on longer than one that was stopped needs to end
    """
    from filelock import FileLock, Timeout

    lock = FileLock(paths.outputs_root() / study / ".partial" / f"{label.replace(' ', '-')}.runner.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise StageError(label, "is being run by another process", "wait for that one, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def run_stage(
    stage: str,
    study: str,
    model: str | None = None,
    models: Sequence[str] = (),
    after: Sequence[str] | None = None,
    began: float | None = None,
) -> Path:
    """Run one stage from its committed notebook and publish it if, and only if, it really finished.

    `study`, `model` and `models` are what `stage.begin` takes. `after` are the receipts of the stages before it: where
    they are given, a stage that has finished since and is unchanged is not run again. `began` is the moment, by the
    monotonic clock, from which the receipt counts its seconds; now where it is not given. Returns the path of the receipt.

    Raises
    ------
    ParameterError : a parameter file breaks the schema; nothing was started
    StageError : the stage cannot run as asked, or somebody runs it already, and nothing was started; or it failed, and its
        notebook is kept in `logs/`. What an earlier run published is untouched, unless all cells ran and what they show may
        not be published
    """
    began = time.monotonic() if began is None else began
    import nbformat

    study_params, model_params, _ = stages.resolve(stage, study, model, models)
    source = notebook_source(stage)
    label = f"{stage} {model_params.name}" if model_params else stage
    folder = paths.stage_folder(study_params.name, stage, model_params.name if model_params else None)
    temporary = paths.outputs_root() / study_params.name / "logs" / f"{label.replace(' ', '-')}.ipynb"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with only_runner(study_params.name, label):
        models = list(models or study_params.models)
        digest = stage_digest(stage, study_params, model_params, models)
        if after is not None and finished_before(folder, digest, after):
            say(f"{label}: had finished when the last run was stopped")
            files.write_json(folder / RECEIPT, json.loads((folder / PROOF).read_text(encoding="utf-8")))
            return folder / RECEIPT
        (folder / RECEIPT).unlink(missing_ok=True)
        unrun = nbformat.read(source, 4)
        check_source(unrun, source.name)  # what is refused here leaves the proof of what had finished
        (folder / PROOF).unlink(missing_ok=True)
        say(f"{label}: started")
        parameters = {"study": study} | ({"model": model} if model else {})
        parameters |= {"models": models} if stages.reads_all_models(stage) else {}
        before = manifest_text(folder)
        limits = model_params.resources if model_params else STUDY_RESOURCES
        remedy = "run again: what was finished is kept; or use fewer rows"
        if model_params:
            remedy = f"raise resources.minutes in params/models/{model_params.name}.yaml"
        with rehearsed(unrun):
            execute_notebook(source, temporary, parameters, label, limits.minutes, remedy)
        notebook = nbformat.read(temporary, 4)
        check_executed(notebook, label)
        manifest = check_manifest(folder, before, label)
        return publish(notebook, temporary, folder, label, manifest, began, digest)


def publish(
    notebook: dict, temporary: Path, folder: Path, label: str, manifest: dict, began: float, digest: str
) -> Path:
    """Clean, render and rename an executed notebook, and write its receipt last.

    The receipt's seconds run from `began`, a moment of the monotonic clock, to the writing of the receipt itself; its
    overhead is what of them the notebook's own work, the running of its cells, does not account for.
    """
    import nbformat

    from workflow.pages import rendering

    work = sum(cell["metadata"].get("papermill", {}).get("duration") or 0 for cell in notebook["cells"])
    cap_outputs(notebook)
    rendering.clean(notebook, label)
    page = rendering.page(notebook, manifest)
    name = manifest["stage"]
    for suffix, content in ((".ipynb", nbformat.writes(notebook)), (".html", page)):
        with files.replacing(folder / f"{name}{suffix}") as partial:
            partial.write_text(content, encoding="utf-8")
    temporary.unlink()
    receipt = {
        "stage": name,
        "digest": digest,
        "files": {f"{name}{s}": files.file_sha256(folder / f"{name}{s}") for s in (".ipynb", ".html")},
        "manifest": files.file_sha256(folder / "manifest.json"),
    }
    seconds = time.monotonic() - began
    receipt |= {"seconds": round(seconds, 2), "overhead_seconds": round(seconds - work, 2)}
    for kind in (PROOF, RECEIPT):
        files.write_json(folder / kind, receipt)
    return folder / RECEIPT
