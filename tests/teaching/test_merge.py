"""The exercises of notebook 01: right answers are right, wrong ones are told what is wrong, none is raised."""

import numpy as np
import pandas as pd
import pytest

from emosafe_lib.data import merge
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.taxonomy import SAFETY_LEVELS
from emosafe_lib.teaching import check

DATA = load_study("sample").data
CELLS = pd.DataFrame({"source": np.repeat(["forum", "helpline", "prompts"], 3), "safety": list(SAFETY_LEVELS) * 3})
CELLS["available"] = [300, 60, 20, 40, 120, 160, 10, 30, 200]
CELLS = CELLS.assign(quality="direct", disclosure=False, must=[0] * 8 + [90])


@pytest.fixture(scope="module")
def prepared():
    raw, left_out = merge.read_sources(DATA)
    return merge.prepare(raw, DATA, left_out)


@pytest.fixture(scope="module")
def table(prepared):
    return merge.complete(prepared, DATA).rows


def test_every_exercise_can_be_left_open(prepared, table):
    for number, given in (("01.1", (prepared, DATA)), ("01.2", (table, DATA)), ("01.3", (CELLS,))):
        assert "not answered yet" in repr(check(number, None, *given))


def test_01_1_the_salt_moves_what_is_counted_by_split_and_the_hash(prepared):
    assert check("01.1", {"safety", "categories", "sha256"}, prepared, DATA)
    assert check("01.1", ["sha256", "categories", "safety"], prepared, DATA)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"safety", "categories"}, "hash"),
        ({"sha256"}, "split by split"),
        ({"safety", "categories", "sha256", "groups"}, "groups is settled before"),
        ("colour", "colour is none of the entries"),
        ({"safety", "colour"}, "colour is none of the entries"),
    ],
)
def test_01_1_a_wrong_answer_is_told_why(prepared, answer, why):
    verdict = check("01.1", answer, prepared, DATA)
    assert not verdict and why in repr(verdict)


def test_01_2_torn_groups_are_counted_as_groups(table):
    torn = 0
    for _, group in table.groupby("group"):
        alone = pd.DataFrame({"group": group["id"], "id": group["id"]})
        torn += len({merge.assign_splits(alone, DATA)["split"].iloc[i] for i in range(len(alone))}) > 1
    assert check("01.2", torn, table, DATA)
    assert torn > 50


def test_01_2_rows_and_all_groups_are_told_apart(table):
    sizes = table["group"].value_counts()
    moved = (merge.assign_splits(table.assign(group=table["id"]), DATA)["split"] != table["split"]).sum()
    assert "rows that move" in repr(check("01.2", int(moved), table, DATA))
    assert "could be torn" in repr(check("01.2", int((sizes > 1).sum()), table, DATA))
    assert not check("01.2", len(table), table, DATA)


def test_01_3_the_lowest_bound_is_found_by_arithmetic_too():
    """Balanced rows of the other sources thin out the 90 of 130: (20 + 40 + 90) / (60 + 120 + 130) is the least share."""
    assert check("01.3", np.ceil(100 * 150 / 310) / 100, CELLS)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(0.40, "no answer"), (0.55, "still one at a lower"), (49, "a share"), ("low", "Expected is one number")],
)
def test_01_3_a_wrong_answer_is_told_the_direction(answer, why):
    verdict = check("01.3", answer, CELLS)
    assert not verdict and why in repr(verdict)
