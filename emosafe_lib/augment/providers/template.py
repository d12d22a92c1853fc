"""The `template` provider: re-tellings without a language model, for machines without a network and for the tests.

It is deterministic, costs nothing, and says what it is: its model is called `template-<version>` on every card. It
takes from its parent only the level, the categories, the emotion and one coarse topic found by keywords, and never a
word of the text, so its rows can come from sources whose texts may not be shown. It judges its own text by
construction; a judgement that means something needs the second judge.
"""

import json
import re
from collections.abc import Iterator

import pandas as pd

from emosafe_lib.augment.providers import phrases
from emosafe_lib.augment.requests import Request, positive_categories
from emosafe_lib.study.rows import stable_unit

WORDS_AT_MOST = 3.5  # times the parent's words, below what acceptance allows; the sentences end there
SHORTEST = 12


def choose(options, *salt: str):
    """One of the options, by a hash of the salt."""
    return options[int(stable_unit("\x00".join(salt), "template") * len(options))]


def topic_of(text: str, categories: list[str]) -> str:
    """A coarse topic: the row's first category, else the topic with the most keywords, else "general"."""
    if categories:
        return categories[0]
    words = set(re.findall(r"[a-z]+", text.lower()))
    hits = {topic: len(words & set(keys.split())) for topic, keys in phrases.KEYWORDS.items()}
    best = max(hits, key=lambda topic: hits[topic])
    return best if hits[best] else "general"


def emotion_of(row, salt: str) -> str:
    """The parent's emotion where it is a noun that fits a sentence, else one by chance."""
    emotion = str(row.emotion).lower() if isinstance(row.emotion, str) else ""
    return emotion if emotion in phrases.EMOTION_NOUNS else choose(phrases.DEFAULT_EMOTION, salt, "emotion")


def sentences(row, request: Request, emotion: str) -> list[str]:
    """Opening, what is left of the risk or of everyday life, a question if the parent asked one, the tactic's move."""
    touched, salt = positive_categories(row)[:2], request.key
    topic = choose(phrases.TOPICS[topic_of(row.text, touched)], salt, "topic")
    opener = choose(phrases.OPENERS[request.ending], salt, "opener").format(emotion=emotion, topic=topic)
    rest = [choose(phrases.RESIDUE[name][request.level], salt, name) for name in touched]
    if not rest:
        rest = [choose(phrases.CLOSINGS[request.ending], salt, "closing")]
    if "?" in row.text:
        rest.append(choose(phrases.QUESTIONS[request.ending], salt, "question"))
    return [opener[0].upper() + opener[1:], *rest, choose(phrases.MOVES[request.tactic][request.ending], salt, "move")]


def compose(parts: list[str], parent_words: int, salt: str) -> str:
    """Join the sentences, the last one (the tactic) in second or first place; what is too long for the parent goes."""
    *others, move = parts
    others.insert(choose((0, 1, 1), salt, "order"), move)
    budget = WORDS_AT_MOST * max(parent_words, SHORTEST)
    while len(others) > 2 and sum(len(part.split()) for part in others) > budget:
        others.pop()
    return " ".join(others)


def answer(row, request: Request) -> str:
    """The reply to one request, in the JSON that a chat model would have sent.

    `row` is the parent as a named tuple of `DataFrame.itertuples`.
    """
    emotion = emotion_of(row, request.key)
    reply = {
        "id": request.short_id,
        "text": compose(sentences(row, request, emotion), len(row.text.split()), request.key),
        "tactic": request.tactic,
        "emotion_before": emotion,
        "emotion_after": choose(phrases.EMOTION_AFTER[request.ending], request.key, "after"),
        "level": request.level,
        "categories": [] if request.level == "safe" else positive_categories(row)[:2],
    }
    return json.dumps(reply)


def answers(rows: pd.DataFrame, requests: list[Request]) -> Iterator[tuple[Request, str]]:
    """(request, reply text) for every request; `rows` holds all parents."""
    wanted = {request.parent_id for request in requests}
    by_id = {row.id: row for row in rows[rows["id"].isin(wanted)].itertuples(index=False)}
    for request in requests:
        yield request, answer(by_id[request.parent_id], request)
