"""Nothing that names a person leaves this machine, and no key or text reaches a log.

The merge has masked identifiers already; here the same patterns run again with numbered placeholders, and a few more,
because a request goes to somebody else's computer. Patterns cannot find everything (a name, a street, a small town):
what is sent is pseudonymous at best, and a study that may not send such data has the `template` provider or a model of
its own behind `base_url`.
"""

import contextlib
import ipaddress
import logging
import os
import re
from urllib.parse import urlsplit

from emosafe_lib import merge
from emosafe_lib.errors import AugmentationError

PATTERNS = (
    ("EMAIL", merge.EMAIL),
    (
        "EMAIL",
        re.compile(
            r"\b[\w.+-]+\s*(?:\(|\[)?\s?\bat\b\s?(?:\)|\])?\s*[\w-]+\s*(?:\(|\[)?\s?\bdot\b\s?(?:\)|\])?\s*[a-z]{2,6}\b",
            re.I,
        ),
    ),
    ("URL", merge.URL),
    ("USER", merge.HANDLE),
    ("USER", merge.REDDITOR),
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
PHONE = merge.PHONE
SHORT_PHONE = re.compile(r"(?<![\w.-])\d{3}[-. ]\d{4}(?![\w-])")
LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


def scrub(text: str) -> str:
    """The text with identifiers replaced by numbered placeholders; one identifier keeps one placeholder.

    >>> scrub("Write to a.b@example.org or c@example.org, not to a.b@example.org")
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
    text = PHONE.sub(lambda m: placeholder("PHONE", m.group()) if merge.phone_mask(m) == "[PHONE]" else m.group(), text)
    return SHORT_PHONE.sub(lambda match: placeholder("PHONE", match.group()), text)


def has_identifier(text: str) -> bool:
    """Whether scrubbing would change the text."""
    return scrub(text) != text


def api_key() -> str:
    """The key from `OPENAI_API_KEY`, the only place it is ever read from; it is never shown.

    Raises
    ------
    AugmentationError : no key, or one that cannot be sent in a header
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise AugmentationError("OPENAI_API_KEY", "is not set", "export it in the shell that runs the study")
    if not key.isascii() or not key.isprintable() or " " in key:
        remedy = "copy the key again; it is plain ASCII without spaces"
        raise AugmentationError("OPENAI_API_KEY", "holds characters that no key has", remedy)
    return key


def check_address(base_url: str | None, where: str = "augmentation.base_url") -> str:
    """The server's address; refused where it carries a password or would send texts unencrypted across networks.

    Raises
    ------
    AugmentationError : not such an address
    """
    url = base_url or "https://api.openai.com/v1"
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or parts.scheme not in ("http", "https"):
        remedy = "give scheme, host, port and path only, as in http://localhost:8000/v1"
        raise AugmentationError(where, "is not a plain web address", remedy)
    if parts.scheme == "http" and not is_near(url):
        remedy = "use https; plain http is for this machine and the local network"
        raise AugmentationError(where, "would send messages unencrypted", remedy)
    return url


def is_near(url: str) -> bool:
    """Whether an address is on this machine or the local network."""
    return is_local(urlsplit(url).hostname or "")


def is_local(host: str) -> bool:
    """This machine, a private address, or a bare host name of the local network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return bool(host) and "." not in host


@contextlib.contextmanager
def quiet_clients():
    """Silence the HTTP client's loggers, which print whole requests when OPENAI_LOG=debug is set."""
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).disabled) for name in LOGGERS}
    children = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in LOGGERS]
    before |= {name: (logging.getLogger(name).level, logging.getLogger(name).disabled) for name in children}
    try:
        for name in before:
            logging.getLogger(name).disabled = True
        yield
    finally:
        for name, (level, disabled) in before.items():
            logging.getLogger(name).setLevel(level)
            logging.getLogger(name).disabled = disabled
