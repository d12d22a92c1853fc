"""What a text has to be before anything reads it, and the form in which every model reads it.

There is one way in, `prepared`: the merge, the replies of an augmentation and the messages that somebody classifies all
take it, so that a model meets no text that differs from those it was trained on by a line break or an invisible
character alone.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from emosafe_lib.data.privacy import scrub

if TYPE_CHECKING:  # whoever classifies a message needs no pandas
    import pandas as pd

# --- one text ---------------------------------------------------------------------------------------------------------

BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")
BLANKS = "\u2800" + "".join(map(chr, (*range(32), *range(127, 160))))
INVISIBLE = "\xad\u034f\u115f\u1160\u17b4\u17b5\u200b\u3164\ufeff\uffa0" + "".join(
    chr(code)
    for first, last in ((0x180B, 0x180F), (0x2060, 0x206F), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A))
    for code in range(first, last + 1)
)
TIDY = str.maketrans(dict.fromkeys(BLANKS, " ") | dict.fromkeys(INVISIBLE))
# Joiners, variation selectors and tags are part of an emoji or of another script; beside a Latin letter, a digit or an
# ASCII sign they hide, unless a keycap follows. Behind a closing bracket they stay unless a number follows: some faces
# typed in brackets end so, and are rows of the real study. A run is looked at from its beginning only, as in `privacy`.
STRAY = re.compile(
    "(?<![)\\]}\xa9\xae\u0250-\U0010ffff])[\u200c\u200d\ufe00-\ufe0f]++(?!\u20e3)"
    "|(?<=[)\\]}])[\u200c\u200d\ufe00-\ufe0f]++(?=[\\s.-]*[0-9])"
    "|(?<![\u200c\u200d])[\u200c\u200d]++(?=[0-9A-Za-z\u00c0-\u024f])"
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e0fff]+"
)


@dataclass(frozen=True)
class Unreadable:
    """What stands in the place of a text that cannot be read; `reason` says why, without its content."""

    reason: str


def prepared(text: str, max_characters: int) -> str | Unreadable:
    """The text as every model reads it, tidy and without identifiers, or why nothing may read it."""
    if len(text) > max_characters:
        return Unreadable("run together (too long)")
    tidy = display_text(text)  # first, since an invisible character can hide an address
    if is_empty(tidy):
        return Unreadable("empty")
    if "\x00" in text:
        return Unreadable("NUL character")
    if SURROGATE.search(text):
        return Unreadable("lone surrogate")
    return Unreadable("bidirectional control") if BIDI.search(text) else scrub(tidy)


def display_text(text: str) -> str:
    """What models read: Unicode NFC, one space between words, nothing invisible; emoji and case kept."""
    tidy = " ".join(text.translate(TIDY).split())
    if not tidy.isascii():  # of what must go, one character may hide behind another
        while (bare := " ".join(unicodedata.normalize("NFC", STRAY.sub("", tidy)).split())) != tidy:
            tidy = bare
    return tidy


def is_empty(text: str) -> bool:
    """Whether nothing is left of a text without spaces, punctuation and invisible characters."""
    return not any(map(str.isalnum, text)) and not comparison_key(text)


@cache
def key_table() -> dict[int, str | None]:
    """What the comparison key does to single characters: punctuation to a space, apostrophes and invisible ones gone."""
    table: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind[0] == "P" or kind == "Cc":
            table[code] = " "
        elif kind == "Cf" or 0xFE00 <= code <= 0xFE0F:
            table[code] = None
    return table | dict.fromkeys(map(ord, "'’‘`´"), None)


def comparison_key(text: str) -> str:
    """What decides whether two texts are the same: case, Unicode form, punctuation and invisible characters do not."""
    folded = unicodedata.normalize("NFKC", text.casefold()) if not text.isascii() else text.lower()
    return " ".join(folded.translate(key_table()).split())


# --- what may be trained on -------------------------------------------------------------------------------------------

MINORS = re.compile(
    r"\b(child(ren)?|kids?|minors?|under-?age[d]?|pre-?teens?|teen(s|ager|agers|aged?)?|toddlers?|infants?"
    r"|school-?(girl|boy)s?|(little|young) (girl|boy)s?|(girl|boy) ?scouts?|high ?school(ers?)?|middle ?school(ers?)?"
    r"|([1-9]|1[0-7]) ?-?(years?|yrs?)?[- ]?(old|yo|y/o)|when i was (a )?(young|little|kid|child|[1-9]|1[0-7]))\b",
    re.IGNORECASE,
)
SEXUAL = re.compile(
    r"\b(sex|sexy|sexual(ly|ity|ized)?|sexting|porn\w*|nudes?|naked|rap(e[ds]?|ing|ist)|molest\w*|masturbat\w*"
    r"|erotic\w*|incest\w*|groom(ed|ing|er)|genitals?|orgasms?|horny|virginity|intercourse|prostitut\w*|strip(per|tease))\b",
    re.IGNORECASE,
)
ALWAYS = re.compile(r"\b(p(a?)edo(s|phil\w*)?|jailbait|loli(con)?|csam|child porn\w*|kiddie porn\w*)\b", re.IGNORECASE)
NEARBY = 300  # characters between a word of one list and a word of the other


def minors_in_sexual_context(text: str) -> bool:
    """Whether a word for a minor stands within `NEARBY` characters of a sexual word.

    A blunt guard on purpose: it loses some harmless rows, and such rows have no place in a training set.
    """
    plain = unicodedata.normalize("NFKC", text)  # letters of another width or font spell the same words
    if ALWAYS.search(plain):
        return True
    young = [match.start() for match in MINORS.finditer(plain)]
    return bool(young) and any(abs(match.start() - at) <= NEARBY for match in SEXUAL.finditer(plain) for at in young)


def admitted(text: str, max_characters: int) -> str | Unreadable:
    """The prepared text, or why it must not enter the dataset."""
    made = prepared(text, max_characters)
    # Both as it came and as it would be stored: an invisible character hides a word of the one, a mask a word of the other.
    if isinstance(made, str) and any(map(minors_in_sexual_context, {text, made})):
        return Unreadable("minors in a sexual context")
    return made


def prepare_rows(rows: pd.DataFrame, max_characters: int = 10_000) -> tuple[pd.DataFrame, dict]:
    """The rows that may enter the dataset, their texts prepared, with the column `key`.

    Returns
    -------
    the rows, and two counts: `quarantined`, rows set aside by reason, and `scrubbed`, texts that held an identifier
    """
    made = [admitted(text, max_characters) for text in rows["text"]]
    reasons = Counter(text.reason for text in made if isinstance(text, Unreadable))
    good = [isinstance(text, str) for text in made]
    kept, texts = rows[good].reset_index(drop=True), [text for text in made if isinstance(text, str)]
    scrubbed = sum(text != display_text(raw) for text, raw in zip(texts, kept["text"], strict=True))
    kept = kept.assign(text=texts, key=list(map(comparison_key, texts)))
    return kept, {"quarantined": dict(sorted(reasons.items())), "scrubbed": scrubbed}
