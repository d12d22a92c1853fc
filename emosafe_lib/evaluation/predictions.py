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
NO_TEXT = {"seed": pa.int64(), "label": pa.list_(pa.string()), "probabilities": pa.list_(pa.float64())}
SCHEMA = pa.schema([pa.field(name, NO_TEXT.get(name, pa.string()), nullable=False) for name in COLUMNS])


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
    values = list(ids), task, setting, variant, seed, labels, list(probabilities), outcomes
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def refuse_ids(ids, where: object, what: str, remedy: str) -> None:
    """PredictionError that names up to three ids, if there are any."""
    if len(ids):
        named = ", ".join(str(value) for value in list(ids)[:3])
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        raise PredictionError(where, f"{what}: ids {named}{more}", remedy)


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
    refuse_ids(table["id"][twice], where, "two predictions under one key", "keep one run per key")
    for task, part in table.groupby("task"):
        odd = part["probabilities"].map(len) != len(TASK_LABELS[task])
        refuse_ids(part["id"][odd], where, f"{task} probabilities of the wrong length", "rerun the stage")
        finite = np.isfinite(np.stack(part["probabilities"].to_list())).all(axis=1)
        odd = ~finite & part["outcome"].isin(USABLE_OUTCOMES)
        refuse_ids(part["id"][odd], where, "probabilities that are not finite", "rerun the stage")


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
