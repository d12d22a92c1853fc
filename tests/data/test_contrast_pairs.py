"""The contrast pairs are what their card says: a harmless message and its unsafe twin, adults alone, nobody identifiable."""

import re
from collections import Counter

import pytest
from test_sample import CONTRAST, FOLDER, IDENTIFIER, NOT_ADULT, SAMPLE, read, repeats

from emosafe_lib.data import merge
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.taxonomy import CATEGORIES

PAIRS = read("contrast_pairs.jsonl")


def test_each_pair_has_a_harmless_and_an_unsafe_member():
    levels = {}
    for row in PAIRS:
        levels.setdefault((row["pair"], row["kind"]), []).append(row["safety"])
    assert len(levels) == 1420 and all(found == ["safe", "unsafe"] for found in levels.values())


def test_only_unsafe_members_touch_categories_and_all_of_them_do():
    for row in PAIRS:
        assert bool(row["categories"]) == (row["safety"] == "unsafe"), row["id"]
        assert row["categories"] == [name for name in CATEGORIES if name in row["categories"]], row["id"]


@pytest.mark.parametrize("pattern", [NOT_ADULT, IDENTIFIER], ids=["adults", "identifiers"])
def test_nobody_is_young_or_identifiable(pattern):
    assert [row["id"] for row in PAIRS if pattern.search(row["text"])] == []


def test_texts_are_new_and_plain():
    assert all(row["text"].isascii() and 5 <= len(row["text"].split()) <= 40 for row in PAIRS)
    assert repeats(PAIRS + SAMPLE + CONTRAST, 0.6) == []


def test_length_does_not_give_the_level_away():
    words = {level: [len(r["text"].split()) for r in PAIRS if r["safety"] == level] for level in ("safe", "unsafe")}
    longer = sum(unsafe > safe for safe, unsafe in zip(words["safe"], words["unsafe"], strict=True))
    assert longer < 0.85 * len(PAIRS) / 2


def test_the_card_counts_the_kinds():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = {kind: int(number) for kind, number in re.findall(r"^\| `(\w+)` \| (\d+) \| [a-z]", card, re.MULTILINE)}
    true = Counter(row["kind"] for row in PAIRS if row["safety"] == "safe")
    assert {kind: stated.get(kind) for kind in true} == true


def test_a_pair_stays_in_one_split_and_loses_no_row():
    merged = merge.merge(
        DataParams(sources=["emosafe_sample", "emosafe_contrast_pairs"], max_class_share=1.0, balance_sources=False)
    )
    rows = merged.rows[merged.rows["source"] == "emosafe_contrast_pairs"]
    assert len(rows) == len(PAIRS)
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    assert rows.groupby("group").size().min() >= 2
