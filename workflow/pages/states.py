"""What a study's receipts and manifests prove of its stages: a page says it, whatever happened.

A reader has to see at a glance which numbers to trust. So every stage has a word, and where the word is not "done" a
reason: the error of the notebook that failed, or that somebody ran it in JupyterLab, where nothing vouches for it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import nbformat

from emosafe_lib.study import files, paths, stage
from emosafe_lib.study.errors import EmosafeError, StageError
from emosafe_lib.study.optional import without_folders
from emosafe_lib.study.parameters import StudyParams, load_model
from workflow.checks import check_executed
from workflow.pages import rendering, way
from workflow.receipts import PROOF, RECEIPT, is_current, read_or_empty

REASONS = {
    "stale": "parameters or code have changed since",
    "run by hand": "in JupyterLab, where no cell is checked and no page is kept",
    "not run": "nothing of it is there yet",
}


def expected_stages(study: StudyParams, models: list[str]) -> list[tuple[str, str | None]]:
    """Every (stage, model) of a study in the order of the course; a model that a server answers for has no fine-tuning."""
    pairs = []
    for name, facts in stage.STAGES.items():
        pairs += [(name, model) for model in models if way.is_asked(name, model)] if facts["model"] else [(name, None)]
    return pairs


def models_of(study: StudyParams, base: Path, models: Sequence[str] = ()) -> list[str]:
    """The run's models (the study's own where none are named), then any other of which a stage has finished."""
    found = sorted(path.parents[1].name for path in base.glob("*/03_prompting_baselines/manifest.json"))
    return list(dict.fromkeys([*(models or study.models), *found]))


def state(study: StudyParams, name: str, model: str | None, models: Sequence[str] = ()) -> tuple[str, dict]:
    """What a stage's receipt proves for a run about `models`, and its manifest.

    The word is "done", "stale" (parameters or code have changed since), "run by hand" (its manifest is there, and no
    receipt for it), "failed" (the runner kept a notebook that did not finish, and nobody has run it by hand since; an
    earlier page still stands) or "not run";
    the manifest is {} for the last two.
    """
    folder = paths.stage_folder(study.name, name, model)
    facts = read_or_empty(folder / "manifest.json")
    if has_failed(unfinished(study, name, model), folder):
        return "failed", {}
    if stage.MANIFEST - facts.keys():
        return "not run", {}
    try:
        if (folder / RECEIPT).is_file() and is_current(name, study, model, models):
            return "done", facts
        now = stage.parameters_of(name, study, load_model(model) if model else None, list(models or study.models))
    except EmosafeError:
        return "stale", facts
    by_hand = not written_for(folder) and json.loads(json.dumps(now)) == facts["parameters"]
    return ("run by hand" if by_hand else "stale"), facts


def has_failed(unfinished: Path, folder: Path) -> bool:
    """Whether the last thing that happened to a stage was a run that did not finish: no receipt, and no later manifest."""
    if not unfinished.is_file() or (folder / RECEIPT).is_file():
        return False
    manifest = folder / "manifest.json"
    return not manifest.is_file() or manifest.stat().st_mtime_ns <= unfinished.stat().st_mtime_ns


def written_for(folder: Path) -> bool:
    """Whether a receipt that lies there was written for the manifest that lies there; the engine removes one of the two
    before it runs a stage again.
    """
    manifest = files.file_sha256(folder / "manifest.json")
    return any(read_or_empty(folder / name).get("manifest") == manifest for name in (RECEIPT, PROOF))


def unfinished(study: StudyParams, name: str, model: str | None) -> Path:
    """The notebook that the runner keeps of a stage that did not finish."""
    return paths.outputs_root() / study.name / "logs" / f"{name}-{model}.ipynb".replace("-None", "")


def reason(study: StudyParams, name: str, model: str | None, word: str) -> str:
    """Why a stage is not done: what stopped it, without a path of this machine, or what its word means."""
    return failure(unfinished(study, name, model)) if word == "failed" else REASONS.get(word, "")


def failure(path: Path) -> str:
    """What stopped an unfinished notebook, in the runner's own words."""
    try:
        check_executed(nbformat.read(path, 4), path.name)
    except StageError as error:
        told = without_folders(error.what)
        private = any(pattern.search(told) for _, pattern in rendering.PRIVATE)
        return f"see logs/{path.name}" if private else told
    except (ValueError, KeyError, AttributeError, OSError, nbformat.ValidationError):
        return "it was stopped while its notebook was written"
    return "all cells ran, but it was stopped or refused before its page was written; the runner's lines say which"
