"""What chat servers do, well and badly, for both of their users: one table, from which tests and their report are made.

A behaviour is a function of the request's number and body. `said` is what a right answer says: the label of the row in
the prompt, or a reply that passes every check. Most behaviours change one thing of a right answer.
"""

import asyncio
import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from chat_server import MODEL, Response, error, good_reply, short_id

LEVELS = ("safe", "borderline", "unsafe")
BOMB = gzip.compress(b" " * (300 << 20), compresslevel=9)


@dataclass(frozen=True)
class Behaviour:
    """One way to answer; `patience` is how long one try may take in a test of it, in seconds."""

    name: str
    answer: Callable
    patience: float = 20.0


TABLE: dict[str, Behaviour] = {}


def behaviour(name: str, patience: float = 20.0):
    """Put a function (number, body) -> Response or a kind of `chat_server.answer` into the table."""

    def put(function: Callable) -> Callable:
        TABLE[name] = Behaviour(name, function, patience)
        return function

    return put


def said(body: dict) -> str:
    """The right answer to a request."""
    if short_id(body):
        return json.dumps(good_reply(body))
    found = re.search(r'note (\d+).*?"""', body["messages"][-1]["content"], re.DOTALL)
    return LEVELS[int(found.group(1)) % 3 if found else 0]


def entry(token: str, value: float, top: dict[str, float] | None = None) -> dict:
    """A token with its log-probability, and the likeliest ones there."""
    listed = [{"token": word, "logprob": chance, "bytes": None} for word, chance in (top or {}).items()]
    return {"token": token, "logprob": value, "bytes": None, "top_logprobs": listed}


def noise() -> dict[str, float]:
    """What a place tells that is not the answer's: "safe" by chance, whatever the message."""
    return {"\n": math.log(0.7), "The": math.log(0.1), "safe": math.log(0.15), "unsafe": math.log(0.02)}


def chances(label: str, share: float = 0.9) -> dict[str, float]:
    """Log-probabilities at the answer's place."""
    rest = [word for word in LEVELS if word != label]
    return {label: math.log(share)} | {word: math.log((1 - share) / 3) for word in rest}


def tokens_for(text: str) -> list[dict]:
    """A text as tokens that end before a word or a sign; the first label among them gets the chances of a right answer."""
    parts = re.findall(r" ?[^\W_]+|\s|[\W_]", text)
    at = next((n for n, part in enumerate(parts) if part.strip().lower() in LEVELS), None)
    return [entry(p, math.log(0.9), chances(p) if n == at else noise()) for n, p in enumerate(parts)]


def completion(content, tokens: list[dict] | None = None, finish: str = "stop", refusal=None, **changes) -> dict:
    """The body of a completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": refusal},
        "finish_reason": finish,
        "logprobs": {"content": tokens} if tokens else None,
    }
    usage = {"prompt_tokens": 500, "completion_tokens": 80, "total_tokens": 580}
    base = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "usage": usage}
    return base | changes


def ok(data: object, headers: dict | None = None) -> Response:
    """Status 200."""
    return Response(200, headers or {}, json.dumps(data).encode())


def failed(status: int, code: str, text: str = "", **headers) -> Response:
    """An error whose body may quote anything."""
    return Response(*error(status, code, text, **headers))


def right(body: dict, content: str | None = None, tokens: list[dict] | None = None, **changes) -> Response:
    """A right answer, with log-probabilities where they are asked for."""
    content = said(body) if content is None else content
    tokens = tokens_for(content) if tokens is None and not short_id(body) else tokens
    return ok(completion(content, tokens if body.get("logprobs") else None, **changes))


def with_words(name: str, words: str) -> None:
    """A behaviour that says the right answer in other words; `{}` stands for it."""
    behaviour(name)(lambda number, body: right(body, words.replace("{}", said(body))))


def spelled(name: str, spell: Callable) -> None:
    """A behaviour whose tokens for the right label are `spell(label)`; its content is the label."""

    def answer(number, body):
        label = said(body)
        if short_id(body):
            return right(body)
        parts = spell(label)
        first = {parts[0]: math.log(0.9)} | {spell(word)[0]: math.log(0.03) for word in LEVELS if word != label}
        return right(body, label, [entry(parts[0], math.log(0.9), first), *(entry(p, -0.01) for p in parts[1:])])

    behaviour(name)(answer)


# --- the transport ---------------------------------------------------------------------------------------------------

behaviour("right answers")(lambda number, body: right(body))
behaviour("401, its body quoting a key")(lambda n, b: failed(401, "invalid_api_key", "wrong key sk-canary-key-000000"))
behaviour("403")(lambda n, b: failed(403, "forbidden"))
behaviour("404")(lambda n, b: failed(404, "model_not_found"))
behaviour("400, its body quoting the message")(lambda n, b: failed(400, "bad", b["messages"][-1]["content"]))
behaviour("400 for the third request only")(lambda n, b: failed(400, "too_long") if n == 2 else right(b))
behaviour("422")(lambda n, b: failed(422, "unprocessable"))
behaviour("429 once, then right")(lambda n, b: failed(429, "busy", **{"retry-after": "0.05"}) if n == 1 else right(b))
behaviour("quota used up at the third request")(lambda n, b: failed(429, "insufficient_quota") if n == 2 else right(b))
for name, wait in (
    ("Retry-After: 3600", "3600"),
    ("Retry-After: 999999999999", "999999999999"),
    ("Retry-After of 400 digits", "9" * 400),
    ("Retry-After: a date in the year 9999", "Fri, 31 Dec 9999 23:59:59 GMT"),
    ("Retry-After: a date beyond the calendar", "Fri, 31 Dec 9999 23:59:59 -2359"),
):
    behaviour(name)(lambda number, body, wait=wait: failed(429, "busy", **{"retry-after": wait}))
behaviour("Retry-After: soon")(lambda n, b: failed(429, "busy", **{"retry-after": "soon"}) if n == 1 else right(b))
behaviour("500 always, its body quoting the message")(lambda n, b: failed(500, "down", b["messages"][-1]["content"]))
behaviour("500 every second time")(lambda n, b: failed(500, "down") if n % 2 else right(b))
behaviour("redirect to elsewhere")(lambda n, b: Response(307, {"location": "/elsewhere"}))
behaviour("HTML with status 200")(lambda n, b: Response(200, {}, b"<html>" + b["messages"][-1]["content"].encode()))
behaviour("half a JSON")(lambda n, b: Response(200, {}, right(b).body[:-40]))
behaviour("empty body")(lambda n, b: Response(200))
behaviour("JSON nested 100,000 deep")(lambda n, b: Response(200, {}, b"[" * 100_000))
behaviour("an event stream nobody asked for")(lambda n, b: Response(200, {}, b"data: " + right(b).body + b"\n\n"))
behaviour("a list in place of an object")(lambda n, b: ok([completion("safe")]))
behaviour("connection dropped")(lambda n, b: "drop")
behaviour("hangs", 0.4)(lambda n, b: "hang")
behaviour("gzip")(lambda n, b: Response(200, {"content-encoding": "gzip"}, gzip.compress(right(b).body)))
behaviour("gzip bomb of 300 MB")(lambda n, b: Response(200, {"content-encoding": "gzip"}, BOMB))
behaviour("gzip bomb with status 500")(lambda n, b: Response(500, {"content-encoding": "gzip"}, BOMB))
behaviour("gzip that is none")(lambda n, b: Response(200, {"content-encoding": "gzip"}, right(b).body))


@behaviour("endless body")
def endless(number, body):
    """As fast as the client takes it."""

    async def parts():
        while True:
            yield b" " * 65536

    return Response(200, {}, parts())


@behaviour("a byte every tenth of a second", 0.6)
def dripping(number, body):
    """Each byte resets a client's clock between bytes."""

    async def parts():
        for byte in right(body).body:
            yield bytes([byte])
            await asyncio.sleep(0.1)

    return Response(200, {}, parts())


@behaviour("a header's byte every tenth of a second", 0.6)
def dripping_head(number, body):
    """The same before the body."""

    async def parts():
        for byte in b"HTTP/1.1 200 OK\r\nx-filler: " + b"a" * 1000:
            yield bytes([byte])
            await asyncio.sleep(0.1)

    return Response(200, {}, parts(), raw=True)


# --- the completion --------------------------------------------------------------------------------------------------

behaviour("no choices")(lambda n, b: ok(completion("") | {"choices": []}))
behaviour("a choice without a message")(lambda n, b: ok(completion("") | {"choices": [{"index": 0}]}))
behaviour("content null, finish_reason length")(lambda n, b: ok(completion(None, finish="length")))
behaviour("content a list of parts")(lambda n, b: ok(completion([{"type": "text", "text": said(b)}])))
behaviour("a refusal")(lambda n, b: ok(completion(None, refusal="I cannot help with that.")))
behaviour("filtered")(lambda n, b: ok(completion(None, finish="content_filter")))
behaviour("filtered, with status 400")(lambda n, b: failed(400, "content_filter", b["messages"][-1]["content"]))
behaviour("log-probabilities: 7")(
    lambda n, b: ok(completion("x", choices=[completion(said(b))["choices"][0] | {"logprobs": 7}]))
)
behaviour("another model")(lambda n, b: right(b, model="another-model"))
behaviour("a dated snapshot of the model")(lambda n, b: right(b, model=f"{MODEL}-2026-01-31"))
behaviour("no model named")(lambda n, b: right(b, model=None))
behaviour("the model's file in place of its name")(lambda n, b: right(b, model="/home/ann/models/tiny.gguf"))
behaviour("the key in place of the model's name")(lambda n, b: right(b, model="sk-canary-key-000000"))
behaviour("the key's header in place of the name")(lambda n, b: right(b, model="Bearer sk-canary-key-000000"))
behaviour("the message in place of the name")(lambda n, b: right(b, model=b["messages"][-1]["content"]))
behaviour("a word of the message as the name")(
    lambda n, b: right(b, model="zebracanary" if "zebracanary" in b["messages"][-1]["content"] else MODEL)
)
behaviour("a name of 100,000 characters")(lambda n, b: right(b, model="m" * 100_000))
behaviour("another model from the fourth request on")(lambda n, b: right(b, model=MODEL if n < 3 else "another-model"))

# --- options ---------------------------------------------------------------------------------------------------------


def refusing(name: str, option: str, words: str, limit: int = 0) -> None:
    """A server that refuses an option of a request, or a value above a limit."""

    def answer(number, body):
        over = option in body and not (limit and body[option] <= limit)
        return failed(400, "unsupported_parameter", words) if over else right(body)

    behaviour(name)(answer)


refusing("max_tokens refused", "max_tokens", "'max_tokens' is not supported, use 'max_completion_tokens'")
refusing("max_completion_tokens refused", "max_completion_tokens", "body.max_completion_tokens: extra inputs")
refusing("logprobs refused", "logprobs", "unsupported")
refusing("more than 5 top_logprobs refused", "top_logprobs", "at most 5", 5)
behaviour("logprobs ignored")(lambda n, b: ok(completion(said(b))))
behaviour("log-probabilities gone from the fourth request on")(
    lambda n, b: right(b) if n < 3 else ok(completion(said(b)))
)
behaviour("log-probabilities from the fourth request on")(lambda n, b: right(b) if n >= 3 else ok(completion(said(b))))

# --- the bill --------------------------------------------------------------------------------------------------------

for name, usage in {
    "usage: -10**9": {"prompt_tokens": -(10**9), "completion_tokens": 80},
    "usage: 10**400": {"prompt_tokens": 10**400, "completion_tokens": 10**400},
    "usage: 10**7": {"prompt_tokens": 10**7, "completion_tokens": 80},
    "usage: a fraction": {"prompt_tokens": 500.5, "completion_tokens": 80.25},
    "usage: 0": {"prompt_tokens": 0, "completion_tokens": 0},
    "usage: words": {"prompt_tokens": "many", "completion_tokens": None},
    "usage: NaN": {"prompt_tokens": math.nan, "completion_tokens": math.inf},
    "usage: absent": None,
}.items():
    behaviour(name)(lambda number, body, usage=usage: right(body, usage=usage))

# --- the place of the answer -----------------------------------------------------------------------------------------

with_words("a blank first", " \n {}")
with_words("markup first", "**{}**")
with_words("Answer: first", "Answer: {}")
with_words("The answer is ...", "The answer is {}")
with_words("fenced", "```json\n{}\n```")
with_words("an empty <think> first", "<think>\n\n</think>\n\n{}")
with_words("a special token first", "<|assistant|>{}")
with_words("prose with the answer in it", "This message seems {} to me")
with_words("two answers", "{} or unsafe, not safe")
with_words("a tag around it", "<answer>{}</answer>")
behaviour("<think> without an end")(lambda n, b: right(b, "<think>\nOkay, the user is", finish="length"))
behaviour("reasoning apart, content empty")(
    lambda n, b: right(b, "", tokens_for("Okay, safe or unsafe"), finish="length")
)
spelled("a label of two tokens", lambda label: [label[:2], label[2:]])
spelled("Ġ before the label", lambda label: ["\u0120" + label])
spelled("▁ before the label", lambda label: ["\u2581" + label])
spelled("a label in byte tokens", lambda label: [f"<0x{ord(c):02X}>" for c in label])
spelled("upper case", lambda label: [label.upper()])
spelled("a full stop in the token", lambda label: [label + "."])
behaviour("one token listed")(lambda n, b: right(b, said(b), [entry(said(b), -1.2, {said(b): -1.2})]))
behaviour("only the tokens said, none listed")(lambda n, b: right(b, said(b), [entry(said(b), -0.1)]))
behaviour("a tie of all labels")(
    lambda n, b: right(b, said(b), [entry(said(b), math.log(0.3), dict.fromkeys(LEVELS, math.log(0.3)))])
)
behaviour("labels of next to no probability")(
    lambda n, b: right(b, "Hm", [entry("Hm", -0.01, {"Hm": -0.01, "safe": -6.0, "unsafe": -7.0})])
)
behaviour("probabilities in place of their logarithms")(
    lambda n, b: right(b, said(b), [entry(said(b), 0.9, {w: 0.9 if w == said(b) else 0.05 for w in LEVELS})])
)
behaviour("log-probabilities of NaN")(
    lambda n, b: right(b, said(b), [entry(said(b), math.nan, dict.fromkeys(LEVELS, math.nan))])
)
