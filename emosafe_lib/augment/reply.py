"""A strict reader of replies: one JSON object of the promised shape, or nothing.

A lenient parser would accept fences, trailing chatter or the last of two equal keys, and silently pick one of several
meanings. Such a reply is rejected and counted instead; asking again is a matter of money, guessing one of truth.
"""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from emosafe_lib.augment.tactics import TACTIC
from emosafe_lib.study.strict_reading import json_value
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

Word = Annotated[str, Field(min_length=2, max_length=40, pattern=r"^[\w' -]+$")]


class Reply(BaseModel):
    """A re-interpretation as the model wrote it, with the model's own judgement of it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: str
    text: Annotated[str, Field(min_length=1, max_length=5000)]
    tactic: Literal[tuple(TACTIC)]
    emotion_before: Word
    emotion_after: Word
    level: Literal[SAFETY_LEVELS]
    categories: list[Literal[CATEGORIES]]


def parse(content: str) -> Reply | None:
    """The reply, or None if it is anything but one JSON object of the schema."""
    try:
        return Reply.model_validate_json(json.dumps(json_value(content)))
    except (ValueError, TypeError, RecursionError):  # a ValidationError is a ValueError
        return None
