"""Reading, writing and picking merged rows, the table that every stage after the merge starts from.

Two choices are made here once so that all models face the same question: which rows are scored when a study caps them
(the same ones for every model and setting, or paired tests would be void), and what a reader of a rendered notebook may
see of a text (nothing, unless it was written for this package).
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.taxonomy import CATEGORIES, SPLITS, row_schema


def write_rows(rows: pd.DataFrame, path: Path) -> Path:
    """Write rows as Parquet with the package's schema, by rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = row_schema()
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False), partial)
    os.replace(partial, path)
    return path


def read_rows(*paths: Path) -> pd.DataFrame:
    """Read and join row files; MergeError if a column or an id's uniqueness is broken."""
    tables = []
    for path in paths:
        table = pq.read_table(path)
        missing = set(row_schema().names) - set(table.column_names)
        if missing:
            raise MergeError(path, f"columns missing: {', '.join(sorted(missing))}", "rerun notebook 01")
        tables.append(table.select(row_schema().names).to_pandas())
    rows = pd.concat(tables, ignore_index=True)
    twice = rows["id"][rows["id"].duplicated()]
    if len(twice):
        raise MergeError(paths[-1], f"id {twice.iloc[0]} appears twice", "rerun notebooks 01 and 02")
    return rows


def category_matrix(rows: pd.DataFrame) -> np.ndarray:
    """The category labels, shape (n, 6), bool, in the order of `CATEGORIES`."""
    return np.array(rows["categories"].to_list(), dtype=bool).reshape(-1, len(CATEGORIES))


def known_matrix(rows: pd.DataFrame) -> np.ndarray:
    """Which category labels a row's source could have given, shape (n, 6), bool."""
    return np.array(rows["category_known"].to_list(), dtype=bool).reshape(-1, len(CATEGORIES))


def stable_unit(value: str, salt: str = "") -> float:
    """A number in [0, 1) that depends on the text alone: the same on every machine and in every order."""
    digest = hashlib.blake2b(f"{salt}\x00{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def take(rows: pd.DataFrame, split: str, cap: int | None = None, *, human_only: bool = False) -> pd.DataFrame:
    """The rows of a split in a stable pseudo-random order, at most `cap` of them.

    A smaller cap takes a prefix of what a larger one takes, so budgets are nested and every model meets the same rows.
    `human_only` leaves re-interpretations out.
    """
    if split not in SPLITS:
        raise MergeError(split, "is not a split", f"use one of {', '.join(SPLITS)}")
    part = rows[rows["split"] == split]
    if human_only:
        part = part[part["origin"] != "reinterpretation"]
    order = part["id"].map(lambda value: stable_unit(value, "take")).to_numpy().argsort(kind="stable")
    return part.iloc[order[:cap]].reset_index(drop=True)


def shown(text: str, origin: str) -> str:
    """What a notebook may display of a text: all of it if it was written for this package, else only its length."""
    return text if origin == "synthetic" else f"[text of {len(text.split())} words, not shown]"
