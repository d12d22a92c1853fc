"""One row for one text: exact duplicates are joined, and their labels settled without looking at who gave them."""

from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd

from emosafe_lib.study.rows import stable_unit
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

SEVERITY = {level: rank for rank, level in enumerate(SAFETY_LEVELS)}


def settle(safety: list[str], quality: list[str]) -> str:
    """One level for one text: the majority of the direct labels (of the weak ones where none is direct), else the more
    severe.
    """
    votes = [level for level, mark in zip(safety, quality, strict=True) if mark == "direct"] or safety
    counts = Counter(votes)
    return max(counts, key=lambda level: (counts[level], SEVERITY[level]))


def settle_category(group: list[dict], category: int) -> bool:
    """Whether one text touches a category: the majority of the direct rows that were asked (of the weak ones where none
    is direct); an even vote counts as touched.
    """
    asked = [row for row in group if row["category_known"][category]]
    asked = [row for row in asked if row["quality"] == "direct"] or asked
    touched = sum(row["categories"][category] for row in asked)
    return bool(asked) and 2 * touched >= len(asked)


def disputed(group: list[dict]) -> bool:
    """Whether two rows of one text were asked about the same category and disagree."""
    cells = ({row["categories"][c] for row in group if row["category_known"][c]} for c in range(len(CATEGORIES)))
    return any(len(answers) > 1 for answers in cells)


def credited(group: list[dict]) -> dict:
    """The row that stands for its duplicates: chosen by a hash of text and source, never by label, so that the credit
    cannot carry the label.
    """
    return min(group, key=lambda row: (stable_unit(f"{row['key']}\x00{row['source']}", "credit"), row["id"]))


def join_group(group: list[dict]) -> dict:
    """One row for all rows with the same key; it carries the links of all of them."""
    kept = credited(group)
    names = sorted({f"{row['source']}={row['source_label']}" for row in group})
    return kept | {
        "safety": settle([row["safety"] for row in group], [row["quality"] for row in group]),
        "quality": "direct" if any(row["quality"] == "direct" for row in group) else "weak",
        "categories": tuple(settle_category(group, c) for c in range(len(CATEGORIES))),
        "category_known": tuple(map(any, zip(*(row["category_known"] for row in group), strict=True))),
        "source_label": " | ".join(names) if len(names) > 1 else kept["source_label"],
        "link": tuple(sorted({link for row in group for link in row["link"]})),
    }


def shared_by(groups: list[list[dict]]) -> dict[str, int]:
    """How many texts each two sources have in common."""
    counts: Counter = Counter()
    for group in groups:
        counts.update(f"{a} + {b}" for a, b in combinations(sorted({row["source"] for row in group}), 2))
    return dict(sorted(counts.items()))


def join_duplicates(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """One row a key; counts of rows removed, of texts with a level or a category in conflict, and of duplicates between
    sources.
    """
    links = np.empty(len(rows), dtype=object)
    links[:] = [(link,) if link else () for link in rows["link"]]
    rows = rows.assign(link=links)
    several = rows["key"].duplicated(keep=False)
    by_key: dict[str, list[dict]] = {}
    for row in rows[several].to_dict("records"):
        by_key.setdefault(row["key"], []).append(row)
    groups = list(by_key.values())
    joined = pd.DataFrame([join_group(group) for group in groups], columns=rows.columns, dtype=object)
    single = rows[~several]
    counts = {
        "exact_duplicates": len(rows) - len(single) - len(joined),
        "conflicts": sum(len({row["safety"] for row in group}) > 1 for group in groups),
        "category_conflicts": sum(map(disputed, groups)),
        "duplicates_between": shared_by(groups),
    }
    return pd.concat([single, joined], ignore_index=True).sort_values("id", ignore_index=True), counts
