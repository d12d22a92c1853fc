"""A chat server as both of its users know it: its address, the key, what it answers, and what its errors mean.

Servers fail in many ways, and they put message text into their error bodies. So nothing of a body is ever quoted: every
error becomes one of four exceptions with a short note of our own. `client` sends the requests.
"""

import contextlib
import email.utils
import ipaddress
import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from emosafe_lib.study.errors import ServerError

LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
FILTER_CODES = ("content_filter", "content_policy_violation")


def api_key() -> str:
    """The key from `OPENAI_API_KEY`, the only place it is ever read from; it is never shown.

    Raises
    ------
    ServerError : no key, or one that cannot be sent in a header
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise ServerError("OPENAI_API_KEY", "is not set", "export it in the shell that runs the study")
    if not key.isascii() or not key.isprintable() or " " in key:
        remedy = "copy the key again; it is plain ASCII without spaces"
        raise ServerError("OPENAI_API_KEY", "holds characters that no key has", remedy)
    return key


def check_address(base_url: str | None, where: str = "augmentation.base_url") -> str:
    """The server's address; refused where it carries a password or would send texts unencrypted across networks.

    Raises
    ------
    ServerError : not such an address
    """
    url = base_url or "https://api.openai.com/v1"
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or parts.scheme not in ("http", "https"):
        remedy = "give scheme, host, port and path only, as in http://localhost:8000/v1"
        raise ServerError(where, "is not a plain web address", remedy)
    if parts.scheme == "http" and not is_near(url):
        remedy = "use https; plain http is for this machine and the local network"
        raise ServerError(where, "would send messages unencrypted", remedy)
    return url


def is_near(url: str) -> bool:
    """Whether an address is on this machine or the local network: private, or a bare host name."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return bool(host) and "." not in host


def client_options(base_url: str | None, where: str, attempt_seconds: float, key_optional: bool = False) -> dict:
    """Arguments of the official client, which here never tries again by itself; `client` decides that.

    Parameters
    ----------
    where : the parameter that holds `base_url`, named in an error
    attempt_seconds : how long one try may take
    key_optional : whether a server on this machine or the local network may do without a key

    Raises
    ------
    ServerError : no usable key or address
    """
    address = check_address(base_url, where)
    keyless = key_optional and is_near(address) and not os.environ.get("OPENAI_API_KEY")
    key = "none" if keyless else api_key()
    return {"api_key": key, "base_url": address, "max_retries": 0, "timeout": attempt_seconds}


@contextlib.contextmanager
def quiet_clients():
    """Silence the HTTP client's loggers, which print whole requests when OPENAI_LOG=debug is set."""
    known = (name for name in logging.root.manager.loggerDict if name.split(".")[0] in LOGGERS)
    before = {logger: logger.disabled for logger in map(logging.getLogger, {*LOGGERS, *known})}
    try:
        for logger in before:
            logger.disabled = True
        yield
    finally:
        for logger, disabled in before.items():
            logger.disabled = disabled


def no_more(where: str, what: str, remedy: str) -> ServerError:
    """The error of a server that is not asked any more."""
    return ServerError(where, what, f"{remedy}; finished answers are kept")


class TryAgain(Exception):
    """A fault that may pass; `after` is the number of seconds that the server asked to be left alone, if it named one."""

    def __init__(self, note: str, after: float | None = None):
        super().__init__(note)
        self.note, self.after = note, after


class Busy(TryAgain):
    """The server's own rate limit: nothing is wrong, it is only too early."""


class Refused(Exception):
    """The server will not answer this one request; `filtered` if it was for what the message says."""

    def __init__(self, note: str, filtered: bool = False):
        super().__init__(note)
        self.note, self.filtered = note, filtered

    def error(self, where: str) -> ServerError:
        """The error to end with, for a user who cannot do without the answer."""
        remedy = "check model and base_url; the server may not know an option of the request"
        return no_more(where, f"refuses the request ({self.note})", remedy)


def decoded(body: bytes) -> dict:
    """The JSON object in the body of an answer.

    Raises
    ------
    TryAgain : the body is something else
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise TryAgain("unreadable body")
    return data


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


def judge_error(error: openai.OpenAIError, patience: float, where: str) -> TryAgain | Refused | ServerError:
    """What a failed request means: try again, do without this answer, or send nothing more.

    `patience` is the number of seconds that a server may ask us to wait, `where` the name of the server in an error.
    """
    if isinstance(error, openai.APITimeoutError):
        return TryAgain("timeout")
    if not isinstance(error, openai.APIStatusError):
        return TryAgain("connection")
    status, code, wait = error.status_code, code_of(error), wait_named(error.response.headers)
    note = f"status {status}{', ' + code if code else ''}"
    if code in FILTER_CODES:
        return Refused(note, filtered=True)
    if code == "insufficient_quota":
        what = "the quota is used up (insufficient_quota)"
        return no_more(where, what, "add credit, then run again to go on")
    if status in (401, 403):
        remedy = "check OPENAI_API_KEY and base_url, then run again"
        return no_more(where, f"refused the key (status {status})", remedy)
    if wait is not None and wait > patience:
        when = datetime.fromtimestamp(time.time() + wait, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return no_more(where, f"asks to wait until {when} (status {status})", "run again after that")
    if status == 429:
        return Busy(f"status {status}", wait)
    if status in (408, 409) or status >= 500:
        return TryAgain(f"status {status}", wait)
    refused = Refused(note)
    return refused if status in (400, 413, 422) else refused.error(where)
