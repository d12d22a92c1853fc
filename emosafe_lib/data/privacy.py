"""Identifiers in a text (addresses, handles, phone numbers) give way to a mask before anything else reads it."""

import re

# --- scrub and normalise ----------------------------------------------------------------------------------------------

EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b")
URL = re.compile(r"\b(?:https?://|www\.)\S+|\b(?:[\w-]+\.)+(?:com|org|net|co|io|me|tv|gg|be|ly|uk)/\S+", re.IGNORECASE)
HANDLE = re.compile(r"(?<![\w@./])@\w{2,}")
REDDITOR = re.compile(r"(?<![\w/])/?u/[\w-]{3,}", re.IGNORECASE)
PHONE = re.compile(r"(?<![\w.,$])\+?\(?\d[\d\s().-]{7,18}\d(?!\w)")
HOTLINE = re.compile(r"^\+?1?[\s.(-]*(800|888|877|866|855|844|833)|^0800|^116\D?\d{3}")


def phone_mask(match: re.Match) -> str:
    """[PHONE] for nine to fifteen digits that are not a toll-free helpline; anything else stays."""
    found = match.group()
    digits = sum(character.isdigit() for character in found)
    return "[PHONE]" if 9 <= digits <= 15 and not HOTLINE.match(found) else found


def scrub(text: str) -> str:
    """The text with e-mail addresses, web addresses, user names and phone numbers masked; helplines stay."""
    if "@" in text:
        text = HANDLE.sub("@[USER]", EMAIL.sub("[EMAIL]", text))
    if "/" in text or "www." in text.lower():
        text = REDDITOR.sub("u/[USER]", URL.sub("[URL]", text))
    return PHONE.sub(phone_mask, text)
