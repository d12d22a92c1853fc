"""The helpline of the embedded sample: the merge finds what was planted in it and nothing else, and its name tells
something without telling all.
"""

import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from test_sample import NOT_ADULT, SAMPLE, words

from emosafe_lib.data import cleaning, duplicates, merge, near_duplicates
from emosafe_lib.data.sources.embedded import BOXES, TRIAGE
from emosafe_lib.evaluation import shortcuts
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.paths import ASSETS
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, SPLITS

FILE = ASSETS / "sample" / "helpline.jsonl"
LINES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
DATA = load_study("sample").data
NAME = "emosafe_helpline_sample"
RESERVED = re.compile(r"\bexample\.org\b|\b555\W01\d\d\b")
ACCOUNT = re.compile(r"(?<![\w.])@\w+|\bu/\w+")


@pytest.fixture(scope="module")
def merged():
    return merge.merge(DATA)


def told(key: str) -> int:
    """The number that the data card's tables give for a key."""
    card = (ASSETS / "sample" / "README.md").read_text(encoding="utf-8")
    return int(re.search(rf"^\| `{key}` \|.*?(\d+) \|$", card, re.MULTILINE).group(1))


def test_every_line_has_the_fields_and_only_known_values():
    for number, line in enumerate(LINES, start=1):
        assert list(line) == ["line", "chat", "from", "said", "triage", "boxes"]
        assert line["line"] == f"h{number:04d}" and re.fullmatch(r"k\d{3}", line["chat"])
        assert line["triage"] in TRIAGE and set(line["boxes"]) <= set(BOXES), line["line"]
        assert (line["from"] == "desk") == (line["triage"] in ("counsellor", "test")) or line[
            "triage"
        ] == "wrong number"
        assert not line["boxes"] or line["triage"] in ("call back", "hand over now"), line["line"]


def test_lines_are_canonical_json_in_plain_ascii():
    assert FILE.read_bytes().decode("ascii") == "".join(json.dumps(line) + "\n" for line in LINES)


def test_only_adults_are_mentioned():
    assert [line["line"] for line in LINES if NOT_ADULT.search(line["said"])] == []


def test_identifiers_are_reserved_ones_or_user_names():
    raw = [line["said"] for line in LINES]
    marked = [text for text in raw if cleaning.prepared(text, 1000) != cleaning.display_text(text)]
    marked = [text for text in marked if isinstance(cleaning.prepared(text, 1000), str)]
    assert len(marked) == told("identifiers")
    assert all(RESERVED.search(text) or ACCOUNT.search(text) for text in marked)
    assert all(RESERVED.search(text) for text in raw if re.search(r"\w@\w|https?:|(?:\d\W?){7}", text))


def test_the_data_card_tells_how_the_desk_sorted():
    found = Counter(line["triage"] for line in LINES)
    assert told("helpline") == len(LINES)
    assert {key: told(key) for key in ("closed", "call back", "hand over now", "counsellor")} == {
        key: found[key] for key in found if key not in ("test", "wrong number")
    }
    assert told("test`, `wrong number") == found["test"] + found["wrong number"]


def test_the_merge_finds_what_was_planted_and_nothing_else(merged):
    card = merged.card
    assert told("set aside") == card["quarantined"] and len(card["quarantined_by_reason"]) == 3
    assert told("identifiers") == card["identifiers_scrubbed"]
    assert told("duplicates") == card["exact_duplicates"]
    assert {f"{NAME} + emosafe_sample": told("shared")} == card["duplicates_between"]
    assert told("conflicts") == card["conflicts"]
    assert told("near-duplicates") == card["near_duplicate_pairs"]
    assert card["small_talk"] == 2 and card["left_out_by_name"] == {NAME: {"test": 2, "wrong number": 2}}


def test_no_other_lines_come_close_to_each_other():
    """Far below the threshold the finder meets the same pairs, and one hard pair of the sample."""
    raw, _ = merge.read_sources(DATA)
    rows = duplicates.join_duplicates(cleaning.prepare_rows(raw)[0])[0]
    pairs = near_duplicates.near_duplicate_pairs(rows["key"].tolist(), 0.5)
    outside = [pair for pair in pairs if any(rows["source"].iloc[pair] == NAME)]
    assert len(outside) == told("near-duplicates")


def test_the_rows_of_the_first_source_are_all_still_there(merged):
    own = merged.rows[merged.rows["source"] == "emosafe_sample"]
    assert len(SAMPLE) - len(own) <= told("shared")
    assert (merged.rows["origin"] == "synthetic").all()


@pytest.mark.parametrize("split", SPLITS)
def test_every_level_of_both_sources_is_in_every_split(merged, split):
    part = merged.rows[merged.rows["split"] == split]
    counts = pd.crosstab(part["source"], part["safety"])
    assert counts.shape == (2, 3) and counts.to_numpy().min() >= 10
    assert merged.card["warnings"] == []


def test_no_level_dominates_the_study(merged):
    shares = merged.rows["safety"].value_counts(normalize=True)
    assert shares.max() < 0.4 and shares.min() > 0.28


def test_the_name_tells_something_and_the_words_tell_more(merged):
    found = shortcuts.report(merged.rows)
    name, words_alone = (found[reader]["safety_macro_f1"] for reader in ("source_only", "text"))
    majority = 2 / 3 * (share := (merged.rows["safety"] == "safe").mean()) / (1 + share)
    assert majority + 0.05 < name < words_alone < 0.85
    told_by_words = found["source_from_text"]
    assert told_by_words["largest_source_accuracy"] + 0.03 < told_by_words["accuracy"] < 0.95
    assert all(value < words_alone for value in found["left_out_source"].values())


def test_the_register_is_another():
    """Lines are shorter than messages, and hardly any begins with a capital."""
    said = [line["said"] for line in LINES if words(line["said"])]
    assert np.median([len(words(text)) for text in said]) < np.median([len(words(row["text"])) for row in SAMPLE])
    assert np.mean([text[0].isupper() for text in said]) < 0.05


@pytest.mark.parametrize("level", SAFETY_LEVELS)
def test_what_the_form_never_asked_is_unknown(merged, level):
    part = merged.rows[(merged.rows["source"] == NAME) & (merged.rows["safety"] == level)]
    lines = part[~part["source_label"].str.contains(" | ", regex=False)]
    known = np.array(lines["category_known"].to_list())
    assert known.mean(axis=0).tolist() == [1, 1, 0, 1, 1, 0]
