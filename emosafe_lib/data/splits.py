"""Train, validation and test by a stable hash of the group's name: another order or other groups' data moves nothing."""

import pandas as pd

from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.rows import category_matrix, known_matrix, stable_unit, tasks_asked
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, SPLITS


def split_of(group: str, shares: dict[str, float], salt: str) -> str:
    """The split of a group: a function of its name alone, so that no order and no other group's data moves it."""
    point, edge = stable_unit(group, salt), 0.0
    for split in SPLITS:
        edge += shares[split]
        if point < edge:
            return split
    return SPLITS[-1]


def assign_splits(rows: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """Add the column `split`."""
    return rows.assign(split=rows["group"].map(lambda group: split_of(group, data.split_shares, data.salt)))


def refuse_empty_splits(rows: pd.DataFrame, data: DataParams) -> None:
    """Every split is trained on, calibrated on or scored, so none of them may be empty.

    Raises
    ------
    MergeError : splits without a row, all of them named at once
    """
    empty = [split for split in SPLITS if not (rows["split"] == split).any()]
    if empty:
        where, what = f"split {', '.join(empty)}", f"no row of {rows['group'].nunique()} groups falls into it"
        shareless = any(data.split_shares[split] == 0 for split in empty)
        remedy = "give it a share above 0 in" if shareless else "add rows or sources, or raise its share in"
        raise MergeError(where, what, f"{remedy} data.split_shares")


def refuse_one_level(rows: pd.DataFrame) -> None:
    """Nothing can be learned from rows of one level, and nobody should find that out two stages later.

    Raises
    ------
    MergeError : all training rows have the same level
    """
    levels = sorted(set(rows.loc[rows["split"] == "train", "safety"]))
    if len(levels) < 2:
        what = f"all training rows are {levels[0] if levels else 'missing'}, so there is nothing to tell apart"
        raise MergeError("split train", what, "add rows of another level, or another source")


def split_warnings(rows: pd.DataFrame) -> list[str]:
    """Every level or category that a split lacks, by name, with what to do about it."""
    labels = {level: (rows["safety"] == level).to_numpy() for level in SAFETY_LEVELS}
    asked = dict(zip(CATEGORIES, known_matrix(rows).any(axis=0), strict=True))
    labels |= {name: on for name, on in zip(CATEGORIES, category_matrix(rows).T, strict=True) if asked[name]}
    found = [f"{name}: not asked in this study" for name in CATEGORIES if not asked[name]]
    if any(asked.values()) and len(tasks_asked(rows)) == 1:
        found.append(
            "categories: not studied, since none has training rows of both answers and is asked in every split; "
            "add rows, or leave the columns out"
        )
    for name, mask in labels.items():
        absent = [split for split in SPLITS if not (mask & (rows["split"] == split).to_numpy()).any()]
        if absent:
            found.append(
                f"{name}: {int(mask.sum())} rows, none in {', '.join(absent)}; add rows or another source of it"
            )
    return found
