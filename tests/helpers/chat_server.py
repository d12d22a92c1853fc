"""A loopback HTTP server that speaks the chat-completions protocol, well or badly, and keeps the books.

It is a real server on a real socket, so that the official client and its transport are part of every test. A behaviour
is chosen for every request by a function of (number of the request, its body); the server records what it received and
what it billed. It bills when it begins to work on an answer, whether or not the client is still there to take it. A
repeated `Idempotency-Key` gets the recorded answer and is not billed again, unless `idempotent` is false. A behaviour is
a name, see `answer`, or a `Response` of its own; `server_behaviours` has a table of them for both users of a server.
"""

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

MODEL = "test-model"
OPENERS = "I used to|These days I|Last night I|Somehow I|With some help I|After a long talk I|Slowly I".split("|")
VERBS = "see|carry|remember|watch|describe|untangle|measure|forgive|question|sort|name|face".split("|")
THINGS = "the quarrel|my fear|that evening|the bill|the silence|my anger|the letter|those weeks|my part in it".split(
    "|"
)
ENDS = "with steadier hands|as one thing among many|and let it be|like a stranger would|step by step|once more".split(
    "|"
)

REASONS = (
    "is not all that there is to me|will look small by the time I am sixty|was never mine alone to carry"
    "|has less to do with me than I thought|can wait until I have slept on it|turned out to have an end"
).split("|")


def sentence(rng: random.Random) -> str:
    """An English sentence of ten to fifteen words that no dataset holds."""
    opener, verb, thing, end = (rng.choice(part) for part in (OPENERS, VERBS, THINGS, ENDS))
    return f"{opener} {verb} {thing} {end}, because {rng.choice(THINGS)} {rng.choice(REASONS)}."


def good_reply(body: dict) -> dict:
    """A reply that passes every check: it repeats the request's id, tactic and level."""
    user = body["messages"][-1]["content"]
    found = {name: re.search(pattern, user).group(1) for name, pattern in PATTERNS.items()}
    rng = random.Random(found["id"])
    own = [found["id"][place : place + 3] for place in (0, 3, 6)]  # sentences that two replies share leave them apart
    text = " ".join(sentence(rng) for _ in range(2)) + f" It took {own[0]} tries in {own[1]} {own[2]}, I would say."
    return {
        "id": found["id"],
        "text": text,
        "tactic": found["tactic"],
        "emotion_before": "worry",
        "emotion_after": "calm",
        "level": found["level"],
        "categories": [],
    }


PATTERNS = {
    "id": r"request: (\w+)",
    "tactic": r"tactic: [^(\n]+\((\w+)\)",
    "level": r"target level: (\w+)",
}


def completion(content: str | None, *, model: str = MODEL, finish: str = "stop", refusal: str | None = None) -> dict:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 80, "total_tokens": 580},
    }


def error(status: int, code: str, text: str = "", **headers) -> tuple[int, dict, bytes]:
    """An error response; its message may quote anything, as real servers do."""
    body = {"error": {"message": text or code, "type": code, "code": code, "param": None}}
    return status, headers, json.dumps(body).encode()


def ok(body: dict) -> tuple[int, dict, bytes]:
    """A response with status 200."""
    return 200, {}, json.dumps(body).encode()


def answer(kind: str, body: dict) -> tuple[int, dict, bytes]:
    """The response that a behaviour stands for; see `KINDS`."""
    if kind.startswith("reply:"):  # any content, as it stands
        return ok(completion(kind.removeprefix("reply:")))
    if kind.startswith("429:"):
        return error(429, "rate_limit_exceeded", **{"retry-after": kind.removeprefix("429:")})
    reply = good_reply(body)
    text, user = json.dumps(reply), body["messages"][-1]["content"]
    responses = {
        "good": lambda: ok(completion(text)),
        "401": lambda: error(401, "invalid_api_key", "Incorrect API key provided: sk-canary-in-body"),
        "429": lambda: error(429, "rate_limit_exceeded", **{"retry-after": "0.05"}),
        "quota": lambda: error(429, "insufficient_quota", "You exceeded your current quota"),
        "500": lambda: error(500, "server_error", f"could not process: {user}"),
        "400": lambda: error(400, "unknown_parameter", f"bad request: {user}"),
        "redirect": lambda: (307, {"location": "/elsewhere"}, b""),
        "html": lambda: (200, {"content-type": "text/html"}, f"<html>{user}</html>".encode()),
        "broken": lambda: (200, {}, json.dumps(completion(text)).encode()[:-40]),
        "no_choices": lambda: ok(completion(text) | {"choices": []}),
        "refusal": lambda: ok(completion(None, refusal="I cannot help with that.")),
        "filter": lambda: ok(completion(None, finish="content_filter")),
        "filter400": lambda: error(400, "content_filter", f"filtered: {user}"),
        "length": lambda: ok(completion(text[:60], finish="length")),
        "wrong_model": lambda: ok(completion(text, model="another-model")),
        "snapshot": lambda: ok(completion(text, model=f"{MODEL}-2025-01-31")),
        "fenced": lambda: ok(completion(f"```json\n{text}\n```")),
        "trailing": lambda: ok(completion(f"{text} I hope this helps.")),
        "duplicate_key": lambda: ok(completion(text[:-1] + ', "level": "safe"}')),
        "list": lambda: ok(completion(f"[{text}]")),
        "nan": lambda: ok(completion(text[:-1] + ', "score": NaN}')),
        "wrong_id": lambda: ok(completion(json.dumps(reply | {"id": "ffffffffffff"}))),
        "wrong_level": lambda: ok(
            completion(json.dumps(reply | {"level": {"safe": "unsafe"}.get(reply["level"], "safe")}))
        ),
        "german": lambda: ok(
            completion(json.dumps(reply | {"text": "Ich sehe die Sache heute anders, ruhig und klar. " * 3}))
        ),
        "identifier": lambda: ok(completion(json.dumps(reply | {"text": reply["text"] + " Call +49 170 1234567."}))),
        "echo": lambda: ok(completion(json.dumps(reply | {"text": user.split("<<<\n")[1].split("\n>>>")[0]}))),
        "same": lambda: ok(completion(json.dumps(reply | {"text": sentence(random.Random(7)) * 2}))),
    }
    return responses[kind]()


@dataclass
class Response:
    """A response of any kind; `body` may be a stream, which says for itself how long it is, and `raw` has no head."""

    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes | AsyncIterator[bytes] = b""
    raw: bool = False


KINDS_OF_TRANSPORT = ("hang", "cut", "slow", "late", "drop")
UNBILLED = ("hang", "drop", "html", "broken")
ALL_FAULTS = (
    *("429", "500", "hang", "cut", "drop", "html", "broken", "slow", "late"),
    *("no_choices", "refusal", "filter", "filter400", "length", "wrong_model"),
    *("fenced", "trailing", "duplicate_key", "list", "nan", "wrong_id", "wrong_level", "echo", "german", "identifier"),
)


class ChatServer:
    """Use as a context manager; runs in a thread of its own, so that a client may be killed beside it.

    Attributes
    ----------
    behaviour : (number, body) -> kind, see `answer` and `KINDS_OF_TRANSPORT`
    latency : seconds that an answer takes; `capacity` requests are worked on at once, others wait
    seen : bodies of chat requests; headers : their headers; raw : every byte received
    kinds, ids : what was done with each chat request, and the id in its prompt
    billed : how often each request (by the id in its prompt) was billed
    """

    def __init__(self, behaviour=lambda number, body: "good", latency=0.0, capacity=None, idempotent=True):
        self.behaviour, self.latency, self.capacity, self.idempotent = behaviour, latency, capacity, idempotent
        self.seen: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.kinds: list[str] = []
        self.ids: list[str] = []
        self.raw = bytearray()
        self.billed: Counter = Counter()
        self.recorded: dict[str, tuple] = {}
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.pages: list[str] = []  # after which batch each asked-for page of them begins
        self.late = 2.0  # seconds of a "late" answer, which a client should not wait for
        self.batch_polls = 0  # how often a batch says in_progress before it is over
        self.batch_status = "completed"

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self.serve, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *exception):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"http://127.0.0.1:{self.port}/v1"

    def serve(self, ready: threading.Event) -> None:
        """The thread's work."""
        asyncio.set_event_loop(self.loop)
        self.gate = asyncio.Semaphore(self.capacity or 10_000)
        server = self.loop.run_until_complete(asyncio.start_server(self.connection, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    async def connection(self, reader, writer) -> None:
        """Serve one connection until it closes."""
        try:
            while request := await self.read(reader):
                if not await self.respond(*request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def read(self, reader):
        """(method, path, headers, body) of the next request, or None at the end."""
        head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
        if not head:
            return None
        first, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.raw += head + body
        method, path, _ = first.split(" ", 2)
        return method, path.removeprefix("/v1"), headers, body

    async def respond(self, method, path, headers, body, writer) -> bool:
        """Answer one request; False closes the connection."""
        if path != "/chat/completions":
            await self.write(writer, *self.batch_api(method, path, headers, body))
            return True
        data = json.loads(body)
        self.seen.append(data)
        self.headers.append(headers)
        self.times.append(time.monotonic())
        key = headers.get("idempotency-key", "")
        if self.idempotent and key in self.recorded:
            self.kinds.append("recorded")
            self.ids.append(short_id(data))
            await self.write(writer, *self.recorded[key])
            return True
        kind = self.behaviour(len(self.seen) - 1, data)
        self.kinds.append(kind)
        self.ids.append(short_id(data))
        if isinstance(kind, Response):
            return await self.send(kind, writer)
        response = answer("good" if kind in KINDS_OF_TRANSPORT else kind, data) if short_id(data) else ok({})
        if response[0] == 200 and kind not in UNBILLED:
            self.billed[short_id(data)] += 1
            self.recorded[key] = response
        async with self.gate:
            await asyncio.sleep(self.latency)
        return await self.act(kind, response, writer)

    async def act(self, kind: str, response: tuple, writer) -> bool:
        """Do what a behaviour says; False closes the connection."""
        if kind == "drop":
            return False
        await asyncio.sleep({"hang": 3600, "slow": 0.3, "late": self.late}.get(kind, 0))
        status, headers, body = response
        if kind == "cut":
            writer.write(self.head(status, headers, len(body)) + body[: len(body) // 2])
            await writer.drain()
            return False
        await self.write(writer, status, headers, body)
        return True

    async def send(self, response: Response, writer) -> bool:
        """Send a response of its own kind; False closes the connection."""
        if isinstance(response.body, bytes):
            await self.write(writer, response.status, response.headers, response.body)
            return True
        if not response.raw:
            writer.write(self.head(response.status, response.headers, None))
        async for part in response.body:
            writer.write(part)
            await writer.drain()
        return False

    def head(self, status: int, headers: dict, length: int | None) -> bytes:
        """Status line and headers; without a length the body ends with the connection."""
        headers = {"content-type": "application/json"} | headers
        headers |= {"connection": "close"} if length is None else {"content-length": str(length)}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode()

    async def write(self, writer, status: int, headers: dict, body: bytes) -> None:
        """Send a whole response."""
        writer.write(self.head(status, headers, len(body)) + body)
        await writer.drain()

    def batch_api(self, method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        """Files and batches, as far as the provider uses them."""
        path, _, query = path.partition("?")
        if method == "POST" and path == "/files":
            name = f"file-{len(self.files)}"
            self.files[name] = body.split(b"filename=", 1)[1].split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
            entry = {"id": name, "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
            return ok(entry | {"status": "processed"})
        if method == "POST" and path == "/batches":
            return ok(self.start_batch(json.loads(body)))
        if method == "GET" and path == "/batches":
            return ok(self.list_batches(query))
        if path.startswith("/batches/"):
            return ok(self.poll(path.split("/")[2]))
        if path.endswith("/content") and (name := path.split("/")[2]) in self.files:
            return 200, {"content-type": "application/jsonl"}, self.files[name]
        return error(404, "not_found")

    def start_batch(self, request: dict) -> dict:
        """Answer every line of the input at once and bill it; the result is handed out later."""
        results = []
        for line in self.files[request["input_file_id"]].splitlines():
            entry = json.loads(line)
            self.seen.append(entry["body"])
            status, _, body = answer(self.behaviour(len(self.seen) - 1, entry["body"]), entry["body"])
            self.billed[short_id(entry["body"])] += status == 200
            response = {"status_code": status, "request_id": "r", "body": json.loads(body)}
            results.append({"id": "b", "custom_id": entry["custom_id"], "response": response, "error": None})
        number = len(self.batches)
        self.files[f"out-{number}"] = b"\n".join(json.dumps(r).encode() for r in reversed(results))  # order is not kept
        self.batches[f"batch-{number}"] = {
            "id": f"batch-{number}",
            "object": "batch",
            "endpoint": request["endpoint"],
            "input_file_id": request["input_file_id"],
            "completion_window": "24h",
            "status": "in_progress",
            "created_at": int(time.time()),
            "metadata": request.get("metadata"),
        }
        return self.batches[f"batch-{number}"]

    def list_batches(self, query: str) -> dict:
        """A page of batches, newest first, as `limit` and `after` in the query say."""
        asked = dict(parse_qsl(query))
        self.pages.append(asked.get("after", ""))
        names = list(reversed(self.batches))
        start = names.index(asked["after"]) + 1 if "after" in asked else 0
        end = start + int(asked["limit"])
        page = [self.batches[name] for name in names[start:end]]
        return {"object": "list", "data": page, "has_more": end < len(names)}

    def poll(self, name: str) -> dict:
        """The state of a batch."""
        if self.batch_polls > 0:
            self.batch_polls -= 1
        else:
            self.batches[name] |= {"status": self.batch_status, "output_file_id": f"out-{name.split('-')[1]}"}
        return self.batches[name]


def short_id(body: dict) -> str:
    """The id in an augmentation's prompt, else ""."""
    found = re.search(PATTERNS["id"], body["messages"][-1]["content"])
    return found.group(1) if found else ""
