"""A whole study through Snakemake: the command, what must run again, and a terminal without the engine's chatter."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emosafe_lib.study import paths
from emosafe_lib.study.errors import ParameterError, StageError
from emosafe_lib.study.parameters import StudyParams, load_model, load_study
from emosafe_lib.study.paths import project_root
from emosafe_lib.study.stage import STAGES, concerns
from workflow.receipts import INDEXED, outdated
from workflow.slurm import job_prefix, require_slurm
from workflow.snakemake_run import snakemake_arguments, stop_stages
from workflow.weights import require_weights

CHATTER = re.compile(
    r"$|\[\w{3} \w{3} +\d|(Assuming|Building DAG|Using shell|Provided|Rules claiming|Select jobs|Execute \d|"
    r"Finished jobid|Complete log|Elapsed|Job stats|job  |-----|all  |total  |localrules|RuleException|"
    r"\[IPKernelApp\]|CalledProcessError|Exiting because|WorkflowError|At least one|\w+ +\d+$)|Command 'set -euo"
)


def run_study(study: str, models: list[str], cores: int, until: str = "", profile: str = "", extra: str = "") -> int:
    """Let Snakemake bring a study up to date; returns its exit status.

    One run at a time holds a study's lock, which the operating system releases however the run ends, so a killed run
    needs no unlocking.

    Raises
    ------
    ParameterError : a parameter file breaks the schema, or an option cannot be read; nothing was started
    StageError : the profile is SLURM's, and this machine has none; or no model has anything to do in the last stage asked
        for; nothing was started
    ModelError : weights that a stage would load cannot be had; nothing was started
    """
    loaded = load_study(study)
    if profile == "slurm":
        require_slurm()
    chosen, further = models or loaded.models, words_of(extra)
    place = profile_folder(profile) if profile else None
    refuse_unnamed(chosen)
    require_work(chosen, until)
    require_weights(loaded, chosen, until)
    root, base = project_root(), paths.outputs_root() / loaded.name
    base.mkdir(parents=True, exist_ok=True)
    if not (base / "index.html").is_file():
        (base / INDEXED).unlink(missing_ok=True)
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "engine", str(base), str(os.getpid())]
    command += [*snakemake_arguments(root, cores, study=study, models=",".join(chosen), until=until)]
    command += [*what_to_run(loaded, chosen, until), "--keep-going", "--show-failed-logs"]
    command += ["--quiet", "host", "reason", "rules"]
    on_cluster = ["--profile", str(place), "--slurm-jobname-prefix", job_prefix(base)]
    command += on_cluster if place else machine_limits()
    return run_engine([*command, *further])


def words_of(extra: str) -> list[str]:
    """The further arguments for snakemake, split as a shell would; ParameterError where their quotes do not close."""
    try:
        return shlex.split(extra)
    except ValueError:
        raise ParameterError("--extra", "its quotes do not close", "close them, or leave them out") from None


def refuse_unnamed(models: Sequence[str]) -> None:
    """ParameterError for a model without a parameter file, or one by its path: outputs are named by models."""
    for model in models:
        if load_model(model).name != model:
            raise ParameterError(model, "is a path, and outputs are named by models", "put it into params/models")


def require_work(models: Sequence[str], until: str) -> None:
    """StageError where a run is to end with a stage that none of its models goes through."""
    if until and STAGES[until]["model"] and not any(concerns(until, load_model(model)) for model in models):
        raise StageError(until, "needs weights, and servers answer for all of these models", "run notebooks 03 and 05")


def profile_folder(profile: str) -> Path:
    """The folder of a Snakemake profile: one of ours by its name, or another by its path from where the command is typed.

    Raises
    ------
    ParameterError : neither is there
    """
    for folder in (Path(__file__).parent / "profiles" / profile, Path(profile).resolve()):
        if folder.is_dir():
            return folder
    raise ParameterError("--profile", f"there is no folder {profile!r}", "name one of workflow/profiles, or its path")


def what_to_run(study: StudyParams, models: Sequence[str], until: str = "") -> list[str]:
    """What Snakemake cannot know by itself of what is to be done again, as its arguments."""
    stale = outdated(study, models, until)
    return ["--rerun-incomplete", *(["--forcerun", *stale] if stale else [])]


def machine_limits() -> list[str]:
    """What stages that run side by side on this machine share, as Snakemake's arguments: its memory, and its GPUs.

    Every stage takes the first GPU that it sees, so one stage that asks for a GPU runs at a time; models that ask for none
    are small, and may share it. Snakemake lets a stage that asks
    for more than there is run alone.
    """
    import psutil

    return ["--resources", f"mem_mb={psutil.virtual_memory().total // 2**20}", "gpu=1"]


def run_engine(command: list[str]) -> int:
    """Run the engine in the foreground without its chatter, and end it with its stages on SIGINT or SIGTERM.

    Either becomes SIGINT, at which Snakemake cancels cluster jobs; at SIGTERM it would wait for them. Ctrl-C has reached
    the engine already, which therefore hears the first one alone.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    stopped = []

    def stop(number, frame) -> None:
        stopped.append(number)
        process.send_signal(signal.SIGINT)
        stop_stages(process.pid)

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for line in process.stdout:
            if not CHATTER.match(line):
                print(line, end="", flush=True)
        code = process.wait()
        return 128 - code if code < 0 else code or (128 + stopped[0] if stopped else 0)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
