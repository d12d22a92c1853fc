"""The data card: what the merge did, counted, and what the rows are, so that a reader can judge them unseen."""

import hashlib
import json
from collections import Counter

import numpy as np
import pandas as pd

from emosafe_lib.data.sources import base
from emosafe_lib.data.splits import split_warnings
from emosafe_lib.study.rows import category_matrix, known_matrix
from emosafe_lib.study.taxonomy import CATEGORIES, ROW_COLUMNS, SAFETY_LEVELS, SPLITS


def rows_sha256(rows: pd.DataFrame) -> str:
    """A hash of the rows' content that does not depend on their order."""
    digest = hashlib.sha256()
    ordered = rows.sort_values("id")
    for values in ordered[list(ROW_COLUMNS)].itertuples(index=False, name=None):
        plain = [list(map(bool, v)) if isinstance(v, (tuple, list, np.ndarray)) else v for v in values]
        digest.update(json.dumps(plain, ensure_ascii=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def counts_by_split(rows: pd.DataFrame) -> tuple[dict, dict]:
    """{split: {level: n}} and {split: {category: n}}, zeros included."""
    safety, categories = {}, {}
    for split in SPLITS:
        part = rows[rows["split"] == split]
        safety[split] = {level: int((part["safety"] == level).sum()) for level in SAFETY_LEVELS}
        categories[split] = dict(zip(CATEGORIES, map(int, category_matrix(part).sum(axis=0)), strict=True))
    return safety, categories


def source_facts(rows: pd.DataFrame, chosen: list[base.Source]) -> dict[str, dict]:
    """What the card says of each source."""
    facts = {}
    for source in chosen:
        part = rows[rows["source"] == source.name]
        facts[source.name] = {
            "rows": len(part),
            "licence": source.licence,
            "quality": {mark: int((part["quality"] == mark).sum()) for mark in ("direct", "weak")},
            "citation": source.citation,
            "commit": source.commit,
            "mental_health": source.mental_health,
            "safety": {level: int((part["safety"] == level).sum()) for level in SAFETY_LEVELS},
            "known": [n for n, any_known in zip(CATEGORIES, known_matrix(part).any(axis=0), strict=True) if any_known],
        }
    return facts


def largest_class_share(rows: pd.DataFrame) -> float:
    """The largest share of any level that comes from one source."""
    table = pd.crosstab(rows["source"], rows["safety"])
    return float((table / table.sum()).to_numpy().max()) if len(table) else 0.0


def data_card(rows: pd.DataFrame, chosen: list[base.Source], steps: dict) -> dict:
    """The data card: rows, licences and hashes under keys that readers rely on, and every step's counts.

    `rows` come from `balance.choose_rows`, with their splits.
    """
    safety, categories = counts_by_split(rows)
    origins = Counter(rows["origin"])
    registers = pd.crosstab(rows["register"], rows["safety"])
    return {
        "rows": len(rows),
        "rows_human": origins["human"],
        "rows_synthetic": origins["synthetic"],
        "rows_reinterpreted": origins["reinterpretation"],
        "rows_in": steps["rows_in"],
        "left_out_by_name": steps["left_out"],
        "sources": source_facts(rows, chosen),
        "safety": safety,
        "categories": categories,
        "known": dict(zip(CATEGORIES, map(int, known_matrix(rows).sum(axis=0)), strict=True)),
        "quarantined": sum(steps["quarantined"].values()),
        "quarantined_by_reason": steps["quarantined"],
        "identifiers_scrubbed": steps["scrubbed"],
        "exact_duplicates": steps["exact_duplicates"],
        "duplicates_between": steps["duplicates_between"],
        "conflicts": steps["conflicts"],
        "category_conflicts": steps["category_conflicts"],
        "near_duplicate_pairs": steps["near_duplicate_pairs"],
        "small_talk": steps["small_talk"],
        "groups": int(rows["group"].nunique()),
        "largest_group": int(rows["group"].value_counts().max()) if len(rows) else 0,
        "balanced_away": steps["balanced_away"],
        "mental_health_share": float(rows["disclosure"].mean()) if len(rows) else 0.0,
        "mental_health_sources": sorted(set(rows.loc[rows["disclosure"], "source"])),
        "largest_class_share": largest_class_share(rows),
        "registers": {name: {k: int(v) for k, v in counts.items()} for name, counts in registers.iterrows()},
        "warnings": split_warnings(rows),
        "sha256": rows_sha256(rows),
    }
