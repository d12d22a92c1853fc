"""Nothing that names a person leaves this machine, and no key or text reaches a log.

The merge has masked identifiers already; here the same patterns run again with numbered placeholders, and a few more,
because a request goes to somebody else's computer. Patterns cannot find everything (a name, a street, a small town):
what is sent is pseudonymous at best, and a study that may not send such data has the `template` provider or a model of
its own behind `base_url`.
"""

import re

from emosafe_lib.data import privacy

# Endings of an address that are no English word, so that nobody who looks "at the dot on the wall" is masked.
ENDINGS = "com|org|net|edu|gov|info|io|co|uk|ie|de|fr|nl|es|eu|ca|au|nz|ch"
PATTERNS = (
    ("EMAIL", privacy.EMAIL),
    (
        "EMAIL",
        re.compile(
            r"(?<![\w.+-])(?:[.+-]*+\w[\w.+-]*+\s?[(\[]?\s?\bat\b\s?[)\]]?\s?"
            rf"[\w-]++\s?[(\[]?\s?\bdot\b\s?[)\]]?\s?(?:{ENDINGS})\b)+",
            re.I,
        ),
    ),
    ("URL", privacy.URL),
    ("USER", privacy.HANDLE),
    ("USER", privacy.REDDITOR),
    (
        "USER",  # after "is" only what looks like a name: "instagram is toxic" names nobody
        re.compile(
            r"\b(?:insta(?:gram)?|snap(?:chat)?|telegram|discord|twitter|tiktok|kik|skype)"
            r"(?:\s?[:=]\s?[\w.#-]{3,}|\s?is\s(?=[a-z.#-]*+[\d_])[\w.#-]{3,})",
            re.I,
        ),
    ),
    ("ACCOUNT", re.compile(r"\b[A-Z]{2}\d{2}(?=(?:[ A-Z]{0,6}\d){8})(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")),
    (
        "CARD",
        re.compile(
            r"(?<![\w.-])(?:(?=[3-6]|2[2-7])\d{4}(?:([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{9,15})"
            r"|3[47]\d\d[ -]\d{6}[ -]\d{5})(?!\w|[.-]\d)"
        ),
    ),
    ("ADDRESS", re.compile(r"(?<![\w.])(?<!version )(?=[\d.]{0,12}\d\d)(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)", re.I)),
    ("NUMBER", re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")),
)
# Seven digits, but no range such as 800-1200.
SHORT_PHONE = re.compile(r"(?<![\w.-])(?!\d{3}-\d\d[05]0)[2-9]\d\d-\d{4}(?![\w-])")


@privacy.reads_wide_signs
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
    text = privacy.PHONE.sub(lambda m: placeholder("PHONE", m.group()) if privacy.is_phone(m) else m.group(), text)
    return SHORT_PHONE.sub(lambda match: placeholder("PHONE", match.group()), text)


def has_identifier(text: str) -> bool:
    """Whether a text holds anything that `pseudonymise` would replace."""
    return pseudonymise(text) != text
