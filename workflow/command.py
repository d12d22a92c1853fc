"""The command line of the runner, behind `emosafe run`, the Makefile and the Snakefile."""

import argparse
import importlib
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

from emosafe_lib.study import files, paths, stage
from emosafe_lib.study.errors import EmosafeError, StageError
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.paths import settled
from emosafe_lib.study.progress import say
from workflow.execute import process_age, run_stage
from workflow.receipts import INDEXED
from workflow.snakemake_run import watch_parent
from workflow.study_run import refuse_unnamed, run_study

# What make tells every process too. By default glibc's allocator gives large blocks back to the system at once and asks
# for them anew a moment later, page by page: training in PyTorch took up to twice as long where that is expensive.
FOR_KERNELS = {
    "PYTHONNOUSERSITE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824"
    ":glibc.malloc.trim_threshold=2147483648:glibc.malloc.top_pad=67108864",
}

# Commands that read their own arguments, each imported where it is asked for: the engine must not wait for PyTorch, by
# whose shapes a plan is computed.
APART = {"engine": "workflow.snakemake_run", "plan": "workflow.forecast"}

STUDY, CORES = "its name in params/study, or a path that ends in .yaml", "CPU cores to use"


def parser() -> argparse.ArgumentParser:
    """The command line that Makefile and Snakefile use."""
    top = argparse.ArgumentParser(prog="emosafe run", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="bring a whole study up to date")
    study.add_argument("--study", default="sample", type=settled, help=STUDY)
    study.add_argument("--models", default="", help="names separated by spaces; the study's own where empty")
    study.add_argument("--cores", type=int, default=2, help=CORES)
    study.add_argument("--until", default="", choices=["", *stage.STAGES], help="stop after this stage")
    study.add_argument(
        "--profile", default="", help="a folder of workflow/profiles/, such as slurm, or the path of another"
    )
    study.add_argument("--extra", default="", help="further arguments for snakemake")
    commands.add_parser("plan", help="what a study will ask for, computed before it runs", add_help=False)
    one = commands.add_parser("stage", help="run one notebook")
    one.add_argument("stage", choices=list(stage.STAGES))
    one.add_argument("--study", default="sample", type=settled, help=STUDY)
    one.add_argument("--model", default=None, type=settled, help="its name in params/models, for notebooks 03 and 04")
    one.add_argument("--after", nargs="*", help="receipts of earlier stages; the engine gives them, a person need not")
    one.add_argument("--models", default="", help="the run's models, for a notebook that reads them all")
    index = commands.add_parser("index", help="write the study's index page")
    index.add_argument("--study", default="sample", type=settled, help=STUDY)
    index.add_argument("--models", default="", help="the run's models; the study's own where empty")
    index.add_argument("--finished", action="store_true", help="every stage is up to date, as the engine knows")
    reference = commands.add_parser("reference", help="make outputs/reference/")
    reference.add_argument(
        "--study",
        action="append",
        default=[],
        type=settled,
        help="may be given again; sample if absent, and real where its data is at hand",
    )
    reference.add_argument("--cores", type=int, default=2, help=CORES)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Dispatch; what is in `APART` reads its own arguments."""
    for name, value in FOR_KERNELS.items():
        os.environ.setdefault(name, value)
    if arguments and arguments[0] in APART:
        return importlib.import_module(APART[arguments[0]]).main(arguments[1:])
    chosen = parser().parse_args(arguments)
    models = getattr(chosen, "models", "").replace(",", " ").split()
    if chosen.command == "study":
        code = run_study(chosen.study, models, chosen.cores, chosen.until, chosen.profile, chosen.extra)
        if code or chosen.until:  # then the engine did not come as far as the front page
            page_after_all(chosen.study, models)
        return code
    if chosen.command == "stage":
        if chosen.after is not None:
            watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
        began = time.monotonic() - process_age()
        run_stage(chosen.stage, chosen.study, chosen.model, models, chosen.after, began)
        say(f"{chosen.stage} {chosen.model or ''}".strip() + f": done in {time.monotonic() - began:.0f} s")
        return 0
    if chosen.command == "index":
        print(finished_page(chosen.study, models) if chosen.finished else page_by_hand(chosen.study, models))
        return 0
    from workflow import reference

    print(*reference.make(chosen.study, chosen.cores), sep="\n")
    return 0


def page_after_all(study: str, models: list[str]) -> None:
    """Write the front page of a study that stopped, unless another run is at work there; that it stopped is what must be
    told, so a page that cannot be written is mentioned only.
    """
    from filelock import Timeout

    try:
        say(f"{page_alone(study, models)} shows what there is")
    except Timeout:
        return
    except EmosafeError as error:
        say(f"the front page could not be written: {error}")
    except Exception as error:
        say(f"the front page could not be written: {type(error).__name__}")


def page_by_hand(study: str, models: list[str]) -> Path:
    """Write the front page that somebody asks for, and return its path.

    Raises
    ------
    ParameterError : a model has no parameter file
    StageError : nothing of the study is there, or `make study` is at work on it, whose stages a page would call failed
    """
    from filelock import Timeout

    refuse_unnamed(models)
    try:
        return page_alone(study, models)
    except Timeout:
        raise StageError(
            load_study(study).name, "another run is at work here", "wait for it: it writes the page at its end"
        ) from None


def finished_page(study: str, models: list[str]) -> Path:
    """Write the front page of a study whose stages are all up to date, for the engine, and note that it is."""
    page = page_whatever_happened(study, models)
    files.write_json(page.parent / INDEXED, {page.name: files.file_sha256(page)})
    return page


def page_alone(study: str, models: list[str]) -> Path:
    """Write a study's front page while `make study` is not at work on it; filelock's Timeout where it is."""
    from filelock import FileLock

    base = paths.outputs_root() / load_study(study).name
    with FileLock(base / ".lock", timeout=0) if base.is_dir() else nullcontext():
        return page_whatever_happened(study, models)


def page_whatever_happened(study: str, models: list[str]) -> Path:
    """Write a study's front page from what is there, and return its path; the next run that finishes writes its own."""
    from workflow.pages import front_page

    page = front_page.write_index(load_study(study), models)
    (page.parent / INDEXED).unlink(missing_ok=True)
    return page
