"""What a chat server's errors mean: try again, do without this answer, or send nothing more.

Servers fail in many ways, and they put message text into their error bodies. So nothing of a body is ever quoted: every
error becomes one of four exceptions with a short note of our own. `client` sends the requests.
"""

import contextlib
import email.utils
import logging
import re
import time
from datetime import UTC, datetime

import openai

from emosafe_lib.models.wire import Oversized
from emosafe_lib.study.errors import ServerError

LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
FILTER_CODES = ("content_filter", "content_policy_violation")
# One option under two names; some servers know the old one only, some models take the new one only.
LIMITS = ("max_tokens", "max_completion_tokens")
LONGEST_WAIT = 366 * 86400.0


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
    """The server will not answer this one request; `filtered` if it was for what the message says, `of_limit` if the
    server speaks of the option that limits an answer.
    """

    def __init__(self, note: str, filtered: bool = False, of_limit: bool = False):
        super().__init__(note)
        self.note, self.filtered, self.of_limit = note, filtered, of_limit

    def error(self, where: str) -> ServerError:
        """The error to end with, for a user who cannot do without the answer."""
        remedy = "check model and base_url; the server may not know an option of the request"
        return no_more(where, f"refuses the request ({self.note})", remedy)


def wait_named(headers) -> float | None:
    """Seconds that `Retry-After` (seconds or a date) or `retry-after-ms` asks for; None where unusable."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
            return float(value) / unit
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def wait_told(wait: float) -> str:
    """A server's wish to be left alone, as the end of a sentence; the calendar ends before some of them do."""
    if wait > LONGEST_WAIT:
        return "for more than a year"
    return f"until {datetime.fromtimestamp(time.time() + wait, UTC):%Y-%m-%d %H:%M} UTC"


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
        return TryAgain("oversized body" if isinstance(error.__cause__, Oversized) else "connection")
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
        return no_more(where, f"asks to wait {wait_told(wait)} (status {status})", "run again after that")
    if status == 429:
        return Busy(f"status {status}", wait)
    if status in (408, 409) or status >= 500:
        return TryAgain(f"status {status}", wait)
    refused = Refused(note, of_limit=any(name in error.response.text for name in LIMITS))
    return refused if status in (400, 413, 422) else refused.error(where)
