"""The record of the rows that the nano ladder read in pre-training, and whether a study would test on any of them.

A module of its own: the notebooks that ask this have no other business with the ladder's making, and would otherwise be
out of date whenever a part of that changes.
"""

import gzip

import pandas as pd

from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.paths import ASSETS

NANO = ASSETS / "nano"
SEEN = NANO / "seen.txt.gz"
UNRECORDED = "goemotions"  # read as a whole, and merged by no study that is shipped


def seen_ids() -> set[str]:
    """Ids of every row of the study's sources that the shipped ladder may have read."""
    return set(gzip.decompress(SEEN.read_bytes()).decode().split("\n"))


def write_seen(rows: pd.DataFrame) -> None:
    """Keep the ids of the rows; the file's bytes depend on the ids alone."""
    text = "\n".join(sorted(rows["id"][rows["source"] != UNRECORDED]))
    SEEN.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_in_pretraining(model: ModelParams, rows: pd.DataFrame) -> int:
    """How many of these rows a model of the shipped ladder may have read in pre-training; 0 for any other model.

    Those on record, and all of GoEmotions, of which no record is kept. The record holds no row that `real.yaml` puts into
    validation or test; a study with another salt or other shares splits otherwise. Near-duplicates are not looked for.
    """
    if model.weights != "assets":
        return 0
    return int((rows["id"].isin(seen_ids()) | (rows["source"] == UNRECORDED)).sum())
