"""What a job asks a scheduler for: what its parameter file declares, corrected by what an earlier run took.

Memory is much the same on any machine, seconds are not. The committed reference run was made on another machine, so it may
lengthen a declared time and never shortens it.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from emosafe_lib.study import paths
from emosafe_lib.study import stage as stages
from emosafe_lib.study.parameters import STUDY_RESOURCES, ModelParams, ResourceParams, StudyParams
from emosafe_lib.study.paths import project_root
from workflow.receipts import read_or_empty

MEMORY_SLACK, SPARE_MB, TIME_SLACK, SPARE_MINUTES = 1.25, 1000, 2.0, 10


def run_folders(study: StudyParams) -> list[Path]:
    """Where earlier runs of a study may have left manifests: its outputs, then the reference run."""
    return [paths.outputs_root() / study.name, project_root() / "outputs" / "reference" / study.name]


def is_own(manifest: dict, study: StudyParams) -> bool:
    """Whether this checkout measured a manifest of `measured`, and not the machine of the reference run."""
    return manifest["base"] == run_folders(study)[0]


def measured(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> dict | None:
    """The manifest of an earlier run of this stage with these very parameters on rows of the same data, or None.

    A run that took up work of a killed one measured what was left of it, and counts as none. `base`, which is added, is the
    run's folder.
    """
    wanted = {"01_data_merge": (None, []), stage: (model, models)}
    for base in run_folders(study):
        for name, (of, among) in wanted.items():
            manifest = read_or_empty((base / of.name if of else base) / name / "manifest.json")
            if manifest.get("parameters") != stages.parameters_of(name, study, of, among):
                break
        else:
            if not manifest.get("resumed"):
                return manifest | {"base": base}
    return None


def resources(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> ResourceParams:
    """What to ask a scheduler for: what the model's parameter file declares (`STUDY_RESOURCES` for a stage of the whole
    study), corrected by an earlier run with the same parameters. What was declared anew since that run is asked for as
    it stands: whoever raises a limit has seen it hit.

    A measured peak is that of the notebook's process; a job also holds the runner and its engine.
    """
    declared, earlier = (model.resources if model else STUDY_RESOURCES), measured(stage, study, model, models)
    if earlier is None or (model and earlier.get("resources") not in (None, declared.model_dump())):
        return declared
    memory = math.ceil(earlier["peak_memory_mb"] * MEMORY_SLACK / 100) * 100 + SPARE_MB
    minutes = math.ceil(earlier["seconds"] / 60 * TIME_SLACK) + SPARE_MINUTES
    if not is_own(earlier, study):  # a job that is stopped at a faster machine's time is not tried again
        minutes = max(minutes, declared.minutes)
    return declared.model_copy(update={"memory_mb": memory, "minutes": minutes})
