"""What a language model is asked, word by word, and how a message stays data inside the question.

A prompt is a constant beginning (instructions, definitions, exemplars), one message between delimiters, and one or more
questions. The pieces are tokenised separately: whatever a message contains, it can neither open a chat turn nor merge
with the words around it, and its control-like strings are spelled out as plain characters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd

from emosafe_lib.errors import PromptError
from emosafe_lib.rows import category_matrix, known_matrix, stable_unit
from emosafe_lib.taxonomy import CATEGORIES, CATEGORY_TABLE, SAFETY_DEFINITIONS, SAFETY_LEVELS

FENCE = '"""'
GAP = " [...] "
CONTENT_FREE = ("N/A", "", "[MASK]")

VERBALIZERS = {"safety": SAFETY_LEVELS, "categories": ("yes", "no")}

SAFETY_LIST = "\n".join(f"{level}: {text}" for level, text in SAFETY_DEFINITIONS.items())
CATEGORY_LIST = "\n".join(f"{category.title}: {category.definition}" for category in CATEGORY_TABLE)

# Three wordings of each task, so that sensitivity to wording is measured instead of being luck.
INSTRUCTIONS = {
    ("safety", "plain"): f"How emotionally safe is the message? Levels:\n{SAFETY_LIST}",
    ("safety", "guard"): (
        "Task: check whether there is unsafe content in the message below according to our safety policy.\n"
        f"<policy>\n{SAFETY_LIST}\n</policy>"
    ),
    ("safety", "careful"): (
        "You listen to people who may be distressed. Judge what the writer of the message means, not single words.\n"
        f"Choose one level.\n{SAFETY_LIST}"
    ),
    ("categories", "plain"): f"Which risks does the message touch? Categories:\n{CATEGORY_LIST}",
    ("categories", "guard"): (
        "Task: check whether the message below falls into one of our unsafe content categories.\n"
        f"<categories>\n{CATEGORY_LIST}\n</categories>"
    ),
    ("categories", "careful"): (
        "You listen to people who may be distressed. Judge what the writer of the message means, not single words.\n"
        f"Decide for one category at a time.\n{CATEGORY_LIST}"
    ),
}
VARIANTS = ("plain", "guard", "careful")
QUESTIONS = {
    "safety": ("Answer with one word: safe, borderline or unsafe.",),
    "categories": tuple(f"Category: {category.title}. Answer yes or no." for category in CATEGORY_TABLE),
}


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids, ready for a message.

    Attributes
    ----------
    prefix : ids that stand before every message
    suffixes : one tuple of ids per question (1 for safety, 6 for categories), ending where the answer begins
    answers : ids of each verbalizer (3 for safety, 2 for yes and no)
    exemplar_ids : ids of the rows shown as examples, in order
    max_text_tokens : longer messages are cut in the middle
    """

    prefix: tuple[int, ...]
    suffixes: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    exemplar_ids: tuple[str, ...]
    max_text_tokens: int


@dataclass(frozen=True)
class Turn:
    """One exemplar: a message, a question and the right answer."""

    row_id: str
    text: str
    question: str
    answer: str


def wrap(text: str) -> str:
    """A message between fences; a fence inside the message is turned into apostrophes."""
    return f"Message:\n{FENCE}\n{text.replace(FENCE, chr(39) * 3)}\n{FENCE}\n"


@contextmanager
def control_tokens_as_text(tokenizer) -> Iterator[None]:
    """While the block runs, strings such as `<|eot_id|>` are tokenised as characters."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True
    try:
        yield
    finally:
        backend.encode_special_tokens = before


def encode_plain(tokenizer, text: str) -> list[int]:
    """Token ids of a text in which nothing is a control token."""
    with control_tokens_as_text(tokenizer):
        return tokenizer(text, add_special_tokens=False)["input_ids"]


def chat_frame(tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Token ids (before a user's words, between them and the answer, after the answer).

    Taken from the tokenizer's own chat template by rendering it around placeholders; a tokenizer without one gets a
    plain question-and-answer frame.
    """
    if not getattr(tokenizer, "chat_template", None):
        plain = [encode_plain(tokenizer, piece) for piece in ("", "\nAnswer: ", "\n\n")]
        bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return bos + plain[0], plain[1], plain[2]
    turn = [{"role": "user", "content": "@@U@@"}, {"role": "assistant", "content": "@@A@@"}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False)
    opened = tokenizer.apply_chat_template(turn[:1], tokenize=False, add_generation_prompt=True)
    before, _, _ = rendered.partition("@@U@@")
    between = opened.partition("@@U@@")[2]
    after = rendered.partition("@@A@@")[2]
    return tuple(tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in (before, between, after))


def chat(tokenizer, turns: list[tuple[str, str | None]]) -> list[int]:
    """Token ids of a conversation `[(user, answer), ...]`; a last answer of None leaves its place open."""
    before, between, after = chat_frame(tokenizer)
    ids: list[int] = []
    for number, (user, answer) in enumerate(turns):
        ids += without_bos(tokenizer, before) if number else before
        ids += encode_plain(tokenizer, user) + between
        ids += encode_plain(tokenizer, answer) + after if answer is not None else []
    return ids


def without_bos(tokenizer, ids: list[int]) -> list[int]:
    """The ids without a beginning-of-sequence token in front: a later turn must not start a new text."""
    return ids[1:] if ids and ids[0] == tokenizer.bos_token_id else ids


def build(tokenizer, task: str, variant: str, turns: list[Turn] = (), max_text_tokens: int = 256) -> Prompt:
    """The prompt of a task in one wording, zero-shot without `turns` and few-shot with them.

    Raises
    ------
    PromptError : the wording is unknown
    """
    if (task, variant) not in INSTRUCTIONS:
        raise PromptError(f"prompt {task}/{variant}", "no such wording", f"use one of {', '.join(VARIANTS)}")
    before, between, after = chat_frame(tokenizer)
    opening, closing = (encode_plain(tokenizer, piece) for piece in wrap("\x00").split("\x00"))
    prefix = before + encode_plain(tokenizer, INSTRUCTIONS[task, variant] + "\n\n")
    for turn in turns:
        text = cut(encode_plain(tokenizer, wrap_inner(turn.text)), max_text_tokens // 2, tokenizer)
        prefix += opening + text + closing + encode_plain(tokenizer, turn.question) + between
        prefix += encode_plain(tokenizer, turn.answer) + after + without_bos(tokenizer, before)
    suffixes = [closing + encode_plain(tokenizer, question) + between for question in QUESTIONS[task]]
    answers = [tuple(encode_plain(tokenizer, word)) for word in VERBALIZERS[task]]
    return Prompt(
        prefix=tuple(prefix + opening),
        suffixes=tuple(tuple(suffix) for suffix in suffixes),
        answers=tuple(answers),
        exemplar_ids=tuple(dict.fromkeys(turn.row_id for turn in turns)),
        max_text_tokens=max_text_tokens,
    )


def wrap_inner(text: str) -> str:
    """A message as it stands between the fences."""
    return text.replace(FENCE, "'''")


def cut(ids: list[int], limit: int, tokenizer) -> list[int]:
    """Ids of at most `limit` tokens: beginning and end are kept, the middle gives way to a gap mark."""
    if len(ids) <= limit:
        return ids
    gap = encode_plain(tokenizer, GAP)
    kept = max(2, limit - len(gap))
    return ids[: kept - kept // 2] + gap + ids[len(ids) - kept // 2 :]


def encode_messages(tokenizer, texts: list[str], limit: int) -> tuple[list[list[int]], list[str]]:
    """Token ids of messages, cut to the limit, and each one's outcome ("ok" or "truncated")."""
    encoded = [encode_plain(tokenizer, wrap_inner(text)) for text in texts]
    outcomes = ["truncated" if len(ids) > limit else "ok" for ids in encoded]
    return [cut(ids, limit, tokenizer) for ids in encoded], outcomes


def draw_exemplars(rows: pd.DataFrame, task: str, per_class: int, seed: int, longest: int = 60) -> list[Turn]:
    """Balanced exemplars from training groups: `per_class` rows per level, or per category and answer.

    The draw depends on the row ids and the seed alone. Short messages are preferred (at most `longest` words), so that
    a prompt stays small.

    Raises
    ------
    PromptError : a row is not from train, or a class has too few rows
    """
    if (rows["split"] != "train").any():
        wrong = rows.loc[rows["split"] != "train", "id"].iloc[0]
        raise PromptError(f"row {wrong}", "an exemplar must come from train", "pass training rows only")
    rows = rows[rows["text"].str.split().str.len() <= longest]
    order = rows["id"].map(lambda value: stable_unit(value, f"exemplar-{seed}")).to_numpy().argsort(kind="stable")
    rows = rows.iloc[order]
    turns = safety_turns(rows, per_class) if task == "safety" else category_turns(rows, per_class)
    return sorted(turns, key=lambda turn: stable_unit(turn.row_id + turn.question, f"order-{seed}"))


def safety_turns(rows: pd.DataFrame, per_class: int) -> list[Turn]:
    """The first rows of each level as turns."""
    turns = []
    for level in SAFETY_LEVELS:
        part = rows[rows["safety"] == level].head(per_class)
        if len(part) < per_class:
            raise PromptError(f"level {level}", f"only {len(part)} short training rows", "lower shots_per_class")
        turns += [Turn(row.id, row.text, QUESTIONS["safety"][0], level) for row in part.itertuples()]
    return turns


def category_turns(rows: pd.DataFrame, per_class: int) -> list[Turn]:
    """For each category, the first rows that have it and the first that are known not to, one turn each."""
    labels, known = category_matrix(rows), known_matrix(rows)
    turns = []
    for number, name in enumerate(CATEGORIES):
        for value, answer in ((True, "yes"), (False, "no")):
            part = rows[(labels[:, number] == value) & known[:, number]].head(max(1, per_class // 2))
            if part.empty:
                raise PromptError(f"category {name}", f"no training row for {answer!r}", "lower shots_per_class")
            turns += [Turn(row.id, row.text, QUESTIONS["categories"][number], answer) for row in part.itertuples()]
    return turns
