"""Which rows to keep, so that the name of a source says little about the label.

In a naive merge one source is all safe, the next all unsafe, and a model that only recognises the source looks
clever. How many rows to keep of each source and level is a small linear programme: as many rows as possible, direct
labels first, while the best guess from the source's name alone stays below a bound. It is solved with HiGHS through
SciPy.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.rows import category_matrix, known_matrix, stable_unit
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

# Scarce in human-labelled data: every human row of these stays, whatever the balance says. Of the two scarcest, the
# rows that deny them stay too (plain safe ones aside), or the source's name would predict them.
LOW_DATA = ("sexual_content", "guns_illegal_weapons", "regulated_substances", "criminal_planning")
SCARCEST = ("guns_illegal_weapons", "regulated_substances")
WEAK_WORTH = 0.8  # of a direct label; only breaks ties between rows that the constraints treat alike
CELL = ["source", "safety", "quality", "disclosure"]  # rows that agree in these are alike to every bound


def scarce(rows: pd.DataFrame) -> np.ndarray:
    """The rows that stay whatever the balance says, shape (n,): scarce ones, and those written for this package."""
    positive = category_matrix(rows)[:, np.isin(CATEGORIES, LOW_DATA)].any(axis=1)
    denied = known_matrix(rows)[:, np.isin(CATEGORIES, SCARCEST)].any(axis=1) & (rows["safety"] != "safe").to_numpy()
    return positive | denied | (rows["origin"] == "synthetic").to_numpy()


def choose_rows(rows: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """The rows to keep, with the column `disclosure`: whether a row tells of its writer's own mental health.

    How many of each cell (see `CELL`) are kept, `quotas` says: those that must stay, then others in a stable pseudo-random
    order.
    """
    work = rows.assign(
        must=scarce(rows),
        disclosure=rows["mental_health"].to_numpy(dtype=bool) & (rows["register"] == "first-person").to_numpy(),
        order=rows["id"].map(lambda value: stable_unit(value, "keep")),
    )
    cells = work.groupby(CELL, sort=True, observed=True)["must"].agg(available="size", must="sum").reset_index()
    work = work.merge(quotas(cells, data)[[*CELL, "keep"]], on=CELL)
    work = work.sort_values(["must", "order"], ascending=[False, True])
    rank = work.groupby(CELL, observed=True).cumcount()
    kept = work[rank < work["keep"]].sort_values("id", ignore_index=True)
    return kept.drop(columns=["must", "order", "keep"])


class Programme:
    """A linear programme over the rows to keep of each cell, and over the largest level of each source.

    All constraints have the form `coefficients @ x <= 0` or `<= limit`; x holds first the cells, then the sources.
    """

    def __init__(self, table: pd.DataFrame):
        self.table, self.sources = table, sorted(set(table["source"]))
        self.size = len(table) + len(self.sources)
        self.left: list[np.ndarray] = []
        self.right: list[float] = []
        self.rules: list[str] = []

    def vector(self, mask=None, source: str | None = None) -> np.ndarray:
        """Ones at the cells under a mask, or at the source's largest level."""
        x = np.zeros(self.size)
        if mask is not None:
            x[: len(self.table)] = np.asarray(mask, dtype=float)
        if source is not None:
            x[len(self.table) + self.sources.index(source)] = 1
        return x

    def at_most(self, coefficients: np.ndarray, limit: float = 0.0, rule: str = "") -> None:
        """Add one constraint; `rule` is the setting that asks for it."""
        self.left.append(coefficients)
        self.right.append(limit)
        self.rules.append(rule)

    def in_the_way(self) -> list[str]:
        """A smallest set of settings that contradict each other on these rows: without any one of them they would not."""
        needed = list(dict.fromkeys(filter(None, self.rules)))
        for name in list(needed):
            kept = self.solve({*self.rules} - {*needed} - {""} | {name})
            if kept is None or not kept.sum():
                needed.remove(name)
        return needed

    def solve(self, without: Collection[str] = ()) -> np.ndarray | None:
        """Rows to keep of each cell, rounded down, or None where nothing fits; `without` some of the rules."""
        from scipy.optimize import linprog

        worth = self.vector(np.where(self.table["quality"] == "direct", 1.0, WEAK_WORTH))
        bounds = list(zip(self.table["must"], self.table["available"], strict=True)) + [(0, None)] * len(self.sources)
        asked = [place for place, rule in enumerate(self.rules) if rule not in without]
        left, right = np.array(self.left)[asked], np.array(self.right)[asked]
        found = linprog(-worth, A_ub=left, b_ub=right, bounds=bounds, method="highs")
        return np.floor(found.x[: len(self.table)] + 1e-6).astype(int) if found.success else None


def quotas(table: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """Add the column `keep` to a table of cells (columns `CELL`, `available`, and `must`: how many have to stay).

    Raises
    ------
    MergeError : the bounds of the study contradict each other on these sources
    """
    programme = Programme(table)
    levels = {level: table["safety"] == level for level in SAFETY_LEVELS if (table["safety"] == level).any()}
    everything = programme.vector(np.ones(len(table)))
    for source in programme.sources:
        mine = table["source"] == source
        floor = min(data.min_source_rows, int(table.loc[mine, "available"].sum()))
        programme.at_most(-programme.vector(mine), -float(floor), "min_source_rows")
        if source in data.caps:
            programme.at_most(programme.vector(mine), float(data.caps[source]), "caps")
        for level in levels.values():
            share = programme.vector(mine & level) - data.max_class_share * programme.vector(level)
            programme.at_most(share, rule="max_class_share")
            programme.at_most(programme.vector(mine & level) - programme.vector(source=source))
    if data.balance_sources:
        largest = programme.vector()
        largest[len(table) :] = 1
        programme.at_most(largest - data.max_source_accuracy * everything, rule="max_source_accuracy")
        spoken = data.min_mental_health_share * everything - programme.vector(table["disclosure"])
        programme.at_most(spoken, rule="min_mental_health_share")
        for level in levels.values():
            programme.at_most(data.min_class_share * everything - programme.vector(level), rule="min_class_share")
    keep = programme.solve()
    if keep is None or not keep.sum():
        what = f"no choice of rows meets all bounds; in the way: {', '.join(programme.in_the_way())}"
        remedy = "relax one of them or add sources; few sources want max_class_share: 1.0 and balance_sources: false"
        raise MergeError("data", what, remedy)
    return table.assign(keep=keep)
