"""Run notebooks and believe only what can be checked.

papermill alone reports false greens: after a killed kernel it saves a notebook in which every cell looks completed,
and `sys.exit(0)` counts as success. Here a stage is done only if no exception was raised, every code cell has an
execution count, no output is an error, and the manifest that the stage wrote is new and matches the files on disk. The
notebook is executed beside, checked, rendered, and only then renamed; `receipt.json` comes last and is what Snakemake
looks for.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emosafe_lib import stage as stages
from emosafe_lib.engine import job_prefix, snakemake_arguments, stop_stages, watch_parent
from emosafe_lib.errors import EmosafeError, ParameterError, StageError
from emosafe_lib.params import ModelParams, StudyParams, load_model, load_study, project_root, settled
from emosafe_lib.plan import STUDY_RESOURCES
from emosafe_lib.progress import say

MAX_CELL_TEXT, MAX_CELL_CHARACTERS = 200_000, 8_000_000  # of one cell: its text, and all of it with its figures
MARKED_UP = ("text/html", "text/markdown", "text/latex")
TEXT_KINDS = ("text/plain", *MARKED_UP)
HIDING_TAGS = {"raises-exception", "skip-execution", "skip"}
SHELL_ESCAPE = re.compile(r"^\s*([\w, ]+=\s*)?(!|%%?(!|(bash|sh|script|system|sx|cmd)\b))", re.MULTILINE)
CHATTER = re.compile(
    r"$|\[\w{3} \w{3} +\d|(Assuming|Building DAG|Using shell|Provided|Rules claiming|Select jobs|Execute \d|"
    r"Finished jobid|Complete log|Elapsed|Job stats|job  |-----|all  |total  |localrules|RuleException|"
    r"\[IPKernelApp\]|CalledProcessError|Exiting because|WorkflowError|At least one|\w+ +\d+$)|Command 'set -euo"
)
HEARTBEAT_SECONDS = 15
RECEIPT, PROOF = "receipt.json", ".receipt.json"
INDEXED = ".index.json"  # written once index.html is; Snakemake removes what it is told of, and that page shall stay


def notebook_source(stage: str) -> Path:
    """The committed notebook of a stage."""
    path = project_root() / "notebooks" / f"{stage}.ipynb"
    if stage not in stages.STAGES or not path.is_file():
        raise StageError(stage, "is not a notebook of this study", f"use one of {', '.join(stages.STAGES)}")
    return path


def check_source(notebook: dict, where: object) -> None:
    """Refuse a notebook in which a failure could hide: tags that allow errors or skip cells, shell escapes.

    Raises
    ------
    StageError : names the cell and the construct
    """
    for number, cell in enumerate(notebook["cells"]):
        hiding = HIDING_TAGS & set(cell["metadata"].get("tags", []))
        if hiding:
            raise StageError(where, f"cell {number} has the tag {hiding.pop()!r}", "a failing cell must fail the stage")
        if cell["cell_type"] == "code" and SHELL_ESCAPE.search("".join(cell["source"])):
            raise StageError(where, f"cell {number} escapes to a shell", "its exit status is lost: use Python")


def check_executed(notebook: dict, where: object) -> None:
    """Refuse a notebook that did not run from its first to its last code cell without an error.

    Raises
    ------
    StageError : names the first cell that failed or never ran
    """
    counts = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                raise StageError(where, f"cell {number} failed: {reason(output)}", "fix the cause and run again")
        if cell.get("execution_count") is None:
            raise StageError(where, f"cell {number} never ran", "the kernel died or was stopped: run again")
        counts.append(cell["execution_count"])
    if counts != sorted(set(counts)) or not counts:
        raise StageError(where, "its cells did not run once each, in order", "run again from a fresh kernel")


def reason(output: dict) -> str:
    """An error's class, with its message only where the class promises that no text of a row is in it."""
    name, message = output.get("ename", "error"), output.get("evalue", "")
    own = {cls.__name__ for cls in [EmosafeError, *EmosafeError.__subclasses__()]}
    return f"{name}: {message}" if name in own else name


def manifest_text(folder: Path) -> str:
    """A stage's manifest as it lies on disk, empty where there is none."""
    path = folder / "manifest.json"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def check_manifest(folder: Path, before: str, where: object) -> dict:
    """Read the manifest that the notebook wrote and hold it against the files on disk.

    `before` is its text before the notebook ran: times would not do, since a machine's clock may be set back.

    Raises
    ------
    StageError : it is absent, that of an earlier run, not one that `run.finish` writes, or names a file whose hash
        differs
    """
    text, remedy = manifest_text(folder), "end the notebook with run.finish()"
    if not text:
        raise StageError(where, "wrote no manifest", remedy)
    if text == before:
        raise StageError(where, "left the manifest of an earlier run", remedy)
    manifest = read_or_empty(folder / "manifest.json")
    if stages.MANIFEST - manifest.keys():
        raise StageError(where, "left a manifest that cannot be read", remedy)
    for name, digest in manifest["outputs"].items():
        target = stages.outputs_root() / manifest["study"] / name
        if not target.is_file() or stages.file_sha256(target) != digest:
            raise StageError(where, f"{name} is not what the manifest says", "run again; nothing else may write there")
    return manifest


def cap_outputs(notebook: dict) -> None:
    """Shorten what a cell shows to what a reader would scroll through, and say so in its place.

    The limits are a cell's: many outputs of a bearable size are no more bearable than one that is too long.
    """
    import nbformat

    for cell in notebook["cells"]:
        text, room, kept = MAX_CELL_TEXT, MAX_CELL_CHARACTERS, []
        for output in cell.get("outputs", []):
            figures = sum(len("".join(v)) for kind, v in output.get("data", {}).items() if kind.startswith("image/"))
            if figures > room or not (text or figures):
                continue
            text, room = shorten(output, text), room - figures
            kept.append(output)
        if left_out := len(cell.get("outputs", [])) - len(kept):
            note = f"[{left_out} more outputs left out]\n"
            cell["outputs"] = [*kept, nbformat.v4.new_output("stream", text=note)]


def shorten(output: dict, room: int) -> int:
    """Cut an output's texts to so many characters, and return how many are left.

    Half a table of HTML would spoil the page that it stands in, so such a text leaves as a whole.
    """
    for holder, kind in [(output, "text")] + [(output.get("data", {}), kind) for kind in TEXT_KINDS]:
        text = "".join(holder.get(kind, ""))
        kept = text if len(text) <= room else "" if kind in MARKED_UP else text[:room]
        room -= len(kept)
        if len(kept) < len(text):
            holder[kind], room = kept + f"\n[{len(text) - len(kept)} characters left out]\n", 0
    return room


@contextmanager
def heartbeats(label: str, path: Path) -> Iterator[None]:
    """While the block runs, print what the kernel's progress bars say, every few seconds."""
    done = threading.Event()

    def watch() -> None:
        last = ""
        while not done.wait(HEARTBEAT_SECONDS):
            now = path.read_text(encoding="utf-8") if path.is_file() else ""
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

    `remedy` is what to do about a cell that takes longer than `minutes`.

    Raises
    ------
    StageError : the two paths are the same, a cell failed, timed out, or the kernel died
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    if source.resolve() == target.resolve():
        raise StageError(source.name, "would be overwritten by its own execution", "choose another output")
    beat = target.with_suffix(".progress")
    os.environ |= {"EMOSAFE_PROGRESS": str(beat), "EMOSAFE_PREFIX": sys.prefix}
    try:
        with heartbeats(label, beat), signals_as_exceptions():
            papermill.execute_notebook(
                source,
                target,
                parameters=parameters,
                kernel_name="python3",
                cwd=str(source.parent),
                progress_bar=False,
                execution_timeout=minutes * 60,
                autosave_cell_every=10,
                kernel_manager_class="emosafe_lib.kernels.PrivateKernelManager",
            )
    except papermill.PapermillExecutionError as error:
        failure = reason({"ename": error.ename, "evalue": error.evalue})
        raise StageError(label, f"cell {error.cell_index} failed: {failure}", "see the failed notebook") from None
    except CellTimeoutError:
        raise StageError(label, f"a cell ran longer than {minutes} minutes", remedy) from None
    except (DeadKernelError, RuntimeError) as error:
        raise StageError(label, f"the kernel died ({type(error).__name__})", "run again; check memory") from None


def intact(folder: Path, receipt: dict) -> bool:
    """Whether a stage's notebook, page, manifest and outputs on disk are those that its receipt and manifest name."""
    named = dict(receipt["files"]) | {"manifest.json": receipt["manifest"]}
    if any(not (folder / name).is_file() or stages.file_sha256(folder / name) != named[name] for name in named):
        return False
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    base = folder.parents[1] if manifest["model"] else folder.parent
    outputs = {base / name: digest for name, digest in manifest["outputs"].items()}
    return all(path.is_file() and stages.file_sha256(path) == digest for path, digest in outputs.items())


def finished_before(folder: Path, digest: str, after: Sequence[str]) -> bool:
    """Whether this stage has finished as it would now: same digest, nothing touched, no file of `after` newer.

    Snakemake removes the receipt of a stage that was not yet noted as done when the run was killed, or whose process
    was killed in its very last moments. The copy beside proves that the work is there.
    """
    proof = folder / PROOF
    if not proof.is_file() or any(Path(path).stat().st_mtime_ns > proof.stat().st_mtime_ns for path in after):
        return False
    receipt = read_or_empty(proof)
    return receipt.get("digest") == digest and intact(folder, receipt)


def read_or_empty(path: Path) -> dict:
    """A receipt or manifest, or an empty one where the file was cut short, as a power failure does it."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def spare_url_grammar() -> None:
    """Keep jsonschema, which nbformat imports, from compiling a grammar for a kind of URL that no notebook's schema asks
    for: a second for every stage.
    """
    sys.modules.setdefault("rfc3987_syntax", None)


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
    StageError : the stage failed; what an earlier run published is untouched, the failed notebook is kept in `logs/`
    """
    began = time.monotonic() if began is None else began
    spare_url_grammar()
    import nbformat

    study_params, model_params = load_study(study), load_model(model) if model else None
    source = notebook_source(stage)
    label = f"{stage} {model_params.name}" if model_params else stage
    folder = stages.stage_folder(study_params.name, stage, model_params.name if model_params else None)
    temporary = stages.outputs_root() / study_params.name / "logs" / f"{label.replace(' ', '-')}.ipynb"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    models = list(models or study_params.models)
    digest = stage_digest(stage, study_params, model_params, models)
    if after is not None and finished_before(folder, digest, after):
        say(f"{label}: had finished when the last run was stopped")
        stages.write_json(folder / RECEIPT, json.loads((folder / PROOF).read_text(encoding="utf-8")))
        return folder / RECEIPT
    for name in (RECEIPT, PROOF):
        (folder / name).unlink(missing_ok=True)
    say(f"{label}: started")
    check_source(nbformat.read(source, 4), source.name)
    parameters = {"study": study} | ({"model": model} if model else {})
    parameters |= {"models": models} if stages.reads_all_models(stage) else {}
    before = manifest_text(folder)
    limits = model_params.resources if model_params else STUDY_RESOURCES
    name = f"params/models/{model_params.name}.yaml" if model_params else ""
    remedy = f"raise resources.minutes in {name}" if name else "run again: what was finished is kept; or use fewer rows"
    execute_notebook(source, temporary, parameters, label, limits.minutes, remedy)
    notebook = nbformat.read(temporary, 4)
    check_executed(notebook, label)
    manifest = check_manifest(folder, before, label)
    return publish(notebook, temporary, folder, manifest, began, digest)


def publish(notebook: dict, temporary: Path, folder: Path, manifest: dict, began: float, digest: str) -> Path:
    """Clean, render and rename an executed notebook, and write its receipt last.

    The receipt's seconds run from `began`, a moment of the monotonic clock, to the writing of the receipt itself; its
    overhead is what of them the notebook's own work, from `stage.begin` to `run.finish`, does not account for.
    """
    import nbformat

    from emosafe_lib import render

    cap_outputs(notebook)
    render.clean(notebook)
    page = render.page(notebook, manifest)
    name = manifest["stage"]
    for suffix, content in ((".ipynb", nbformat.writes(notebook)), (".html", page)):
        partial = folder / f".{name}{suffix}.partial"
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, folder / f"{name}{suffix}")
    temporary.unlink()
    receipt = {
        "stage": name,
        "digest": digest,
        "files": {f"{name}{s}": stages.file_sha256(folder / f"{name}{s}") for s in (".ipynb", ".html")},
        "manifest": stages.file_sha256(folder / "manifest.json"),
    }
    seconds = time.monotonic() - began
    receipt |= {"seconds": round(seconds, 2), "overhead_seconds": round(seconds - manifest["seconds"], 2)}
    for name in (PROOF, RECEIPT):
        stages.write_json(folder / name, receipt)
    return folder / RECEIPT


def stage_digest(stage: str, study: StudyParams, model: ModelParams | None = None, models: Sequence[str] = ()) -> str:
    """One hash over all of ours that a stage depends on: its parameters, its notebook, the code it reaches, and the data
    and weights that come with the package or are the study's own.
    """
    import hashlib

    chosen = stages.parameters_of(stage, study, model, models)
    content = json.dumps(chosen, sort_keys=True) + stages.code_digest(stage)
    content += stages.data_digests(stage, study, model, models)
    return hashlib.sha256(content.encode()).hexdigest()


def is_current(stage: str, study: StudyParams, model: str | None, models: Sequence[str]) -> bool:
    """Whether a stage's receipt, which must be there, was written for these parameters and this code, and no file that
    it speaks for has been removed since.
    """
    folder = stages.stage_folder(study.name, stage, model)
    receipt = read_or_empty(folder / RECEIPT)
    digest = stage_digest(stage, study, load_model(model) if model else None, models)
    return receipt.get("digest") == digest and complete(folder, receipt)


def complete(folder: Path, receipt: dict) -> bool:
    """Whether every file that a receipt and its stage's manifest name is there; what is in them is not looked at."""
    named = [folder / name for name in (*receipt["files"], "manifest.json")]
    if not all(path.is_file() for path in named):
        return False
    manifest = read_or_empty(folder / "manifest.json")
    base = folder.parents[1] if manifest.get("model") else folder.parent
    return all((base / name).is_file() for name in manifest.get("outputs", ()))


def outdated(study: StudyParams, models: Sequence[str], until: str = "") -> list[str]:
    """Receipts, of the stages up to `until`, that other parameters or other code left behind, or whose files are gone.

    Snakemake notices a change by its own notes alone, which it keeps by path: they are gone once a checkout or its
    outputs have moved, or `.snakemake` was removed. It would then take every receipt for a current one.
    """
    last, found = until or list(stages.STAGES)[-1], []
    for stage, facts in stages.STAGES.items():
        beside = facts["model"] and stages.STAGES[last]["model"] and stage != last
        for model in (models if facts["model"] else [None]) if stage <= last and not beside else []:
            receipt = stages.stage_folder(study.name, stage, model) / RECEIPT
            if model and not stages.concerns(stage, load_model(model)):
                continue
            if receipt.is_file() and not is_current(stage, study, model, models):
                found.append(str(receipt))
    return found


def run_study(study: str, models: list[str], cores: int, until: str = "", profile: str = "", extra: str = "") -> int:
    """Let Snakemake bring a study up to date; returns its exit status.

    One run at a time holds a study's lock, which the operating system releases however the run ends, so a killed run
    needs no unlocking.

    Raises
    ------
    ParameterError : a parameter file breaks the schema; nothing was started
    """
    loaded = load_study(study)
    for model in models or loaded.models:
        if load_model(model).name != model:
            raise ParameterError(model, "is a path, and outputs are named by models", "put it into params/models")
    root, base = project_root(), stages.outputs_root() / loaded.name
    base.mkdir(parents=True, exist_ok=True)
    if not (base / "index.html").is_file():
        (base / INDEXED).unlink(missing_ok=True)
    chosen = models or loaded.models
    command = [sys.executable, "-m", "emosafe_lib.engine", str(base), str(os.getpid())]
    command += [*snakemake_arguments(root, cores, study=study, models=",".join(chosen), until=until)]
    command += [*what_to_run(loaded, chosen, until), "--keep-going", "--show-failed-logs"]
    command += ["--quiet", "host", "reason", "rules"]
    on_cluster = ["--profile", str(root / "profiles" / profile), "--slurm-jobname-prefix", job_prefix(base)]
    command += on_cluster if profile else machine_limits()
    return run_engine([*command, *shlex.split(extra)])


def what_to_run(study: StudyParams, models: Sequence[str], until: str = "") -> list[str]:
    """What Snakemake cannot know by itself of what is to be done again, as its arguments."""
    stale = outdated(study, models, until)
    return ["--rerun-incomplete", *(["--forcerun", *stale] if stale else [])]


def machine_limits() -> list[str]:
    """What stages that run side by side on this machine share, as Snakemake's arguments: its memory, and its GPUs.

    Every stage takes the first GPU that it sees, so one stage with a GPU runs at a time. Snakemake lets a stage that asks
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


def parser() -> argparse.ArgumentParser:
    """The command line that Makefile and Snakefile use."""
    top = argparse.ArgumentParser(prog="python -m emosafe_lib.execute", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="bring a whole study up to date")
    study.add_argument("--study", default="sample", type=settled, help="a name, or a path that ends in .yaml")
    study.add_argument("--models", default="", help="names separated by spaces; the study's own where empty")
    study.add_argument("--cores", type=int, default=2)
    study.add_argument("--until", default="", choices=["", *stages.STAGES], help="stop after this stage")
    study.add_argument("--profile", default="", help="a folder of profiles/, such as slurm")
    study.add_argument("--extra", default="", help="further arguments for snakemake")
    one = commands.add_parser("stage", help="run one notebook")
    one.add_argument("stage", choices=list(stages.STAGES))
    one.add_argument("--study", default="sample", type=settled)
    one.add_argument("--model", default=None, type=settled)
    one.add_argument("--after", nargs="*", help="receipts of earlier stages; the engine gives them, a person need not")
    one.add_argument("--models", default="", help="the run's models, for a notebook that reads them all")
    index = commands.add_parser("index", help="write the study's index page")
    index.add_argument("--study", default="sample", type=settled)
    index.add_argument("--models", default="", help="the run's models; the study's own where empty")
    reference = commands.add_parser("reference", help="make outputs/reference/")
    reference.add_argument("--study", action="append", default=[], help="may be given again; sample and real if absent")
    reference.add_argument("--cores", type=int, default=2)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Dispatch."""
    chosen = parser().parse_args(arguments)
    models = getattr(chosen, "models", "").replace(",", " ").split()
    if chosen.command == "study":
        return run_study(chosen.study, models, chosen.cores, chosen.until, chosen.profile, chosen.extra)
    if chosen.command == "stage":
        if chosen.after is not None:
            watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
        began = time.monotonic() - process_age()
        run_stage(chosen.stage, chosen.study, chosen.model, models, chosen.after, began)
        say(f"{chosen.stage} {chosen.model or ''}".strip() + f": done in {time.monotonic() - began:.0f} s")
        return 0
    from emosafe_lib import reference, site

    if chosen.command == "index":
        page = site.write_index(load_study(chosen.study), models)
        stages.write_json(page.parent / INDEXED, {page.name: stages.file_sha256(page)})
        print(page)
    else:
        print(*reference.make(chosen.study, chosen.cores), sep="\n")
    return 0


if __name__ == "__main__":
    from emosafe_lib import cli

    sys.exit(cli.main(["run", *sys.argv[1:]]))
