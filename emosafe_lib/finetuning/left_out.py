"""A model on a source that it never saw: what is left of a score once the source's own rows are out of training.

Leaving a source out means training again, once a source. A classifier on frozen features is cheap enough to do so for
every study; whole fine-tuning is for those that ask for it (`finetuning.left_out`).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.finetuning import finetune, probes
from emosafe_lib.finetuning.plan import make_plan
from emosafe_lib.finetuning.scores import calibrated_predictions
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.progress import bar
from emosafe_lib.study.rows import held_by
from emosafe_lib.study.taxonomy import LEFT_OUT


def without_source(used: pd.DataFrame, rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """Of the rows that are used: training and validation rows that this source does not hold, and its test rows.

    What a source holds is told by all merged `rows`, since the parent of a re-interpretation may not be used itself.
    """
    held = used["id"].isin(rows.loc[held_by(rows, source), "id"])
    return used[np.where(used["split"] == "test", used["source"] == source, ~held)].reset_index(drop=True)


def can_teach(rows: pd.DataFrame) -> bool:
    """Whether rows have two levels to train on and something to validate with: sources may hold the same texts."""
    train = rows[rows["split"] == "train"]
    return train["safety"].nunique() > 1 and bool((rows["split"] == "validation").any())


def unseen_sources(
    model: ModelParams, study: StudyParams, rows: pd.DataFrame, features: probes.Features, folder: Path
) -> list[pd.DataFrame]:
    """Safety predictions of each source by a model that was trained on the others, as tables of the common schema.

    None where the study asks for none, or has a single source; a source whose texts the others hold as well, so that they
    cannot teach without them, is passed over and named. The training rows are those of the main run, less the
    source's; nothing takes their place.

    Parameters
    ----------
    rows : merged rows with re-interpretations among them
    features : of `probes.extract`, for the probe
    folder : where fine-tuning keeps its runs
    """
    settings = study.finetuning
    plan = make_plan(model, study, rows, "safety", settings.seeds[0])
    used = probes.rows_of(plan).reset_index(drop=True)
    named = [
        name for name in settings.left_out_sources or sorted(set(used["source"])) if name in set(plan.test["source"])
    ]
    if settings.left_out == "none" or used["source"].nunique() < 2:
        return []
    found = []
    for source in bar(named, "sources left out"):
        part = without_source(used, rows, source)
        if not can_teach(part):
            print(f"{source}: not left out, the other sources cannot teach the levels without its texts")
            continue
        if settings.left_out == "probe":
            result = probes.probe(features, model, study, part, "safety")
        else:
            result = finetune.finetune(model, study, part, "safety", settings.seeds[0], folder, features=features)
        found.append(calibrated_predictions(result, part, settings.left_out).assign(variant=LEFT_OUT))
    return found
