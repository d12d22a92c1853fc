"""The `openai-batch` provider: one file of requests handed in, one file of answers fetched, at half the price.

A batch takes up to a day, longer than a notebook should wait, and it is paid for whether or not anybody fetches it. So
its id is in the journal as soon as there is one, the batch carries a digest of its requests, and a run first looks for
a batch of its own that is under way before it hands in another.
"""

import asyncio
import json
import time
from collections.abc import Callable

import openai

from emosafe_lib.augment import cost, exchange, tactics
from emosafe_lib.augment.journal import Answer, Journal
from emosafe_lib.augment.requests import Request
from emosafe_lib.models import server, wire
from emosafe_lib.models.client import run_alone, trying_again
from emosafe_lib.models.server import Refused, TryAgain
from emosafe_lib.study import progress
from emosafe_lib.study.errors import AugmentationError, ServerError
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.strict_reading import json_value

LARGEST = 50_000  # requests a batch, by OpenAI's rules
OLDEST = 31 * 86_400  # seconds; a batch takes up to a day, and OpenAI deletes its answers 30 days later
PAGE = 100  # batches listed at once, by OpenAI's rules
ENDPOINT = "/v1/chat/completions"
BYTES_OF_ANSWER = 16 * 2**10  # a reply of the permitted length, each character escaped
OVER = ("completed", "failed", "expired", "cancelled")
PAUSE_SECONDS = 0.5  # before a server is asked whether it has heard of a batch
WHERE = "chat server"


class BatchServer:
    """Calls of the official client, one by one, each bounded in time and size and tried again after passing faults."""

    def __init__(self, params: AugmentationParams, requests: int):
        largest = wire.LARGEST_BODY + requests * BYTES_OF_ANSWER
        self.params, self.options = params, exchange.options_of(params) | {"largest_body": largest}

    def call(self, ask: Callable, again: bool = True):
        """What `ask` gets from the client that it is handed; without `again` there is one try, lest it be paid for twice.

        Raises
        ------
        ServerError : the server refuses, or goes on failing
        TryAgain : the one try failed, and the server may have heard it
        """
        try:
            return run_alone(trying_again(self.params)(self.once, ask) if again else self.once(ask))
        except Refused as refused:
            error = refused.error(WHERE)
        except TryAgain as fault:
            if not again:
                raise
            error = goes_on_failing(fault)
        raise error

    async def once(self, ask: Callable):
        """One call; raises what `server.judge_error` makes of its failure."""
        verdict = TryAgain("timeout")
        try:
            async with asyncio.timeout(self.params.deadline_seconds), wire.open_client(**self.options) as client:
                return await ask(client)
        except TimeoutError:
            pass
        except openai.OpenAIError as error:
            verdict = server.judge_error(error, self.params.deadline_seconds, WHERE)
        raise verdict


def goes_on_failing(fault: TryAgain) -> ServerError:
    """What to say of a server after the last try."""
    return server.no_more(WHERE, f"goes on failing ({fault.note})", "run again later")


def lines_of(todo: list[Request], params: AugmentationParams) -> bytes:
    """The input file: one request a line, named by its key. It is never written to a disk of ours."""
    lines = (
        {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": exchange.body_of(request, params)}
        for request in todo
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def under_way(batches: BatchServer, digest: str, journal: Journal) -> str | None:
    """The id of a batch that was handed in and not fetched yet: from the journal, or found at the server."""
    done = {event["batch_done"] for event in journal.events if "batch_done" in event}
    known = [event["batch"] for event in journal.events if "batch" in event and event["batch"] not in done]
    if known:
        return known[0]
    found = batches.call(lambda client: newest_of(client, digest, done))
    if found:
        journal.event({"batch": found, "found": True})
    return found


async def newest_of(client: openai.AsyncOpenAI, digest: str, done: set[str]) -> str | None:
    """The id of the newest batch that carries the digest, has not failed and is not done; the server lists newest first."""
    async for batch in client.batches.list(limit=PAGE):
        if (batch.metadata or {}).get("emosafe") == digest and batch.id not in done and batch.status != "failed":
            return batch.id
        if expired(batch):
            break
    return None


def expired(batch) -> bool:
    """Whether a batch is so old that its answers are deleted."""
    return bool(batch.created_at) and batch.created_at < time.time() - OLDEST


def hand_in(batches: BatchServer, todo: list[Request], digest: str, journal: Journal) -> str:
    """Upload the requests and start a batch; returns its id. A batch whose answer was lost on its way is looked for before
    another is started: it is paid for.

    Raises
    ------
    ServerError : the server refuses, or goes on failing
    """
    upload = ("requests.jsonl", lines_of(todo, batches.params))
    file = batches.call(lambda client: client.files.create(file=upload, purpose="batch"))
    what = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}
    what |= {"metadata": {"emosafe": digest}, "extra_headers": {"Idempotency-Key": digest}}
    for left in reversed(range(batches.params.attempts)):
        try:
            batch = batches.call(lambda client: client.batches.create(**what), again=False)
        except TryAgain as fault:
            time.sleep(fault.after or PAUSE_SECONDS)
            if found := under_way(batches, digest, journal):
                return found
            if not left:
                raise goes_on_failing(fault) from None
        else:
            journal.event({"batch": batch.id, "requests": len(todo)})
            return batch.id


def wait_for(batches: BatchServer, batch_id: str):
    """The batch once it is over.

    Raises
    ------
    AugmentationError : it is not over within `batch_wait_seconds`; a later run goes on from here
    """
    params = batches.params
    end = time.monotonic() + params.batch_wait_seconds
    while True:
        batch = batches.call(lambda client: client.batches.retrieve(batch_id))
        if batch.status in OVER:
            return batch
        if batch.request_counts:
            progress.heartbeat("batch", batch.request_counts.completed, batch.request_counts.total)
        if time.monotonic() >= end:
            raise AugmentationError(f"batch {batch_id}", f"is {batch.status}", "run again later; nothing is sent twice")
        time.sleep(min(params.batch_poll_seconds, max(end - time.monotonic(), 0.01)))


def fetch(batches: BatchServer, batch, requests: dict[str, Request], journal: Journal) -> set[str]:
    """Write a finished batch's answers to the journal; returns the keys that it spoke of.

    Raises
    ------
    ServerError : the server refuses, or goes on failing; not where the batch's answers are deleted, which then count as none
    """
    seen: set[str] = set()
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        try:
            result = batches.call(lambda client, file_id=file_id: client.files.content(file_id))
        except ServerError:
            if not expired(batch):
                raise
            continue
        for line in result.content.splitlines():
            answer = read_line(line, requests, batches.params)
            if answer and answer.key not in seen and answer.key not in journal.answers:
                seen.add(answer.key)
                journal.answered(answer)
    journal.event({"batch_done": batch.id, "status": batch.status})
    return seen


def read_line(line: bytes, requests: dict[str, Request], params: AugmentationParams) -> Answer | None:
    """One line of a result file; None if it belongs to no request of ours."""
    try:
        record = json_value(line)
        request = requests[record["custom_id"]]
    except (ValueError, KeyError, TypeError):
        return None
    response = record.get("response")
    if not isinstance(response, dict) or response.get("status_code") != 200:
        return Answer(request.key, "api_error", note="batch line")
    try:
        return exchange.read_body(response.get("body"), request, params)
    except TryAgain as fault:
        return Answer(request.key, "api_error", note=fault.note)


def answer_all(todo: list[Request], params: AugmentationParams, journal: Journal) -> None:
    """Ask through the Batch API: fetch what is under way first, then hand in what nobody was asked yet.

    What was under way may be an old batch of other requests, or one that ended unanswered, so only a batch that this run
    handed in ends it by saying nothing. Each request is heard of once a run: what failed is asked again by the next one.

    Raises
    ------
    AugmentationError : no usable key or address, a cap that might be exceeded, a batch that failed or is not over yet
    """
    earlier_sizes = [event["requests"] for event in journal.events if "requests" in event]
    batches = BatchServer(params, max(len(todo), *earlier_sizes, 0))  # an old batch may be the larger one
    requests, heard = {request.key: request for request in todo}, set()
    while todo:
        todo = todo[:LARGEST]
        digest = tactics.digest([request.key for request in todo])
        earlier = under_way(batches, digest, journal)
        if earlier is None:
            cost.check_cap(todo, journal, params)
        batch = wait_for(batches, earlier or hand_in(batches, todo, digest, journal))
        if batch.status == "failed":
            journal.event({"batch_done": batch.id, "status": batch.status})
            remedy = "check augmentation.model; the server names the reason"
            raise server.no_more(WHERE, "refused the batch", remedy)
        seen = fetch(batches, batch, requests, journal)
        if not earlier and not seen:
            return
        heard |= seen
        todo = [r for r in requests.values() if r.key not in journal.answers and r.key not in heard]
