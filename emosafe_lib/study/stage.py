"""Begin and finish of a stage: where its files go, and what its manifest says of them.

A notebook that dies half-way must leave the last good result untouched, and nobody may mistake its traces for a result.
So a stage writes into a folder beside, moves the files into place at the end, and writes `manifest.json` last. The
manifest names what went in (hashes), what came out (hashes), with which parameters and versions, and at what cost.
Whether a stage counts as done, the runner decides: see `workflow/receipts.py`.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from emosafe_lib.study import earlier, tables
from emosafe_lib.study.earlier import run_until as run_until
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.files import file_sha256, put_in_place, write_json
from emosafe_lib.study.machine import peak_memory_mb, versions
from emosafe_lib.study.optional import missing, not_measured, optional
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model, load_study, shown_path
from emosafe_lib.study.paths import outputs_root, stage_folder
from emosafe_lib.study.tries import begin_try, end_tries

if TYPE_CHECKING:
    from pandas import DataFrame

STAGES = {
    "01_data_merge": {"model": False, "sections": ["data"]},
    "02_chatgpt_augmentation": {"model": False, "sections": ["augmentation"]},
    "03_prompting_baselines": {"model": True, "sections": ["prompting"]},
    "04_lora_finetuning": {"model": True, "sections": ["finetuning"]},
    "05_scaling_analysis": {"model": False, "sections": ["analysis", "models", "model_caps"]},
    "06_on_device": {"model": False, "sections": ["analysis", "models"]},
}
# What every manifest holds.
MANIFEST = {"stage", "study", "model", "parameters", "inputs", "outputs", "numbers", "versions", "seconds", "finished"}
MANIFEST |= {"peak_memory_mb", "not_measured"}
# Stages that need the weights themselves; a model behind a chat server answers questions and hands out no weights.
NEED_WEIGHTS = {"04_lora_finetuning", "06_on_device"}
LOCK_SECONDS = 20
# By stage, the lock of the run that this process has open.
HELD: WeakValueDictionary = WeakValueDictionary()


class Manifest(dict):
    """What `finish` has written; a notebook that ends with it shows one line and not every hash."""

    def __repr__(self) -> str:
        whose = f"{self['study']}, {self['model']}" if self["model"] else self["study"]
        held = f"{len(self['outputs'])} files, {len(self['not_measured'])} gaps, {self['seconds']:.0f} s"
        return f"{self['stage']} ({whose}) is finished: {held}; manifest.json names them."


class Run:
    """One execution of one stage, from `begin` to `finish`.

    Attributes
    ----------
    study : StudyParams
    model : ModelParams, or None for a stage that belongs to the whole study
    models : name -> ModelParams of the models of this run that concern the stage, where it reads them all; else empty
    parameters : table of the settings that the stage depends on: index the setting (a model's begin with `model.`),
        columns `value`, `from` (the file that sets it, or "default") and `meaning`
    """

    def __init__(
        self,
        stage: str,
        study: StudyParams,
        model: ModelParams | None,
        models: dict[str, ModelParams] | None = None,
        parameters: "DataFrame | None" = None,
    ):
        self.parameters = parameters
        self.stage, self.study, self.model, self.named = stage, study, model, list(models or {})
        self.models = {name: each for name, each in (models or {}).items() if concerns(stage, each)}
        self.started = time.monotonic()
        self.base = outputs_root() / study.name
        self.folder = stage_folder(study.name, stage, model.name if model else None)
        self.staging = self.base / ".partial" / f"{stage}-{model.name if model else 'study'}"
        self.inputs: dict[str, str] = {}
        self.found: dict[str, bool] = {}
        self.kept = self.base / ".work" / self.staging.name
        self.seconds_before = 0.0
        missing.clear()
        self.lock = self.hold()
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)

    def hold(self):
        """Keep others from this stage's files until `finish`, or until this process ends in whatever way.

        A process has one run of a stage open: whoever begins it once more, with the same names or others, has left the
        run before, and what that one held is free.

        Raises
        ------
        StageError : another kernel has begun this stage and still runs
        """
        from filelock import FileLock, Timeout

        self.staging.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.staging}.lock", timeout=LOCK_SECONDS, is_singleton=True)
        before = HELD.get(self.stage, lock)
        if before is not lock:
            before.release(force=True)
        HELD[self.stage] = lock
        try:
            lock.acquire()
        except Timeout:
            raise StageError(self.stage, "is open in another kernel", "finish that one or shut it down") from None
        return lock

    def use(self, name: str) -> Path:
        """An input below `outputs/<study>/`, remembered by its hash.

        Raises
        ------
        StageError : the file is not there, so an earlier stage has to run first
        """
        path = self.base / name
        if not path.is_file():
            raise StageError(f"outputs/{self.study.name}/{name}", "is not there yet", "run the earlier notebook first")
        self.inputs[name] = file_sha256(path)
        return path

    def out(self, name: str, at: str = "stage") -> Path:
        """A path to write to; it moves into place at `finish`.

        `at` says beside what it will stand: "stage" (this stage's folder), "model" (`outputs/<study>/<model>/`) or
        "study" (`outputs/<study>/`).
        """
        places = {
            "stage": self.folder,
            "study": self.base,
            "model": self.base / (self.model.name if self.model else ""),
        }
        if at not in places or (at == "model" and self.model is None):
            raise StageError(self.stage, f"has no place called {at!r}", "use stage, model or study")
        target = places[at] / name  # not resolved, since the study's folder may be a link to another disk
        if not target.resolve().is_relative_to(places[at].resolve()):
            raise StageError(self.stage, f"would write outside its folder: {name!r}", "use a plain relative name")
        staged = self.staging / target.relative_to(self.base)
        staged.parent.mkdir(parents=True, exist_ok=True)
        return staged

    def keep(self, name: str) -> Path:
        """A folder for work that survives a killed run (journals, shards, checkpoints): `.work/` beside the stage.

        The manifest says whether work of an earlier run lay there, and counts the seconds of those that were stopped.
        """
        path = self.kept / name
        if not self.found:
            asked = parameters_of(self.stage, self.study, self.model, self.named)
            self.seconds_before = begin_try(self.kept, time.monotonic() - self.started, asked)
        self.found.setdefault(name, path.is_dir() and any(path.iterdir()))
        path.mkdir(parents=True, exist_ok=True)
        return path

    def optional(self, kind: str, name: str):
        """The context of what the stage can do without: see `emosafe_lib.study.optional`."""
        return optional(kind, name)

    def finish(self, **numbers) -> Manifest:
        """Publish the staged files with a manifest that names them, and return it.

        `numbers` are JSON values worth keeping, such as row counts or scores.

        Raises
        ------
        StageError : this run has been finished before
        """
        if not self.lock.is_locked:
            raise StageError(self.stage, "has been finished already", "run its notebook again from the first cell")
        staged = sorted(path for path in self.staging.rglob("*") if path.is_file())
        manifest = {
            "stage": self.stage,
            "study": self.study.name,
            "model": self.model.name if self.model else None,
            "parameters": parameters_of(self.stage, self.study, self.model, self.named),
            "inputs": self.inputs,
            "outputs": {path.relative_to(self.staging).as_posix(): file_sha256(path) for path in staged},
            "numbers": numbers,
            "not_measured": not_measured(),
            "versions": versions(),
            "seconds": round(self.seconds_before + time.monotonic() - self.started, 2),
            "peak_memory_mb": int(peak_memory_mb()),
            "resources": self.model.resources.model_dump() if self.model else None,
            "resumed": any(self.found.values()),
            "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        write_json(self.out("manifest.json"), manifest)
        self.publish([*staged, self.out("manifest.json")])
        end_tries(self.kept)
        self.lock.release(force=True)  # whoever ran the opening cell twice holds it twice
        return Manifest(manifest)

    def publish(self, staged: Sequence[Path]) -> None:
        """Move staged files into place, the manifest last; what an earlier run wrote and this one did not is removed, or
        a later stage would read it beside this run's.

        Several files cannot change at once, so the old manifest goes first: while there is none, neither a reader nor
        whoever comes after a killed process takes the mixture for a result. All is written by then, so a full disk
        cannot strike in between.
        """
        manifest = self.folder / "manifest.json"
        earlier = named_outputs(manifest, self.base)
        manifest.unlink(missing_ok=True)
        for path in earlier - {self.base / path.relative_to(self.staging) for path in staged}:
            path.unlink(missing_ok=True)
        for path in staged:
            target = self.base / path.relative_to(self.staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            put_in_place(path, target)
        shutil.rmtree(self.staging)


def named_outputs(manifest: Path, base: Path) -> set[Path]:
    """The files below `base` that a stage's manifest names; none where it is absent or cannot be read."""
    try:
        named = list(json.loads(manifest.read_text(encoding="utf-8"))["outputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {base / name for name in named if (base / name).resolve().is_relative_to(base.resolve())}


def begin(stage: str, study: str, model: str | None = None, models: Sequence[str] = ()) -> Run:
    """Start a stage from its notebook.

    Parameters
    ----------
    stage : the notebook's name without suffix, one of `STAGES`
    study, model : names or paths of parameter files
    models : the models that this run is about, for a stage that reads them all; the study's own where empty

    Raises
    ------
    ParameterError : a parameter file breaks the schema
    StageError : the stage is unknown, needs a model or has none, needs weights that a server keeps, or an earlier stage
        that has not finished, is open in another kernel, or the library belongs to another checkout
    """
    refuse_other_checkout()
    loaded, params, named = resolve(stage, study, model, models)
    require_earlier(stage, study, loaded.name, named)
    tables.show_whole_cells()
    of_study = tables.resolved(loaded, shown_path("study", study))
    of_model = tables.resolved(params, shown_path("models", model)) if params else None
    table = tables.of_a_run(STAGES[stage]["sections"], of_study, of_model, models)
    return Run(stage, loaded, params, named, table)


def resolve(
    stage: str, study: str, model: str | None = None, models: Sequence[str] = ()
) -> tuple[StudyParams, ModelParams | None, dict[str, ModelParams]]:
    """The parameters of a run of a stage: of its study, its model, and all its models by name where it reads them all.

    Raises
    ------
    ParameterError, StageError : as in `begin`, but for the checkout; a runner asks before it starts anything
    """
    if stage not in STAGES:
        raise StageError(stage, "is not a stage", f"use one of {', '.join(STAGES)}")
    if STAGES[stage]["model"] and model is None:
        raise StageError(stage, "needs a model", "name one: --model at the runner, `model` in the parameters cell")
    if not STAGES[stage]["model"] and model is not None:
        raise StageError(stage, "belongs to the whole study", "leave the model out")
    if models and not reads_all_models(stage):
        raise StageError(stage, "reads no list of models", "leave the models out")
    loaded = load_study(study)
    named = {name: load_model(name) for name in models or loaded.models} if reads_all_models(stage) else {}
    params = load_model(model) if model else None
    if params and not concerns(stage, params):
        raise StageError(stage, f"needs weights, and {params.name} is answered by a server", "run notebooks 03 and 05")
    return loaded.for_model(params.name) if params else loaded, params, named


def require_earlier(stage: str, given: str, study: str, models: dict[str, ModelParams]) -> None:
    """Stop where an earlier stage has not finished, and print of which models results are missing.

    A study may be analysed with some of its models; what the others would say is a gap. With none there is nothing to say.

    Parameters
    ----------
    given, study : how the notebook calls the study, and its name
    models : name -> ModelParams of all models of the run, for a stage that reads them all

    Raises
    ------
    StageError : names what is missing and the cell that makes it
    """

    def is_finished(name: str, model: str | None = None) -> bool:
        return (stage_folder(study, name, model) / "manifest.json").is_file()

    absent = [name for name in earlier.AFTER.get(stage, ()) if not is_finished(name)]
    if absent:
        remedy = f"run it in a cell of its own: {earlier.cell(absent[-1], given)}"
        raise StageError(f"outputs/{study}/{absent[0]}", "is not there yet", remedy)
    asked = {name: [each for each in models if concerns(name, models[each])] for name in earlier.READS.get(stage, ())}
    missing = {name: [each for each in of if not is_finished(name, each)] for name, of in asked.items()}
    if any(asked.values()) and missing == asked:
        raise StageError(
            stage, "finds results of no model", f"make some: {earlier.cell(stage, given, list(models)[:1])}"
        )
    for name, of in missing.items():
        if of:
            print(
                f"{name}: not there yet for {', '.join(of)}, so gaps below; to make it: {earlier.cell(name, given, of)}"
            )


def concerns(stage: str, model: ModelParams) -> bool:
    """Whether a stage has something to do for a model."""
    return stage not in NEED_WEIGHTS or model.backend == "transformers"


def reads_all_models(stage: str) -> bool:
    """Whether a stage looks at every model of the run at once."""
    return "models" in STAGES[stage]["sections"]


def refuse_other_checkout() -> None:
    """A notebook of one checkout must not silently run the library, or the kernel, of another."""
    expected = os.environ.get("EMOSAFE_PREFIX", sys.prefix)
    if Path(expected).resolve() != Path(sys.prefix).resolve():
        raise StageError("kernel", "belongs to another environment than the runner", "reinstall with `make setup`")
    here = Path.cwd().resolve()
    library = Path(__file__).resolve().parents[2]
    for folder in (here, *here.parents):
        if (folder / "emosafe_lib" / "study" / "stage.py").is_file() and folder != library:
            raise StageError(folder, f"runs the library of {library.name!r}", "use the kernel of this checkout's .venv")


def parameters_of(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> dict:
    """The parameters that this stage depends on, and no others, as plain JSON values; `models` as in `begin`."""
    dumped = (study.for_model(model.name) if model else study).model_dump(mode="json")
    chosen = {section: dumped[section] for section in STAGES[stage]["sections"]}
    if model:
        chosen["model"] = {k: v for k, v in model.model_dump(mode="json").items() if k != "resources"}
    if models and reads_all_models(stage):
        chosen["models"] = list(models)
    return chosen
