"""What a text has to be before it may enter the dataset, and the form in which every model reads it."""

import re
import sys
import unicodedata
from functools import cache

import pandas as pd

from emosafe_lib.data.privacy import scrub

# --- quarantine -------------------------------------------------------------------------------------------------------

BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")
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
    if ALWAYS.search(text):
        return True
    young = [match.start() for match in MINORS.finditer(text)]
    return bool(young) and any(abs(match.start() - at) <= NEARBY for match in SEXUAL.finditer(text) for at in young)


def quarantine_reason(text: str, max_characters: int) -> str:
    """Why a text must not enter the dataset; "" where it may."""
    if "\x00" in text:
        return "NUL character"
    if SURROGATE.search(text):
        return "lone surrogate"
    if BIDI.search(text):
        return "bidirectional control"
    if len(text) > max_characters:
        return "run together (too long)"
    if not comparison_key(text):
        return "empty"
    return "minors in a sexual context" if minors_in_sexual_context(text) else ""


def quarantine(rows: pd.DataFrame, max_characters: int = 10_000) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that may stay, and how many were set aside for which reason."""
    reasons = rows["text"].map(lambda text: quarantine_reason(text, max_characters))
    counts = reasons[reasons != ""].value_counts()
    return rows[reasons == ""].reset_index(drop=True), {str(k): int(v) for k, v in sorted(counts.items())}


def display_text(text: str) -> str:
    """What models read: Unicode NFC, one space between words, no control characters; emoji and case kept."""
    plain = unicodedata.normalize("NFC", text).translate(CONTROLS)
    return " ".join(plain.split())


CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ") | {0xFEFF: None, 0x200B: None, 0xAD: None}


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


def normalise(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Scrub and tidy the text, add the column `key`; also how many texts held an identifier."""
    tidy = rows["text"].map(display_text)  # first, since an invisible character can hide an address
    scrubbed = tidy.map(scrub)
    return rows.assign(text=scrubbed, key=scrubbed.map(comparison_key)), int((scrubbed != tidy).sum())
