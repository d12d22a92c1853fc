"""The judge that notebook 02 writes out, against the library's: on replies that a chat model may give, templates never."""

import ast
import itertools
import json
from types import SimpleNamespace

import pytest
from augment_cases import flags, row, text_of
from course import NOTEBOOKS, code_of

from emosafe_lib.augment import acceptance
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.requests import positive_categories
from emosafe_lib.data import cleaning, pseudonyms
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

RISKS = ("violence_hate", "suicide_self_harm")
SUBSETS = [list(some) for n in range(3) for some in itertools.combinations(RISKS, n)]
TEXT = "Since then I take the whole thing more lightly, and I can even smile about how it used to be."
REQUEST = SimpleNamespace(key="k", short_id="abc", tactic="distancing", level="borderline")
REPLY = {"id": "abc", "text": TEXT, "tactic": "distancing", "emotion_before": "sad", "emotion_after": "calm"}


@pytest.fixture(scope="module")
def judge():
    """`judge` as it stands in a cell of the notebook, with the `triples` that it calls."""
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith("02_"))
    (source,) = (source for source in code_of(path) if "def judge(" in source)
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    names = {"cleaning": cleaning, "pseudonyms": pseudonyms, "positive_categories": positive_categories}
    names["CATEGORIES"] = CATEGORIES
    exec(compile(ast.Module(functions, []), path.name, "exec"), names)
    return names["judge"]


def parent_of(level, categories, asked=True):
    return SimpleNamespace(**row(1, safety=level, categories=flags(*categories), category_known=[asked] * 6))


def verdicts(judge, reply, parent):
    """The first rule that each of the two finds broken, "" where none is."""
    theirs, _ = acceptance.check(REQUEST, Answer("k", "ok", json.dumps(reply)), parent)
    return next((rule for rule, passes in judge(reply, REQUEST, parent).items() if not passes), ""), theirs


@pytest.mark.parametrize("level", SAFETY_LEVELS)
def test_they_agree_about_the_categories_of_every_reply(judge, level, monkeypatch):
    monkeypatch.setattr(REQUEST, "level", level)
    broken = set()
    for before, had, names in itertools.product(SAFETY_LEVELS, SUBSETS, SUBSETS):
        ours, theirs = verdicts(judge, REPLY | {"level": level, "categories": names}, parent_of(before, had))
        assert ours == theirs, (before, had, names)
        broken.add(theirs)
    for before, names in itertools.product(SAFETY_LEVELS, SUBSETS):
        ours, theirs = verdicts(
            judge, REPLY | {"level": level, "categories": names}, parent_of(before, [], asked=False)
        )
        assert ours == theirs == ("category" if names and level == "safe" else ""), (before, names)
    assert broken == {"", "category"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, ""),
        ({"id": "other"}, "wrong_id"),
        ({"tactic": "agency"}, "wrong_tactic"),
        ({"text": "I am fine."}, "length_ratio"),
        ({"text": TEXT + " Write to me at someone@example.org."}, "identifier"),
        ({"text": text_of(1)}, "echo"),
        ({"level": "safe"}, "level"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_they_agree_about_every_other_rule(judge, change, rule):
    reply = REPLY | {"level": "borderline", "categories": []} | change
    assert verdicts(judge, reply, parent_of("borderline", ())) == (rule, rule)
