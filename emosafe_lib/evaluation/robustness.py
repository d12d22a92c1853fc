"""Does an answer survive another spelling, and does it turn where the meaning does: messages altered by rules.

A rule changes a message in one respect, and a control makes an edit of the same size, in the same place, that should not
matter. How often an answer changes is counted for both on the same messages; only what a rule does beyond its control
is its own. The first rules leave the meaning alone, so that changes are faults; negation and tense alter it, so that an
answer that never moves is one. Rules know English word by word and no more: each row says how many messages it reached.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.bootstrap import Bootstrap, by_group
from emosafe_lib.evaluation.metrics import UNDEFINED, ratio
from emosafe_lib.evaluation.paired_tests import difference
from emosafe_lib.study.rows import stable_unit

Edit = Callable[[str], str]
FEWEST_GROUPS = 10
EVERY = 5  # of the words that are long enough, one in so many is touched
LONG = re.compile(r"[A-Za-z]{5,}")
EMOJI = " \U0001f602"
CHAT = {"you": "u", "are": "r", "your": "ur", "because": "cuz", "please": "pls", "people": "ppl", "going to": "gonna"}
CHAT |= {"want to": "wanna", "i am": "im", "do not": "dont", "cannot": "cant", "to": "2", "for": "4", "really": "rly"}
PAST = {"am": "was", "is": "was", "are": "were", "have": "had", "has": "had", "do": "did", "does": "did"}
PAST |= {"can": "could", "will": "would", "feel": "felt", "want": "wanted", "need": "needed", "think": "thought"}
PAST |= {"hate": "hated", "know": "knew", "say": "said", "make": "made", "get": "got", "go": "went", "i'm": "i was"}
AUXILIARY = ("am", "is", "are", "was", "were", "will", "would", "can", "could", "should", "must", "i'm")


def words_of(names) -> re.Pattern:
    """A pattern for whole words, longer phrases first."""
    listed = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w'])(?:{'|'.join(map(re.escape, listed))})(?![\w'])", re.IGNORECASE)


CHAT_WORDS, PAST_WORDS = words_of(CHAT), words_of(PAST)
AUXILIARY_WORDS = re.compile(words_of(AUXILIARY).pattern + r"(?!\s+not\b)", re.IGNORECASE)


def at_long_words(change: Edit) -> Edit:
    """An edit of one long word in `EVERY`, the first always among them; which ones depends on the message alone."""

    def edit(text: str) -> str:
        first = int(stable_unit(text, "robustness") * EVERY)
        places = [match.span() for match in LONG.finditer(text)]
        for start, end in reversed(places[min(first, max(0, len(places) - 1)) :: EVERY]):
            text = text[:start] + change(text[start:end]) + text[end:]
        return text

    return edit


def swapped(word: str) -> str:
    """A word with two inner letters exchanged.

    >>> swapped("remember")
    'remmeber'
    """
    middle = len(word) // 2
    return word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]


def replaced(pattern: re.Pattern, table: dict[str, str]) -> Edit:
    """Every listed word by its counterpart."""
    return lambda text: pattern.sub(lambda match: table[match.group().lower()], text)


def after(pattern: re.Pattern, word: str, count: int = 1) -> Edit:
    """A word put behind the first `count` listed ones; behind all where it is 0."""
    return lambda text: pattern.sub(lambda match: f"{match.group()} {word}", text, count=count)


class Rule(NamedTuple):
    """A change, its neutral control of the same place and size, and whether the meaning stays."""

    change: Edit
    control: Edit
    meaning_stays: bool = True


WIDER = at_long_words(lambda word: word + " ")
RULES = {
    "typos": Rule(at_long_words(swapped), WIDER),
    "upper case": Rule(str.upper, lambda text: text[:1].upper() + text[1:]),
    "letters apart": Rule(at_long_words(" ".join), WIDER),
    "emoji": Rule(lambda text: text + EMOJI, lambda text: text + " ."),
    "chat register": Rule(replaced(CHAT_WORDS, CHAT), after(CHAT_WORDS, "", count=0)),
    "negation": Rule(after(AUXILIARY_WORDS, "not"), after(AUXILIARY_WORDS, "also"), meaning_stays=False),
    "past tense": Rule(replaced(PAST_WORDS, PAST), after(PAST_WORDS, "now", count=0), meaning_stays=False),
}
COLUMNS = ["rule", "meaning_stays", "rows", "changed", "changed_control", "value", "low", "high", "p", "towards_unsafe"]


def altered_answers(
    predict: Callable[[list[str]], np.ndarray], rows: pd.DataFrame, resamples: int = 2000, confidence: float = 0.95
) -> pd.DataFrame:
    """How often each rule changes a classifier's level, beyond its control, on the messages that the rule reaches.

    Parameters
    ----------
    predict : texts to level probabilities (n, 3)
    rows : merged rows

    Returns
    -------
    one row a rule, columns `COLUMNS`: rows reached; shares of answers that change under the rule and under its control;
    their paired difference `value` with its interval over groups and p-value, undefined for fewer than `FEWEST_GROUPS`
    groups, which may all change alike and would look certain; and how far the probability of unsafe
    moves on average (rule minus control)
    """
    texts, found = rows["text"].tolist(), []
    plain = predict(texts)
    for name, rule in RULES.items():
        changed = [rule.change(text) for text in texts]
        reached = np.array([new != old for new, old in zip(changed, texts, strict=True)])
        row = {"rule": name, "meaning_stays": rule.meaning_stays, "rows": int(reached.sum())}
        if reached.any():
            here = np.flatnonzero(reached)
            by_rule, by_control = (
                predict([edited[place] for place in here])
                for edited in (changed, [rule.control(text) for text in texts])
            )
            row |= beyond_control(
                plain[here], by_rule, by_control, rows["group"].to_numpy()[here], resamples, confidence
            )
        found.append(row)
    return pd.DataFrame(found, columns=COLUMNS)


def beyond_control(plain, by_rule, by_control, groups, resamples: int, confidence: float) -> dict:
    """The paired comparison of one rule with its control, from probabilities (n, 3) of the same messages."""
    level = plain.argmax(axis=1)
    moved, still = (each.argmax(axis=1) != level for each in (by_rule, by_control))
    bootstrap = Bootstrap(groups, resamples)
    sums = by_group(
        np.column_stack([moved.astype(float) - still, np.ones(len(level))]), bootstrap.codes, bootstrap.groups
    )
    total = bootstrap.counts.astype(np.float32) @ sums
    draws = ratio(total[:, 0], total[:, 1]) if bootstrap.groups >= FEWEST_GROUPS else np.full(resamples, UNDEFINED)
    gap = difference(float(moved.mean() - still.mean()), draws, confidence)
    row = {"changed": moved.mean(), "changed_control": still.mean(), "value": gap.value}
    row |= {"low": gap.low, "high": gap.high, "p": gap.p}
    return row | {"towards_unsafe": float((by_rule - by_control)[:, 2].mean())}


def in_words(table: pd.DataFrame) -> str:
    """Which edits that leave the meaning alone change answers, and whether negation does."""
    known = table.dropna(subset=["value"]).set_index("rule")
    faults = known[known["meaning_stays"].astype(bool) & (known["low"] > 0)]
    said = ", ".join(f"{row.Index} ({row.value:+.0%})" for row in faults.itertuples()) or "none of them"
    lead = f"Edits that leave the meaning alone and change answers beyond their controls (each by its own interval): {said}."
    if "negation" not in known.index:
        return lead
    row = known.loc["negation"]
    return (
        f'{lead} A "not" changes {row["changed"]:.0%} of answers, an "also" in its place '
        f"{row['changed_control']:.0%}, of {row['rows']:.0f} messages."
    )
