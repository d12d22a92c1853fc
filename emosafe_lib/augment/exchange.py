"""One request of an augmentation as a chat server reads it, and the server's answer as the journal keeps it.

Nothing of a body that is no answer is kept or quoted, because servers repeat messages in there.
"""

from openai.types.chat import ChatCompletion
from pydantic import ValidationError

from emosafe_lib.augment import cost, tactics
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.requests import CHARACTERS_PER_TOKEN, Request
from emosafe_lib.models.server import TryAgain, client_options, outcome_of
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


def read_body(data: dict | None, request: Request, params: AugmentationParams) -> Answer:
    """The answer in the body of a response with status 200, given as the JSON object that it holds.

    Raises
    ------
    TryAgain : the body is not a chat completion
    """
    try:
        completion = ChatCompletion.model_validate(data)
    except (ValidationError, RecursionError):
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


def options_of(params: AugmentationParams) -> dict:
    """Arguments of the official client; see `server.client_options`, also for what it raises."""
    return client_options(params.base_url, "augmentation.base_url", params.attempt_seconds)
