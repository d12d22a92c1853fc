"""The `openai-batch` provider: one file of requests handed in, one file of answers fetched, at half the price.

A batch takes up to a day, longer than a notebook should wait, and it is paid for whether or not anybody fetches it. So
its id is in the journal as soon as there is one, the batch carries a digest of its requests, and a run first looks for
a batch of its own that is under way before it hands in another.
"""

import io
import json
import time

import openai
from tenacity import Retrying

from emosafe_lib.augment import cost, exchange, tactics
from emosafe_lib.augment.journal import Answer, Journal
from emosafe_lib.augment.requests import Request
from emosafe_lib.models import server
from emosafe_lib.models.client import trying_again
from emosafe_lib.models.server import Refused, TryAgain
from emosafe_lib.study import progress
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.strict_reading import json_value

LARGEST = 50_000  # requests a batch, by OpenAI's rules
OVER = ("completed", "failed", "expired", "cancelled")
WHERE = "chat server"


def call(function, *arguments, params: AugmentationParams, **options):
    """One call of the official client, tried again after passing faults.

    Raises
    ------
    ServerError : the server refuses, or goes on failing
    """

    def once():
        try:
            return function(*arguments, **options)
        except openai.OpenAIError as error:
            verdict = server.judge_error(error, params.deadline_seconds, WHERE)
        raise verdict

    try:
        return trying_again(params, Retrying)(once)
    except Refused as refused:
        error = refused.error(WHERE)
    except TryAgain as fault:
        error = server.no_more(WHERE, f"goes on failing ({fault.note})", "run again later")
    raise error


def lines_of(todo: list[Request], params: AugmentationParams) -> bytes:
    """The input file: one request a line, named by its key. It is never written to a disk of ours."""
    return b"".join(
        json.dumps(
            {
                "custom_id": request.key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": exchange.body_of(request, params),
            }
        ).encode()
        + b"\n"
        for request in todo
    )


def under_way(client: openai.OpenAI, digest: str, journal: Journal, params: AugmentationParams) -> str | None:
    """The id of a batch that was handed in and not fetched yet: from the journal, or found at the server."""
    done = {event["batch_done"] for event in journal.events if "batch_done" in event}
    known = [event["batch"] for event in journal.events if "batch" in event and event["batch"] not in done]
    if known:
        return known[0]
    for batch in call(client.batches.list, limit=50, params=params).data:
        if (batch.metadata or {}).get("emosafe") == digest and batch.id not in done and batch.status != "failed":
            journal.event({"batch": batch.id, "found": True})
            return batch.id
    return None


def hand_in(client: openai.OpenAI, todo: list[Request], digest: str, journal: Journal, params) -> str:
    """Upload the requests and start a batch; returns its id."""
    upload = ("requests.jsonl", io.BytesIO(lines_of(todo, params)))
    file = call(client.files.create, file=upload, purpose="batch", params=params)
    batch = call(
        client.batches.create,
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"emosafe": digest},
        params=params,
    )
    journal.event({"batch": batch.id, "requests": len(todo)})
    return batch.id


def wait_for(client: openai.OpenAI, batch_id: str, params: AugmentationParams):
    """The batch once it is over.

    Raises
    ------
    AugmentationError : it is not over within `batch_wait_seconds`; a later run goes on from here
    """
    end = time.monotonic() + params.batch_wait_seconds
    while True:
        batch = call(client.batches.retrieve, batch_id, params=params)
        if batch.status in OVER:
            return batch
        if batch.request_counts:
            progress.heartbeat("batch", batch.request_counts.completed, batch.request_counts.total)
        if time.monotonic() >= end:
            raise AugmentationError(f"batch {batch_id}", f"is {batch.status}", "run again later; nothing is sent twice")
        time.sleep(min(params.batch_poll_seconds, max(end - time.monotonic(), 0.01)))


def fetch(client: openai.OpenAI, batch, requests: dict[str, Request], journal: Journal, params) -> set[str]:
    """Write a finished batch's answers to the journal; returns the keys that it spoke of."""
    seen: set[str] = set()
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        content = call(client.files.content, file_id, params=params).content
        for line in content.splitlines():
            answer = read_line(line, requests, params)
            if answer and answer.key not in seen and answer.key not in journal.answers:
                seen.add(answer.key)
                journal.answered(answer)
    journal.event({"batch_done": batch.id, "status": batch.status})
    return seen


def read_line(line: bytes, requests: dict[str, Request], params: AugmentationParams) -> Answer | None:
    """One line of a result file; None if it belongs to no request of ours."""
    try:
        record = json_value(line)
        key, response = record["custom_id"], record.get("response") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if key not in requests:
        return None
    try:
        if response.get("status_code") == 200:
            return exchange.read_body(response.get("body"), requests[key], params)
    except TryAgain as fault:
        return Answer(key, "api_error", note=fault.note)
    return Answer(key, "api_error", note="batch line")


def answer_all(todo: list[Request], params: AugmentationParams, journal: Journal) -> None:
    """Ask through the Batch API: fetch what is under way first, then hand in what nobody was asked yet.

    Raises
    ------
    AugmentationError : no usable key or address, a cap that might be exceeded, a batch that failed or is not over yet
    """
    requests = {request.key: request for request in todo}
    with server.quiet_clients():
        http = openai.DefaultHttpx2Client(follow_redirects=False)
        with openai.OpenAI(**exchange.options_of(params), http_client=http) as client:
            while todo:
                todo = todo[:LARGEST]
                digest = tactics.digest([request.key for request in todo])
                found = under_way(client, digest, journal, params)
                if found is None:
                    cost.check_cap(todo, journal, params)
                    found = hand_in(client, todo, digest, journal, params)
                batch = wait_for(client, found, params)
                if batch.status == "failed":
                    journal.event({"batch_done": batch.id, "status": batch.status})
                    remedy = "check augmentation.model; the server names the reason"
                    raise server.no_more(WHERE, "refused the batch", remedy)
                seen = fetch(client, batch, requests, journal, params)
                todo = [r for r in requests.values() if r.key not in journal.answers and r.key not in seen]
                if not seen:
                    return
