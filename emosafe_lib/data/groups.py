"""What belongs together and must not be torn apart by a split: near-duplicates, dialogues, users, templates."""

import numpy as np
import pandas as pd

from emosafe_lib.data import near_duplicates

SMALL_TALK_WORDS = 8


def small_talk(rows: pd.DataFrame, near: np.ndarray) -> np.ndarray:
    """Short utterances that several dialogues or users share, shape (n,).

    Thanks and greetings tie no dialogues together, or chains of them would join most dialogues into one group.

    `near` are the pairs of near-duplicates, shape (m, 2). A template's cases are never small talk.
    """
    links = rows["link"].to_numpy()
    shared = np.array([len(own) > 1 for own in links], dtype=bool)
    for one, other in near:
        if links[one] != links[other]:
            shared[[one, other]] = True
    short = (rows["key"].str.count(" ") + 1 < SMALL_TALK_WORDS).to_numpy(dtype=bool)
    return shared & short & (rows["register"] != "template").to_numpy()


def assign_groups(rows: pd.DataFrame, jaccard: float) -> tuple[pd.DataFrame, dict]:
    """Add the column `group`: near-duplicates, and all rows that share a link, belong together.

    A group is named by the smallest id in it. `rows` are sorted by id and counted from 0 by their index.
    """
    near = near_duplicates.near_duplicate_pairs(rows["key"].tolist(), jaccard)
    loose = small_talk(rows, near)
    ties = rows["link"][~loose].explode().dropna()  # each link is a node behind those of the rows
    linked = np.column_stack([ties.index, len(rows) + pd.factorize(ties)[0]])
    part = near_duplicates.components(len(rows) + ties.nunique(), near, linked)[: len(rows)]
    first = pd.Series(rows["id"].to_numpy()).groupby(part).transform("min")
    return rows.assign(group=first.to_numpy()), {"near_duplicate_pairs": len(near), "small_talk": int(loose.sum())}
