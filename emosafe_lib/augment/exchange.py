"""One request of an augmentation as a chat server reads it, and the server's answer as the journal keeps it.

Nothing of a body that is no answer is kept or quoted, because servers repeat messages in there.
"""

from emosafe_lib.augment import cost, tactics
from emosafe_lib.augment.journal import Answer
from emosafe_lib.augment.requests import CHARACTERS_PER_TOKEN, Request
from emosafe_lib.models.completion import Completion, believed, clean_name, outcome_of, read_completion
from emosafe_lib.models.wire import client_options
from emosafe_lib.study.parameters import AugmentationParams

MOST_CHARACTERS_PER_TOKEN = 8  # words of English have four to five; a count below that many tokens is no count of ours


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


def read_body(data: object, request: Request, params: AugmentationParams) -> Answer:
    """The answer in the body of a response with status 200, given as the JSON that it holds.

    The server's count of tokens makes the bill where it is possible at all, else our upper estimate does; what counts
    against the cap is the larger of both.

    Raises
    ------
    TryAgain : the body is not a chat completion
    """
    completion = read_completion(data)
    outcome, content = outcome_of(completion)
    counted, most, note = tokens_of(completion, request)
    name = clean_name(completion.model, params.model, request.said)
    dollars, against_cap = cost.of_tokens(*counted, params), cost.of_tokens(*most, params)
    return Answer(request.key, outcome, content, name, *counted, dollars, note=note, cap_usd=against_cap)


def tokens_of(completion: Completion, request: Request) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Tokens (prompt, answer) of the bill and of the cap, and a note if the server's count was not believed."""
    choice = completion.choices[0] if completion.choices else None
    text = (choice.message.content or choice.message.refusal or "") if choice else ""
    cut = choice is not None and choice.finish_reason == "length"
    ours = request.prompt_tokens, tactics.MAX_REPLY_TOKENS if cut else len(text) // CHARACTERS_PER_TOKEN + 1
    usage = completion.usage if isinstance(completion.usage, dict) else {}
    said = [
        believed(usage.get(name), len(words) // MOST_CHARACTERS_PER_TOKEN)
        for name, words in (("prompt_tokens", request.said), ("completion_tokens", text))
    ]
    counted = tuple(mine if its is None else its for its, mine in zip(said, ours, strict=True))
    return counted, tuple(map(max, counted, ours)), "usage doubted" if None in said else ""


def options_of(params: AugmentationParams) -> dict:
    """Arguments of the client; see `wire.client_options`, also for what it raises."""
    return client_options(params.base_url, "augmentation.base_url", params.attempt_seconds, params.proxy)
