"""Merged rows: what a row is, how rows travel, and how they are picked; the table that every later stage starts from.

Rows travel as a `datasets.Dataset`, on disk as Parquet, and are analysed as a pandas table in which a label is a word.
Two choices are made here once so that all models face the same question: which rows are scored when a study caps them
(the same ones for every model and setting, or paired tests would be void), and what a reader of a rendered notebook may
see of a text (nothing, unless it was written for this package).
"""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.taxonomy import CATEGORIES, ORIGINS, ROW_COLUMNS, SAFETY_LEVELS, SPLITS, TASKS

if TYPE_CHECKING:
    from datasets import Dataset, Features

CLASSES = {"safety": SAFETY_LEVELS, "split": SPLITS, "origin": ORIGINS}
MAY_BE_EMPTY = ("emotion", "parent_id")


def tasks_asked(rows: pd.DataFrame) -> tuple[str, ...]:
    """The tasks that merged rows can teach, calibrate and test.

    Safety is always one. The categories are one where training rows say yes and no to at least one of them, and both
    validation and test rows are asked about that one; own data may bring levels alone.
    """
    originals = rows[rows["origin"] != "reinterpretation"]
    labels, known = category_matrix(originals), known_matrix(originals)
    split = originals["split"].to_numpy()[:, None]
    both = (labels & known & (split == "train")).any(axis=0) & (~labels & known & (split == "train")).any(axis=0)
    for name in ("validation", "test"):
        both &= (known & (split == name)).any(axis=0)
    return TASKS if both.any() else TASKS[:1]


def row_features() -> "Features":
    """What a row is: `ROW_COLUMNS` with their types.

    `categories` and `category_known` hold six booleans in the order of `CATEGORIES`; a category whose `category_known`
    is false was never asked of that source, and is not evidence of absence.
    """
    from datasets import ClassLabel, Features, Sequence, Value

    types = dict.fromkeys(ROW_COLUMNS, Value("string"))
    types |= {name: ClassLabel(names=list(words)) for name, words in CLASSES.items()}
    types |= dict.fromkeys(("categories", "category_known"), Sequence(Value("bool"), length=len(CATEGORIES)))
    return Features(types)


def as_dataset(rows: pd.DataFrame) -> "Dataset":
    """A table of rows, labels as words, as a `datasets.Dataset` with `row_features`.

    Raises
    ------
    MergeError : a cell is empty that must not be, or a label is none of its class
    """
    from datasets import Dataset

    for name in sorted(set(ROW_COLUMNS) - set(MAY_BE_EMPTY)):
        bad = rows[name].isna() if name not in CLASSES else ~rows[name].isin(CLASSES[name])
        if bad.any():
            where = f"id {rows['id'][bad].iloc[0]}, column {name}"
            raise MergeError(where, "is empty or no value of its class", "correct the row")
    return Dataset.from_pandas(rows[list(ROW_COLUMNS)], features=row_features(), preserve_index=False)


def as_table(dataset: "Dataset") -> pd.DataFrame:
    """A dataset of rows as a pandas table, labels as words."""
    table = dataset.to_pandas()
    return table.assign(**{name: np.array(words, dtype=object)[table[name]] for name, words in CLASSES.items()}).astype(
        dict.fromkeys(CLASSES, "str")
    )


def write_rows(rows: pd.DataFrame, path: Path) -> Path:
    """Write a table of rows as Parquet; MergeError where `as_dataset` refuses it."""
    import pyarrow.parquet as pq

    dataset = as_dataset(rows)
    with replacing(path) as partial:
        pq.write_table(dataset.data.table, partial)  # `Dataset.to_parquet` would leave a bar in the notebook
    return Path(path)


def read_rows(*paths: Path) -> pd.DataFrame:
    """Read and join row files; MergeError if a column or an id's uniqueness is broken."""
    from datasets import concatenate_datasets

    rows = as_table(concatenate_datasets([read_dataset(path) for path in paths]))
    twice = rows["id"][rows["id"].duplicated()]
    if len(twice):
        raise MergeError(paths[-1], f"id {twice.iloc[0]} appears twice", "rerun notebooks 01 and 02")
    return rows


def read_dataset(path: Path) -> "Dataset":
    """The rows of one file.

    `Dataset.from_parquet` would write a second copy of the rows to a cache folder and read that, so Arrow reads the file.

    Raises
    ------
    MergeError : the file's columns are not those of a row
    """
    import pyarrow.parquet as pq
    from datasets import Dataset

    dataset = Dataset(pq.read_table(path))
    missing = set(ROW_COLUMNS) - set(dataset.column_names)
    if missing:
        raise MergeError(path, f"columns missing: {', '.join(sorted(missing))}", "rerun notebook 01")
    dataset = dataset.select_columns(list(ROW_COLUMNS))
    other = [name for name, kind in row_features().items() if dataset.features[name] != kind]
    if other:
        raise MergeError(path, f"columns of another type: {', '.join(other)}", "rerun notebook 01")
    return dataset


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


def take(rows: pd.DataFrame, split: str, cap: int | None = None, *, originals_only: bool = False) -> pd.DataFrame:
    """The rows of a split in a stable pseudo-random order, at most `cap` of them.

    A smaller cap takes a prefix of what a larger one takes, so budgets are nested and every model meets the same rows.
    `originals_only` leaves re-interpretations out.
    """
    if split not in SPLITS:
        raise MergeError(split, "is not a split", f"use one of {', '.join(SPLITS)}")
    part = rows[rows["split"] == split]
    if originals_only:
        part = part[part["origin"] != "reinterpretation"]
    order = part["id"].map(lambda value: stable_unit(value, "take")).to_numpy().argsort(kind="stable")
    return part.iloc[order[:cap]].reset_index(drop=True)


def held_by(rows: pd.DataFrame, source: str) -> np.ndarray:
    """Which merged rows a source holds, shape (n,): those credited to it, joined ones that it shares with another source,
    and re-interpretations of either.
    """
    joined = rows["source_label"].str.contains(rf"(?:^| \| ){re.escape(source)}=", na=False)
    own = (rows["source"] == source) | joined
    return (own | rows["parent_id"].isin(rows.loc[own, "id"])).to_numpy(bool)


def shown(text: str, origin: str) -> str:
    """What a notebook may display of a text: all of it if it was written for this package, else only its length."""
    return text if origin == "synthetic" else f"[text of {len(text.split())} words, not shown]"
