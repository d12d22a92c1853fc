"""Prediction files: the only thing that the analysis ever reads about a model.

Every number in every table and figure is computed from these files, so they are self-describing (model, data hash),
complete (a failed row is a row with an outcome, never a missing one) and free of message text.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.taxonomy import OUTCOMES, SETTINGS, TASK_LABELS, TASKS, USABLE_OUTCOMES

COLUMNS = ("id", "task", "setting", "variant", "seed", "label", "probabilities", "outcome")
KEY = ["task", "setting", "variant", "seed", "id"]
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("setting", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("label", pa.list_(pa.string()), nullable=False),
        pa.field("probabilities", pa.list_(pa.float64()), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
    ]
)


def make(ids, task, setting, probabilities, *, variant="", seed=0, thresholds=None, outcomes=None) -> pd.DataFrame:
    """Build a prediction table from probabilities.

    Parameters
    ----------
    ids : n row identifiers
    task : "safety" or "categories"
    setting : one of `SETTINGS`
    probabilities : array (n, 3) that sums to 1 for safety, array (n, 6) in [0, 1] for categories
    variant : prompt wording, training budget or baseline name; empty where there is only one
    seed : the seed of exemplars or training
    thresholds : array (6,), decision thresholds for categories; 0.5 where omitted
    outcomes : n outcomes, "ok" where omitted; rows without a usable outcome get an empty label

    Returns
    -------
    a DataFrame with the columns `COLUMNS`; `label` is a list of names, of length one for safety
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    names = TASK_LABELS[task]
    outcomes = ["ok"] * len(ids) if outcomes is None else list(outcomes)
    if task == "safety":
        labels = [[names[best]] for best in probabilities.argmax(axis=1)]
    else:
        limits = np.full(len(names), 0.5) if thresholds is None else np.asarray(thresholds)
        labels = [[name for name, on in zip(names, row, strict=True) if on] for row in probabilities >= limits]
    labels = [label if outcome in USABLE_OUTCOMES else [] for label, outcome in zip(labels, outcomes, strict=True)]
    return pd.DataFrame(
        {
            "id": list(ids),
            "task": task,
            "setting": setting,
            "variant": variant,
            "seed": seed,
            "label": labels,
            "probabilities": list(probabilities),
            "outcome": outcomes,
        }
    )


def check(table: pd.DataFrame, where: object = "predictions") -> None:
    """Refuse a table that breaks the schema: PredictionError names the rule and the first offending ids."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise PredictionError(where, f"columns missing: {', '.join(missing)}", "write it with predictions.make")
    for column, allowed in (("task", TASKS), ("setting", SETTINGS), ("outcome", OUTCOMES)):
        unknown = sorted(set(table[column]) - set(allowed))
        if unknown:
            raise PredictionError(where, f"{column} {unknown[0]!r} is unknown", f"use one of {', '.join(allowed)}")
    twice = table.duplicated(KEY)
    if twice.any():
        ids = ", ".join(table.loc[twice, "id"].head(3))
        raise PredictionError(where, f"two predictions under one key, ids {ids}", "keep one run per key")
    for task, part in table.groupby("task"):
        lengths = part["probabilities"].map(len)
        if (lengths != len(TASK_LABELS[task])).any():
            ids = ", ".join(part.loc[lengths != len(TASK_LABELS[task]), "id"].head(3))
            raise PredictionError(where, f"{task} probabilities of the wrong length, ids {ids}", "rerun the stage")
        values = np.stack(part["probabilities"].to_list())
        bad = ~np.isfinite(values).all(axis=1) & part["outcome"].isin(USABLE_OUTCOMES).to_numpy()
        if bad.any():
            ids = ", ".join(part.loc[bad, "id"].head(3))
            raise PredictionError(where, f"probabilities that are not finite, ids {ids}", "rerun the stage")


def write(table: pd.DataFrame, path: Path, *, model: str, data_sha256: str) -> Path:
    """Check a prediction table and write it as Parquet, by rename, with model and data hash in its metadata."""
    check(table, path)
    arrow = pa.Table.from_pandas(table[list(COLUMNS)], schema=SCHEMA, preserve_index=False)
    metadata = {"emosafe_model": model, "emosafe_data_sha256": data_sha256}
    with replacing(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial)
    return Path(path)


def read(path: Path) -> pd.DataFrame:
    """Read one prediction file; adds the columns `model` and `data_sha256` from its metadata."""
    arrow = pq.read_table(path)
    metadata = arrow.schema.metadata or {}
    table = arrow.to_pandas()
    check(table, path)
    for name in ("model", "data_sha256"):
        value = metadata.get(f"emosafe_{name}".encode())
        if value is None:
            raise PredictionError(path, f"no {name} in the file's metadata", "write it with predictions.write")
        table[name] = value.decode()
    return table
