"""Nothing that names a person leaves this machine, and no key or text reaches a log.

The merge has masked identifiers already; here the same patterns run again with numbered placeholders, and a few more,
because a request goes to somebody else's computer. Patterns cannot find everything (a name, a street, a small town):
what is sent is pseudonymous at best, and a study that may not send such data has the `template` provider or a model of
its own behind `base_url`.
"""

import re

from emosafe_lib.data import privacy

PATTERNS = (
    ("EMAIL", privacy.EMAIL),
    (
        "EMAIL",
        re.compile(
            r"\b[\w.+-]+\s*(?:\(|\[)?\s?\bat\b\s?(?:\)|\])?\s*[\w-]+\s*(?:\(|\[)?\s?\bdot\b\s?(?:\)|\])?\s*[a-z]{2,6}\b",
            re.I,
        ),
    ),
    ("URL", privacy.URL),
    ("USER", privacy.HANDLE),
    ("USER", privacy.REDDITOR),
    (
        "USER",
        re.compile(
            r"\b(?:insta(?:gram)?|snap(?:chat)?|telegram|discord|twitter|tiktok|kik|skype)\s*(?:is|:|=)\s*[\w.#-]{3,}",
            re.I,
        ),
    ),
    ("ACCOUNT", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("CARD", re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")),
    ("ADDRESS", re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")),
    ("NUMBER", re.compile(r"\b\d{3}-\d{2}-\d{4}\b")),
)
PHONE = privacy.PHONE
SHORT_PHONE = re.compile(r"(?<![\w.-])\d{3}[-. ]\d{4}(?![\w-])")


def pseudonymise(text: str) -> str:
    """The text with identifiers replaced by numbered placeholders; one identifier keeps one placeholder.

    >>> pseudonymise("Write to a.b@example.org or c@example.org, not to a.b@example.org")
    'Write to [EMAIL_1] or [EMAIL_2], not to [EMAIL_1]'
    """
    seen: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}

    def placeholder(kind: str, found: str) -> str:
        identity = (kind, re.sub(r"\W", "", found).lower())
        if identity not in seen:
            counts[kind] = counts.get(kind, 0) + 1
            seen[identity] = f"[{kind}_{counts[kind]}]"
        return seen[identity]

    for kind, pattern in PATTERNS:
        text = pattern.sub(lambda match, kind=kind: placeholder(kind, match.group()), text)
    text = PHONE.sub(
        lambda m: placeholder("PHONE", m.group()) if privacy.phone_mask(m) == "[PHONE]" else m.group(), text
    )
    return SHORT_PHONE.sub(lambda match: placeholder("PHONE", match.group()), text)


def has_identifier(text: str) -> bool:
    """Whether a text holds anything that `pseudonymise` would replace."""
    return pseudonymise(text) != text
