"""A chat completion as far as anybody here looks at it, and how much of it is believed.

Servers differ: what nobody looks at may be missing or odd, what is looked at must have its shape. A name or a count that
a server gives ends in journals, cards and bills, so neither is taken as it comes.
"""

import hashlib
import json
import re

from pydantic import BaseModel, ValidationError

from emosafe_lib.models.server import TryAgain
from emosafe_lib.models.wire import looks_like_key

# A model's name in a registry or on a hub; no blank, at most two slashes.
NAME = re.compile(r"[A-Za-z0-9][\w.:@+-]*(/[\w.:@+-]+){0,2}", re.ASCII)
LONGEST_NAME = 100
MOST_TOKENS = 10**8  # no model reads or writes more


class Listed(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Token(Listed):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[Listed] | None = None


class Logprobs(BaseModel):
    """The tokens of the answer, where the server tells them."""

    content: list[Token] | None = None


class Message(BaseModel):
    """What the model said."""

    content: str | None = None
    refusal: str | None = None


class Choice(BaseModel):
    """The answer; only one is ever asked for."""

    message: Message
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Completion(BaseModel):
    """The body of a chat completion."""

    choices: list[Choice]
    model: str | None = None
    usage: object = None


def decoded(body: bytes) -> object:
    """The JSON in the body of an answer, None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def read_completion(data: object) -> Completion:
    """A decoded body as a completion.

    Raises
    ------
    TryAgain : it is something else
    """
    try:
        return Completion.model_validate(data)
    except (ValidationError, RecursionError):
        pass
    raise TryAgain("unreadable body")


def outcome_of(completion: Completion) -> tuple[str, str | None]:
    """The outcome of a completion and its text; a text that is cut or filtered is not kept."""
    if not completion.choices:
        return "no_choices", None
    choice = completion.choices[0]
    if choice.message.refusal:
        return "refusal", None
    if choice.finish_reason in ("content_filter", "length"):
        return choice.finish_reason, None
    return ("ok", choice.message.content) if choice.message.content else ("no_choices", None)


def same_model(asked: str, answered: str) -> bool:
    """Whether the answering model is the one that was asked; a dated snapshot of it counts."""
    return bool(re.fullmatch(re.escape(asked) + r"(-\d{4}-?\d{2}-?\d{2})?", answered, re.IGNORECASE))


def clean_name(answered: str | None, asked: str, said: str) -> str:
    """The answering model's name as it may be kept: a server can put anything there, the key or the message included.

    Parameters
    ----------
    said : everything that the request said; no part of it is a name

    Returns
    -------
    the name; of a file its last part; a digest of what is no short plain name; "" where the server gives none
    """
    if not answered or answered == asked:
        return answered or ""
    name = re.split(r"[/\\]", answered)[-1] if re.match(r"[/\\.~]|[A-Za-z]:\\", answered) else answered
    plain = len(name) <= LONGEST_NAME and NAME.fullmatch(name)
    if plain and name.lower() not in said.lower() and not looks_like_key(name):
        return name
    return f"unclear-{hashlib.sha256(answered.encode(errors='replace')).hexdigest()[:12]}"


def believed(count: object, fewest: int) -> int | None:
    """A server's count of tokens, None where it is no whole number or smaller than the text allows."""
    whole = isinstance(count, int | float) and not isinstance(count, bool) and fewest <= count <= MOST_TOKENS
    return int(count) if whole and count == int(count) else None
