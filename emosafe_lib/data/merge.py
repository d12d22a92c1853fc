"""From the rows of many sources to one dataset: nothing twice, nothing on both sides of a split, every step counted.

The order matters and is the order of this file: read, quarantine, scrub, normalise, join exact duplicates (and settle
their labels), group what belongs together, choose how many rows of each source to keep, split by a stable hash. Nothing
depends on the order of the input rows, on the folder or on the locale.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emosafe_lib.data import near_duplicates
from emosafe_lib.data.balance import choose_rows
from emosafe_lib.data.card import data_card
from emosafe_lib.data.cleaning import prepare_rows
from emosafe_lib.data.duplicates import join_duplicates
from emosafe_lib.data.groups import assign_groups
from emosafe_lib.data.sources import base, registry
from emosafe_lib.data.splits import assign_splits, refuse_empty_splits, refuse_one_level
from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.rows import as_dataset
from emosafe_lib.study.taxonomy import ROW_COLUMNS, SPLITS

if TYPE_CHECKING:
    from datasets import DatasetDict


@dataclass
class Merged:
    """The merged rows (columns of `rows.row_features`, sorted by id) and their data card."""

    rows: pd.DataFrame = field(repr=False)  # texts must not reach a log through a message
    card: dict

    @property
    def splits(self) -> "DatasetDict":
        """The rows as a `datasets.DatasetDict`: train, validation, test."""
        from datasets import DatasetDict

        return DatasetDict({split: as_dataset(self.rows[self.rows["split"] == split]) for split in SPLITS})


# --- read -------------------------------------------------------------------------------------------------------------


def chosen_sources(data: DataParams) -> list[base.Source]:
    """The sources that a study names, in alphabetical order.

    Raises
    ------
    SourceError : a name that is not registered
    MergeError : a source that is not for training
    """
    chosen = registry.chosen(data.sources, data)
    refused = [f"{source.name} (role {source.role})" for source in chosen if source.role != "train"]
    if refused:
        raise MergeError(f"sources {', '.join(refused)}", "not for training", "remove them from data.sources")
    return chosen


def read_sources(data: DataParams, folder: Path | None = None) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """All rows of a study's sources, and what each reader left out by name.

    Raises
    ------
    SourceError : files that are missing, those of `external_rows` too, all of them named at once, before anything is read
    """
    chosen = chosen_sources(data)
    registry.refuse_missing([*chosen, *external_sources(data)], folder)
    tables = {source.name: registry.read(source, folder) for source in chosen}
    left_out = {name: table.attrs.pop("left_out") for name, table in tables.items()}
    return pd.concat(tables.values(), ignore_index=True), {name: found for name, found in left_out.items() if found}


# --- sets that are only scored ----------------------------------------------------------------------------------------


def external_sources(data: DataParams) -> list[base.Source]:
    """The study's own evaluation-only files as sources, in alphabetical order."""
    return registry.chosen((mine.name for mine in data.own_sources if mine.role == "external"), data)


def external_rows(data: DataParams, prepared: "Prepared") -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """The study's own evaluation-only files, cleaned as the merge cleans, all of them test rows.

    A text that the study has read from any of its sources, or a near-duplicate of one, would flatter the score; it goes.

    Returns
    -------
    rows (columns of `rows.row_features`), and by source how many were `read`, how many of them are
    `distinct`, how many of those were `seen` before, and how many were `kept`
    """
    tables, facts = [], {}
    for source in external_sources(data):
        raw = registry.read(source)
        unique = join_duplicates(prepare_rows(raw, data.max_characters)[0])[0]
        seen = already_read(unique["key"], prepared.rows["key"], data.near_duplicate_jaccard)
        kept = unique[~seen]
        tables.append(kept.assign(group=kept["id"], split="test", parent_id=None)[list(ROW_COLUMNS)])
        facts[source.name] = {"read": len(raw), "distinct": len(unique), "seen": int(seen.sum()), "kept": len(kept)}
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ROW_COLUMNS)), facts


def already_read(keys: pd.Series, read: pd.Series, jaccard: float) -> np.ndarray:
    """Which of some keys are exact or near duplicates of keys that were read, shape (n,)."""
    pairs = near_duplicates.near_duplicate_pairs([*keys, *read], jaccard)
    across = pairs[(pairs.min(axis=1) < len(keys)) & (pairs.max(axis=1) >= len(keys))]
    found = keys.isin(set(read)).to_numpy(copy=True)
    found[across.min(axis=1)] = True
    return found


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """Rows that are clean, unique and grouped, before any choice among them, and the counts of the steps so far."""

    rows: pd.DataFrame = field(repr=False)
    steps: dict


def merge(data: DataParams, folder: Path | None = None) -> Merged:
    """Read a study's sources and merge them.

    Raises
    ------
    SourceError : a source is not registered, missing, changed or malformed
    MergeError : a source is not for training, ids repeat, the study's bounds contradict each other, or a split is empty
    """
    raw, left_out = read_sources(data, folder)
    return complete(prepare(raw, data, left_out), data)


def prepare(raw: pd.DataFrame, data: DataParams, left_out: dict | None = None) -> Prepared:
    """Set aside what may not enter, tidy and scrub the rest, join duplicates and group.

    `raw` has the columns `sources.base.RAW_COLUMNS`, its rows any order; MergeError where an id repeats.
    """
    twice = raw["id"][raw["id"].duplicated()]
    if len(twice):
        raise MergeError(f"id {twice.iloc[0]}", "appears twice", "ids must be unique; check the source's reader")
    rows, cleaned = prepare_rows(raw, data.max_characters)
    rows, duplicates = join_duplicates(rows)
    rows, grouping = assign_groups(rows, data.near_duplicate_jaccard)
    steps = {"rows_in": len(raw), "left_out": left_out or {}}
    return Prepared(rows, steps | cleaned | duplicates | grouping)


def complete(prepared: Prepared, data: DataParams) -> Merged:
    """Choose among prepared rows, split them, and write the card.

    Raises
    ------
    MergeError : a source is not for training, the study's bounds contradict each other, a split is empty, or training
        rows have one level
    """
    merged = choose_and_split(prepared, data)
    refuse_empty_splits(merged.rows, data)
    refuse_one_level(merged.rows)
    return merged


def choose_and_split(prepared: Prepared, data: DataParams) -> Merged:
    """`complete` for a table of any size."""
    chosen = chosen_sources(data)
    mental_health = {source.name: source.mental_health for source in chosen}
    rows = prepared.rows.assign(mental_health=prepared.rows["source"].map(mental_health))
    kept = assign_splits(choose_rows(rows, data), data).assign(parent_id=None)
    steps = prepared.steps | {"balanced_away": len(rows) - len(kept)}
    return Merged(kept[list(ROW_COLUMNS)], data_card(kept, chosen, steps))


def naive(data: DataParams) -> DataParams:
    """The same study without caps and balance: what pouring all sources together gives."""
    free = {"caps": {}, "max_class_share": 1.0, "balance_sources": False, "min_source_rows": 0}
    return data.model_copy(update=free)
