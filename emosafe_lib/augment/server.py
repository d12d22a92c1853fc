"""What a chat server says, translated: an answer, a reason to try again, or a reason to stop.

Servers fail in many ways and put message text into their error bodies. So nothing of a body is ever quoted: an error
becomes one of three values here, with a short note of our own, and the client's exceptions end in this module.
"""

import email.utils
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import openai
from openai.types.chat import ChatCompletion
from pydantic import ValidationError

import emosafe_lib.augment.cost as cost
import emosafe_lib.augment.privacy as privacy
import emosafe_lib.augment.tactics as tactics
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.plan import CHARACTERS_PER_TOKEN, Request
from emosafe_lib.errors import AugmentationError
from emosafe_lib.params import AugmentationParams

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


def body_of(request: Request, params: AugmentationParams) -> dict:
    """The body of a chat-completions request.

    OpenAI has renamed the token limit; other servers know the old name.
    """
    limit = "max_tokens" if params.base_url else "max_completion_tokens"
    schema = {"name": "reinterpretation", "strict": True, "schema": tactics.reply_schema()}
    return {
        "model": params.model,
        "messages": request.messages,
        "temperature": params.temperature,
        "seed": params.seed,
        limit: tactics.MAX_REPLY_TOKENS,
        "response_format": {"type": "json_schema", "json_schema": schema},
    }


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


def read_body(body: bytes | dict, request: Request, params: AugmentationParams) -> Answer:
    """The answer in the body of a response with status 200.

    Raises
    ------
    TryAgain : the body is not a chat completion
    """
    try:
        data = json.loads(body) if isinstance(body, bytes) else body
        completion = ChatCompletion.model_validate(data)
    except (ValueError, ValidationError, RecursionError):
        completion = None
    if completion is None:
        raise TryAgain("unreadable body")
    outcome, content = outcome_of(completion)
    if completion.usage:
        prompt, written = completion.usage.prompt_tokens, completion.usage.completion_tokens
    else:
        prompt, written = request.prompt_tokens, len(content or "") // CHARACTERS_PER_TOKEN + 1
    dollars = cost.of_tokens(prompt, written, params)
    return Answer(request.key, outcome, content, completion.model, prompt, written, dollars)


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


def client_options(params: AugmentationParams) -> dict:
    """Arguments of the official client: no retries of its own, no environment that could redirect it.

    Raises
    ------
    AugmentationError : no usable key or address
    """
    return {
        "api_key": privacy.api_key(),
        "base_url": privacy.check_address(params.base_url),
        "max_retries": 0,
        "timeout": params.attempt_seconds,
    }
