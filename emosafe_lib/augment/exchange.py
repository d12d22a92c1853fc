"""What a chat server says, translated: an answer, a reason to try again, or a reason to stop.

Servers fail in many ways and put message text into their error bodies. So nothing of a body is ever quoted: an error
becomes one of three values here, with a short note of our own, and the client's exceptions end in this module.
"""

import json

from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from emosafe_lib.augment import cost, tactics
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.requests import CHARACTERS_PER_TOKEN, Request
from emosafe_lib.models import server
from emosafe_lib.models.server import TryAgain, outcome_of
from emosafe_lib.study.parameters import AugmentationParams


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


def client_options(params: AugmentationParams) -> dict:
    """Arguments of the official client: no retries of its own, no environment that could redirect it.

    Raises
    ------
    AugmentationError : no usable key or address
    """
    return {
        "api_key": server.api_key(),
        "base_url": server.check_address(params.base_url),
        "max_retries": 0,
        "timeout": params.attempt_seconds,
    }
