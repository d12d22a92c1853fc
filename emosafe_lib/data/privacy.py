"""Identifiers in a text (addresses, handles, phone numbers) give way to a mask before anything else reads it.

A mask in the wrong place harms as a missing one does: a model learns from `[PHONE]:26:53` that nights have telephone
numbers. So a phone number is known by its shape and not by its digits alone, and times, dates, lists, versions, amounts
and book numbers keep theirs. Anybody may send a text, so every pattern takes time in proportion to its length: a run of
characters is looked at from its beginning only (`++`, and what may not stand before it), and the rest is bounded. No
pattern begins beside a mask, so that masking twice changes nothing more.
"""

import re
from collections.abc import Callable
from functools import wraps

# [EMAIL], [URL], [USER], [PHONE], and the numbered ones of `pseudonyms`.
NO_MASK_BEFORE = r"(?<!(?-i:IL|RL|ER|NE)\])(?<!_\d\])(?<!_\d\d\])"
# Addresses that only a sign joins are masked together: behind the first one, no other could begin.
EMAIL = re.compile(r"(?<![\w.+-])(?:[.+-]*+\w[\w.+-]*+@[\w-]+(?:\.[\w-]+)+\b)+")
URL = re.compile(
    r"\b(?:https?://|www\.)\S+|(?<![\w-])(?<![\w-]\.)(?:[\w-]++\.)++(?:com|org|net|co|io|me|tv|gg|be|ly|uk)/\S+",
    re.IGNORECASE,
)
# "@9pm" is a time.
HANDLE = re.compile(NO_MASK_BEFORE + r"(?<![\w@./])@(?!\d++(?:[ap]m)?\b)\w{2,}(?:[.-]\w++)*+", re.IGNORECASE)
REDDITOR = re.compile(NO_MASK_BEFORE + r"(?<![\w/])/?u/[\w-]{3,}", re.IGNORECASE)
PHONE = re.compile(
    r"""(?=[(+\d])(?:
    \(?\+[1-9](?:[ ().-]{0,2}\d){7,14}                              # +49 (170) 123-4567
    | \((?:0\d{1,4}|\d{2,3})\)[ -]?(?:\d{6,9}|\d{3,5}[ .-]\d{4})    # (555) 123-4567, (030) 1234567
    | (?<![\w$€£])(?<!\d[.:-])(?<![$€£][ ])(?:
        (?:1[ .-]?)?[2-9]\d\d[ .-]\d{3}[ .-]?\d{4}                  # 555 123 4567
        | 00[2-9]\d(?:[ ().-]{0,2}\d){7,12}                         # 0049 170 1234567
        | 0[1-9]\d{1,3}[ /-]\d{5,8}                                 # 07911 123456, 030/1234567
        | 0[1-9]\d?[ -]\d{3,4}[ -]\d{4}                             # 020 7946 0958
        | 0[1-9]\d{3}[ ]\d{3}[ ]\d{3}                               # 07700 900 123
        | 0[1-9]\d\d(?:[ -]\d{3}[ -]\d{3,4}|-\d{4}-\d{3,4})         # 0161 496 0000, 0812-3456-7890
        | (?<!\b\d\d[ ])0[1-9]([ .-])\d\d(?:\1\d\d){3}(?![ ]\d\d\b) # 06 12 34 56 78, but no longer list of pairs
        | (?<!\b\d{5}[ ])[6-9]\d{4}[ ]\d{5}(?![ ]\d{5}\b)           # 98765 43210
        | 1[3-9]\d[ -]\d{4}[ -]\d{4}                                # 139 1234 5678
        | (?!\d*0{5}(?!\d))(?:[02-9]\d{9}|[01]\d{10})               # 5551234567, but neither a second nor a round sum
      )
    )(?:[ ]?x\d{1,5})?(?![\w%])(?![.:-]\d)(?![ ]?[$€£])""",
    re.VERBOSE,
)
HOTLINE = re.compile(r"\+?1?[\s.(-]*(800|888|877|866|855|844|833)|080[08]")
BEFORE_A_BOOK_NUMBER = re.compile(r"ISBN(?:-1[03])?:? ?\Z", re.IGNORECASE)
# Wide signs, which East Asian keyboards write in place of ASCII: Unicode's fullwidth forms, and a few of its small ones.
USUAL = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0xFE52: ".", 0xFE55: ":", 0xFE6B: "@"}


def reads_wide_signs(mask: Callable[[str], str]) -> Callable[[str], str]:
    """A mask that takes wide signs for the usual ones; a text in which it finds nothing keeps its own."""

    @wraps(mask)
    def masked(text: str) -> str:
        usual = text.translate(USUAL)
        found = mask(usual)
        return text if found == usual else found

    return masked


def is_phone(match: re.Match) -> bool:
    """Whether what has the shape of a phone number is neither a toll-free helpline nor named as a book's number."""
    before = match.string[max(0, match.start() - 10) : match.start()]
    return not (HOTLINE.match(match.group()) or BEFORE_A_BOOK_NUMBER.search(before))


@reads_wide_signs
def scrub(text: str) -> str:
    """The text with e-mail addresses, web addresses, user names and phone numbers masked; helplines stay."""
    if "@" in text:
        text = HANDLE.sub("@[USER]", EMAIL.sub("[EMAIL]", text))
    if "/" in text or "www." in text.lower():
        text = REDDITOR.sub("u/[USER]", URL.sub("[URL]", text))
    return PHONE.sub(lambda match: "[PHONE]" if is_phone(match) else match.group(), text)
