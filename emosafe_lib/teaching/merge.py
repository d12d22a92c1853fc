"""The checks of notebook 01: what a salt moves, what a split by rows would tear, how far a source can be balanced."""

import numpy as np
import pandas as pd

from emosafe_lib.data import balance, merge
from emosafe_lib.data.splits import split_of
from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

ENTRIES = ("rows", "groups", "near_duplicate_pairs", "conflicts", "safety", "categories", "sha256")
STEP = 0.01


@exercise("01.1", expects='a set of names, such as {"rows", "groups"}')
def what_a_salt_moves(answer: set[str], prepared: merge.Prepared, data: DataParams) -> Verdict:
    """`answer` names entries of the data card that another salt changes."""
    salts = (data.salt, f"{data.salt}, another")
    one, other = (merge.complete(prepared, data.model_copy(update={"salt": salt})).card for salt in salts)
    moved = {entry for entry in ENTRIES if one[entry] != other[entry]}
    said = {answer} if isinstance(answer, str) else set(answer)
    if unknown := sorted(said - set(ENTRIES)):
        return wrong(f"{unknown[0]} is none of the entries: {', '.join(ENTRIES)}.")
    if still := sorted(said - moved):
        return wrong(f"{still[0]} is settled before the split is drawn. Which of the others are, too?")
    if "sha256" in moved - said:
        return wrong(
            "Something is missing. The hash covers a row's every column, and which split it is in is a column."
        )
    if moved - said:
        return wrong("Something is missing: which entries are counted split by split?")
    return right(
        "The split is the last step, so only what is counted by split moves, and the hash, which covers the split."
    )


@exercise("01.2", expects="one number")
def groups_that_a_split_by_rows_would_tear(answer: int, table: pd.DataFrame, data: DataParams) -> Verdict:
    """`answer` counts groups of `table` with rows in several splits, if each row's own id decided."""
    alone = table["id"].map(lambda name: split_of(name, data.split_shares, data.salt))
    torn = alone.groupby(table["group"]).nunique() > 1
    if answer == torn.sum():
        share = torn.sum() / max((table["group"].value_counts() > 1).sum(), 1)
        return right(
            f"That is {share:.0%} of the groups with several rows: copies and dialogues on both sides of a split."
        )
    if answer == table["group"].map(torn).sum():
        return wrong("These are the rows in such groups; the question is how many groups there are.")
    if answer == (alone != table["split"]).sum():
        return wrong(
            "These are the rows that move to another split. Count groups: in how many do rows lie in different splits?"
        )
    if answer == (table["group"].value_counts() > 1).sum():
        return wrong(
            "All groups of several rows could be torn. Count those whose rows really fall into different splits."
        )
    return wrong("Give every row the split of its own id, then count each group's different splits; see `point_of`.")


def has_an_answer(cells: pd.DataFrame, bound: float) -> bool:
    """Whether rows can be kept such that the source's name is right in at most `bound` of them."""
    loose = {"max_class_share": 1.0, "min_class_share": 0.0, "min_mental_health_share": 0.0}
    try:
        balance.quotas(cells, DataParams(sources=["emosafe_sample"], max_source_accuracy=bound, **loose))
    except MergeError:
        return False
    return True


@exercise("01.3", expects="one number, such as 0.55")
def the_lowest_bound(answer: float, cells: pd.DataFrame) -> Verdict:
    """`answer` is the lowest `max_source_accuracy`, in steps of 0.01, for which `balance.quotas` finds what to keep."""
    bounds = np.round(np.arange(STEP, 1 + STEP, STEP), 2)
    lowest = next(float(bound) for bound in bounds if has_an_answer(cells, float(bound)))
    if not 0 < answer <= 1:
        return wrong("It is a share: a number above 0 and at most 1.")
    if abs(answer - lowest) < STEP / 2:
        stay = cells[cells["must"] > 0].iloc[0]
        return right(
            f"The {stay['must']} {stay['safety']} rows of {stay['source']} must stay, and it has few others: its name is "
            "right in most of its rows, and rows of other sources can thin that out only so far."
        )
    if answer < lowest:
        return wrong("There the programme has no answer: MergeError. Go up step by step.")
    return wrong("It has an answer there, and still one at a lower bound. Go down step by step.")
