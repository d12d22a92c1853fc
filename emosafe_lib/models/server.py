"""What both users of a chat server share: its address and key, and what its errors mean.

Servers fail in many ways and put message text into their error bodies. So nothing of a body is ever quoted: an error
becomes a value of this module, with a short note of our own.
"""

import contextlib
import email.utils
import ipaddress
import logging
import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from emosafe_lib.study.errors import AugmentationError

LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


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


FILTER_CODES = ("content_filter", "content_policy_violation")


class TryAgain(Exception):
    """A fault that may pass; `after` seconds if the server named a time. `counts` is false for a mere rate limit."""

    def __init__(self, note: str, after: float | None = None, counts: bool = True):
        super().__init__(note)
        self.note, self.after, self.counts = note, after, counts


@dataclass(frozen=True)
class Halt:
    """A reason to send nothing more."""

    what: str
    remedy: str

    def error(self) -> AugmentationError:
        """The error that the run ends with."""
        return AugmentationError("chat server", self.what, f"{self.remedy}; finished answers are kept")


def outcome_of(completion: ChatCompletion) -> tuple[str, str | None]:
    """The outcome of a completion and its text; a text that is cut or filtered is not kept."""
    if not completion.choices:
        return "no_choices", None
    choice = completion.choices[0]
    if choice.message.refusal:
        return "refusal", None
    if choice.finish_reason in ("content_filter", "length"):
        return choice.finish_reason, None
    return ("ok", choice.message.content) if choice.message.content else ("no_choices", None)


def wait_named(headers) -> float | None:
    """Seconds that `Retry-After` (seconds or a date) or `retry-after-ms` asks for; None where unusable."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d{1,12}(\.\d+)?", value):
            return float(value) / unit
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def code_of(error: openai.APIStatusError) -> str:
    """The server's error code if it looks like one; never free text."""
    code = str(getattr(error, "code", "") or "")
    return code if re.fullmatch(r"[a-z][a-z0-9_]{1,40}", code) else ""


def judge_error(error: openai.OpenAIError, patience: float) -> TryAgain | Halt | str:
    """What a failed request means: try again, stop, or (a string) the final outcome of this one request.

    `patience` is the number of seconds that a server may ask us to wait.
    """
    if isinstance(error, openai.APITimeoutError):
        return TryAgain("timeout")
    if not isinstance(error, openai.APIStatusError):
        return TryAgain("connection")
    status, code, wait = error.status_code, code_of(error), wait_named(error.response.headers)
    if code in FILTER_CODES:
        return "content_filter"
    if code == "insufficient_quota":
        return Halt("the quota is used up (insufficient_quota)", "add credit, then run again to go on")
    if status in (401, 403):
        return Halt(f"refused the key (status {status})", "check OPENAI_API_KEY and base_url, then run again")
    if wait is not None and wait > patience:
        when = datetime.fromtimestamp(time.time() + wait, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Halt(f"asks to wait until {when} (status {status})", "run again after that")
    if status in (408, 409, 429) or status >= 500:
        return TryAgain(f"status {status}", wait, counts=status != 429)
    remedy = "check model and base_url; the server may not know an option of the request"
    return Halt(f"refuses the request (status {status}{', ' + code if code else ''})", remedy)
