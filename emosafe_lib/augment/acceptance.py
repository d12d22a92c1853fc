"""Which replies become rows: every check has a name, and every rejected reply is counted under one name.

The checks run from cheap to dear, and the first that fails gives the reason. The last ones look at all replies at once:
near-duplicates of anything in the dataset (a copy of a test row in training would spoil the test), a second judge, and
the share of every class.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pandas as pd

from emosafe_lib.augment import tactics
from emosafe_lib.augment.diversity import ngrams
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.requests import Request, Shares, positive_categories
from emosafe_lib.augment.tactics import MOST_CHARACTERS, Reply, parse_reply
from emosafe_lib.data import cleaning, pseudonyms
from emosafe_lib.data.near_duplicates import near_duplicate_pairs
from emosafe_lib.evaluation.baselines import words_pipeline
from emosafe_lib.models.completion import same_model
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.taxonomy import CATEGORIES, ROW_COLUMNS, SAFETY_LEVELS

REASONS = {
    "not_recorded": "no answer on record",
    "api_error": "the server failed; a rerun asks again",
    "other_model": "another model answered than was asked",
    "no_choices": "the answer held no message",
    "refusal": "the model refused",
    "content_filter": "the server's filter cut in",
    "length": "cut off at the token limit",
    "schema": "not one JSON object of the schema",
    "wrong_id": "answers another request",
    "wrong_tactic": "names another tactic",
    "language": "not English",
    "length_ratio": "too short or too long for its parent",
    "unfit": "would be quarantined by the merge",
    "identifier": "holds an identifier",
    "echo": "repeats its parent",
    "level": "missed the target level by its own judgement",
    "category": "adds a risk, or lost all that its level needs",
    "near_duplicate": "too close to a row or to another reply",
    "second_judge": "the second judge sees another level",
    "class_share": "its class has its share already",
}
Judge = Callable[[list[str]], list[str]]

ENGLISH_SHARE = 0.25  # function words among all words; other languages stay well below it
LENGTH_RATIO = (0.3, 4.0)
LENGTH_FLOOR, LENGTH_CEILING = 12, 80  # words; a shorter or longer parent is treated as of this length
ECHO_SHARE = 0.4  # of the reply's word triples that stand in the parent
NEAR_JACCARD = 0.7


@cache
def function_words() -> frozenset[str]:
    """scikit-learn's English stop words, and the common contractions without their apostrophe."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS) | set("im ive dont cant didnt isnt wont its id ill youre".split())


def is_english(text: str) -> bool:
    """Whether enough of the words are English function words: crude, quick, and without a model."""
    words = re.findall(r"[^\W\d_]+", re.sub("['’]", "", text.lower()))
    return bool(words) and sum(word in function_words() for word in words) / len(words) >= ENGLISH_SHARE


def fits_length(text: str, parent: str) -> bool:
    """Whether the number of words is in proportion to the parent's."""
    base = min(max(len(parent.split()), LENGTH_FLOOR), LENGTH_CEILING)
    return LENGTH_RATIO[0] <= len(text.split()) / base <= LENGTH_RATIO[1]


def triples(text: str) -> set[tuple]:
    """The word triples of a text, without regard to case and punctuation."""
    return set(ngrams(text, 3))


def is_echo(text: str, parent: str) -> bool:
    """Whether a reply repeats its parent, in whole or in good part."""
    if cleaning.comparison_key(text) == cleaning.comparison_key(parent):
        return True
    mine = triples(text)
    return bool(mine) and len(mine & triples(parent)) / len(mine) >= ECHO_SHARE


def fits_categories(reply: Reply, parent) -> bool:
    """A re-interpretation adds no risk that its parent was asked about and denies; a safe one has none at all; one that
    keeps its parent's level keeps a category too.
    """
    mine, known = set(reply.categories), set(positive_categories(parent))
    if reply.level == "safe":
        return not mine
    mine -= {name for name, asked in zip(CATEGORIES, parent.category_known, strict=True) if not asked}
    return mine <= known and (bool(mine) or not known or reply.level != parent.safety)


def check(request: Request, answer: Answer, parent, model: str = "") -> tuple[str, Reply | None]:
    """The first reason against one answer ("" if there is none), and the parsed reply.

    `model` names the only model whose answers count; empty accepts any.
    """
    if answer.outcome != "ok":
        return answer.outcome, None
    if model and not same_model(model, answer.model):
        return "other_model", None
    reply = parse_reply(answer.content or "")
    if reply is None:
        return "schema", None
    text = cleaning.display_text(reply.text)
    checks = {
        "wrong_id": lambda: reply.id == request.short_id,
        "wrong_tactic": lambda: reply.tactic == request.tactic,
        "language": lambda: is_english(text),
        "length_ratio": lambda: fits_length(text, parent.text),
        "unfit": lambda: isinstance(cleaning.admitted(reply.text, MOST_CHARACTERS), str),
        "identifier": lambda: not pseudonyms.has_identifier(text),
        "echo": lambda: not is_echo(text, parent.text),
        "level": lambda: reply.level == request.level,
        "category": lambda: fits_categories(reply, parent),
    }
    return next((reason for reason, passes in checks.items() if not passes()), ""), reply


def near_duplicates(texts: list[str], dataset: list[str]) -> np.ndarray:
    """Which texts are near-duplicates of a dataset row or of an earlier text that was kept, shape (n,), bool."""
    keys = [cleaning.comparison_key(text) for text in (*dataset, *texts)]
    start, repeated = len(dataset), np.zeros(len(texts), dtype=bool)
    pairs = near_duplicate_pairs(keys, NEAR_JACCARD)
    for one, other in sorted(pairs[pairs[:, 1] >= start].tolist(), key=lambda pair: pair[1]):
        repeated[other - start] |= one < start or not repeated[one - start]
    return repeated


def as_row(request: Request, reply: Reply, parent) -> dict:
    """An accepted reply as a row of the dataset; what the parent's source never asked stays unknown."""
    known = [bool(flag) for flag in parent.category_known]
    return {
        "id": f"{request.parent_id}~{request.tactic}-{request.ending}",
        "text": cleaning.prepared(reply.text, MOST_CHARACTERS),
        "source": parent.source,
        "source_label": f"reinterpretation: {request.tactic}, {request.ending}",
        "emotion": reply.emotion_after.lower(),
        "safety": request.level,
        "categories": [asked and name in reply.categories for name, asked in zip(CATEGORIES, known, strict=True)],
        "category_known": known,
        "group": parent.group,
        "split": parent.split,
        "origin": "reinterpretation",
        "parent_id": request.parent_id,
    }


def touched(row: dict) -> list[str]:
    """The categories that a new row touches."""
    return [name for name, flag in zip(CATEGORIES, row["categories"], strict=True) if flag]


def candidates(requests, answers: dict[str, Answer], rows: pd.DataFrame, model: str, rejected: Counter) -> list[dict]:
    """The replies that pass every check of their own, as rows; the others are counted."""
    wanted = {request.parent_id for request in requests}
    parents = {row.id: row for row in rows[rows["id"].isin(wanted)].itertuples(index=False)}
    passed = []
    for request in requests:
        parent = parents[request.parent_id]
        reason, reply = check(request, answers.get(request.key) or Answer(request.key, "not_recorded"), parent, model)
        if reason:
            rejected[reason] += 1
        else:
            passed.append(as_row(request, reply, parent))
    return passed


def without(rows: list[dict], bad: Iterable, reason: str, rejected: Counter) -> list[dict]:
    """The rows that are not marked bad; the others are counted."""
    kept = [row for row, marked in zip(rows, bad, strict=True) if not marked]
    rejected[reason] += len(rows) - len(kept)
    return kept


def accept(
    requests: list[Request],
    answers: dict[str, Answer],
    rows: pd.DataFrame,
    params: AugmentationParams,
    judge: Judge | None = None,
) -> tuple[pd.DataFrame, Counter]:
    """Turn answers into rows.

    Parameters
    ----------
    answers : by request key; a request without one counts as not_recorded
    rows : the whole dataset, all splits
    judge : texts -> levels; where given, its level must equal the target too

    Returns
    -------
    The accepted rows (columns of `rows.row_features`), and how many were rejected for each of `REASONS`
    """
    rejected: Counter = Counter()
    asked = tactics.settings(params)["model"] if params.strict_model else ""
    kept = candidates(requests, answers, rows, asked, rejected)
    repeated = near_duplicates([row["text"] for row in kept], rows["text"].tolist())
    kept = without(kept, repeated, "near_duplicate", rejected)
    if judge and kept:
        said = judge([row["text"] for row in kept])
        missed = [level != row["safety"] for level, row in zip(said, kept, strict=True)]
        kept = without(kept, missed, "second_judge", rejected)
    shares = Shares(rows, params.max_share)
    full = [not shares.admit(row["safety"], touched(row)) for row in kept]
    kept = without(kept, full, "class_share", rejected)
    return pd.DataFrame(kept, columns=list(ROW_COLUMNS)), rejected


def local_judge(rows: pd.DataFrame) -> Judge:
    """A second judge that needs no network: TF-IDF and logistic regression, fitted on the training rows."""
    from sklearn.linear_model import LogisticRegression

    train = rows[(rows["split"] == "train") & (rows["origin"] != "reinterpretation")]
    classifier = LogisticRegression(C=4, max_iter=1000, class_weight="balanced")
    model = words_pipeline(train["text"], classifier).fit(train["text"], train["safety"])
    return lambda texts: model.predict(texts).tolist()


def agreement(asked: list[str], said: list[str]) -> tuple[pd.DataFrame, float | None]:
    """How far a judge agrees with the levels that were asked for.

    Returns
    -------
    Counts by level asked for (index) and level said (columns), zeros included, and the share of rows where both are the
    same, None without rows
    """
    axes = {"index": pd.Index(SAFETY_LEVELS, name="asked for"), "columns": pd.Index(SAFETY_LEVELS, name="second judge")}
    counts = pd.DataFrame(0, **axes)
    for (target, level), n in Counter(zip(asked, said, strict=True)).items():
        counts.loc[target, level] = n
    return counts, float(counts.to_numpy().trace()) / len(asked) if len(asked) else None
