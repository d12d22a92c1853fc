"""The `openai` provider: many requests at once, within every limit, and none of them paid for twice.

The official client does the talking; what it would do on its own (retry, follow redirects, log) is switched off,
because here a retry costs money, a redirect may carry a text elsewhere, and a log may hold one. The first request goes
alone, so that a wrong key or address costs one request and not one for every worker.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from emosafe_lib.augment import cost, exchange
from emosafe_lib.augment.journal import Answer, Journal, same_model
from emosafe_lib.augment.requests import Request
from emosafe_lib.models import server
from emosafe_lib.models.server import Halt, TryAgain
from emosafe_lib.study import progress
from emosafe_lib.study.parameters import AugmentationParams

BURST_SECONDS = 2.0  # this much of a limit may be used at once
FAILURES_IN_A_ROW = 10
BACK_OFF = wait_random_exponential(multiplier=0.5, max=20)


class Limiter:
    """Spaces requests so that neither requests nor tokens per minute are exceeded (generic cell rate algorithm)."""

    def __init__(self, params: AugmentationParams):
        self.seconds = {"request": 60 / params.requests_per_minute, "token": 60 / params.tokens_per_minute}
        self.due = dict.fromkeys(self.seconds, 0.0)
        self.closed_until = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until one more request of so many tokens may go out."""
        now = time.monotonic()
        for name, amount in (("request", 1), ("token", tokens)):
            self.due[name] = max(self.due[name], now) + amount * self.seconds[name]
        start = max(due - BURST_SECONDS for due in self.due.values())
        while (wait := max(start, self.closed_until) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def close(self, seconds: float) -> None:
        """Let nobody out for so long: the server has asked for it."""
        self.closed_until = max(self.closed_until, time.monotonic() + seconds)

    def give_back(self, tokens: int) -> None:
        """Correct an estimate that was too high."""
        self.due["token"] -= max(tokens, 0) * self.seconds["token"]


class Sender:
    """Sends requests with a number of workers and writes every answer to the journal."""

    def __init__(self, params: AugmentationParams, journal: Journal):
        self.params, self.journal = params, journal
        self.options = exchange.client_options(params)
        self.limiter = Limiter(params)
        self.halt: Halt | None = None
        self.stopped = False
        self.reserved = 0.0
        self.failures = 0

    async def run(self, todo: list[Request]) -> None:
        """Send all requests; returns early once `halt` is set."""
        http = openai.DefaultAsyncHttpx2Client(follow_redirects=False)
        async with openai.AsyncOpenAI(**self.options, http_client=http) as self.client:
            with Meter(len(todo), self.journal) as self.meter:
                queue = iter(todo)
                await self.work(iter([next(queue)]))
                await asyncio.gather(*(self.work(queue) for _ in range(self.params.concurrency)))

    async def work(self, queue: Iterator[Request]) -> None:
        """One worker: a request's answer is on disk before the worker takes the next."""
        for request in queue:
            if self.halt or self.stopped or not self.affordable(request):
                return
            await self.limiter.turn(request.prompt_tokens)
            if self.halt or self.stopped:
                return
            self.journal.sent(request.key)
            price = cost.estimate([request], self.params)["cost_usd"]
            self.reserved += price
            answer = await self.ask(request)
            self.reserved -= price
            self.journal.answered(answer)
            self.meter.step()
            self.watch(answer)

    def affordable(self, request: Request) -> bool:
        """Whether the cap holds even if this and everything in flight costs what it may; else the run halts."""
        most = self.journal.spent_usd + self.reserved + cost.estimate([request], self.params)["cost_usd"]
        if most > self.params.max_cost_usd + 1e-9:
            what = f"the cap of {self.params.max_cost_usd} US dollars is reached"
            self.halt = self.halt or Halt(what, "raise augmentation.max_cost_usd to go on")
        return not self.halt

    def watch(self, answer: Answer) -> None:
        """Stop when another model answers although that is forbidden, or when nothing works any more."""
        self.failures = self.failures + 1 if answer.outcome == "api_error" else 0
        if self.failures >= FAILURES_IN_A_ROW:
            self.halt = self.halt or Halt(f"failed {self.failures} times in a row ({answer.note})", "run again later")
        if self.params.strict_model and answer.model and not same_model(self.params.model, answer.model):
            remedy = "set augmentation.model to the model that answers, or strict_model to false"
            self.halt = self.halt or Halt("another model answered than was asked", remedy)

    async def ask(self, request: Request) -> Answer:
        """The answer to one request, after retries within its deadline."""
        started, tries = time.monotonic(), Tries(self.params)
        note = "deadline"
        try:
            async with asyncio.timeout(self.params.deadline_seconds):
                async for attempt in tries.retrying():
                    with attempt:
                        answer = await self.attempt(request, tries)
                return replace(answer, seconds=round(time.monotonic() - started, 3), attempts=tries.sent)
        except TryAgain as fault:
            note = fault.note
        except TimeoutError:
            pass
        seconds = round(time.monotonic() - started, 3)
        return Answer(request.key, "api_error", seconds=seconds, attempts=tries.sent, note=note)

    async def attempt(self, request: Request, tries: "Tries") -> Answer:
        """One request on the wire.

        Raises
        ------
        TryAgain : a fault that may pass
        """
        if tries.sent:
            await self.limiter.turn(request.prompt_tokens)
        tries.sent += 1
        headers = {"Idempotency-Key": request.key}  # where a server honours it, not even a lost answer is paid twice
        try:
            create = self.client.chat.completions.with_raw_response.create
            raw = await create(**exchange.body_of(request, self.params), extra_headers=headers)
            body, verdict = raw.http_response.content, None
        except openai.OpenAIError as error:
            verdict = server.judge_error(error, tries.left())
        if verdict is None:
            answer = exchange.read_body(body, request, self.params)
            self.limiter.give_back(request.prompt_tokens - answer.prompt_tokens)
            return answer
        return self.obey(verdict, request)

    def obey(self, verdict: TryAgain | Halt | str, request: Request) -> Answer:
        """Act on a failed request; see `server.judge_error`."""
        if isinstance(verdict, Halt):
            self.halt = self.halt or verdict
            return Answer(request.key, "api_error", note="stopped")
        if isinstance(verdict, str):
            return Answer(request.key, verdict)
        if verdict.after:
            self.limiter.close(verdict.after)
        raise verdict


class Tries:
    """The tries of one request: how many were sent, how many faults counted, how much time is left."""

    def __init__(self, params: AugmentationParams):
        self.sent = self.faults = 0
        self.most, self.end = params.attempts, time.monotonic() + params.deadline_seconds

    def left(self) -> float:
        """Seconds to the deadline."""
        return self.end - time.monotonic()

    def retrying(self) -> AsyncRetrying:
        """tenacity's loop: faults count, rate limits do not, and the deadline ends both."""
        return AsyncRetrying(retry=retry_if_exception_type(TryAgain), stop=self.spent, wait=self.pause, reraise=True)

    def spent(self, state) -> bool:
        """Whether to give up."""
        self.faults += state.outcome.exception().counts
        return self.faults >= self.most or self.left() <= 0

    def pause(self, state) -> float:
        """Seconds to wait: as long as the server said, else longer and longer."""
        after = state.outcome.exception().after
        return BACK_OFF(state) if after is None else after


class Meter:
    """A progress bar with the cost so far, in the notebook and for the runner."""

    def __init__(self, total: int, journal: Journal):
        self.total, self.journal, self.done = total, journal, 0

    def __enter__(self):
        from tqdm.auto import tqdm

        self.bar = tqdm(total=self.total, desc="asking", leave=False, mininterval=1.0)
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def step(self) -> None:
        """One more request has ended."""
        self.done += 1
        self.bar.set_postfix_str(f"${self.journal.spent_usd:.4f}", refresh=False)
        self.bar.update()
        progress.heartbeat(f"asking, ${self.journal.spent_usd:.4f} so far,", self.done, self.total)


def answer_all(todo: list[Request], params: AugmentationParams, journal: Journal) -> None:
    """Ask a chat server.

    The event loop runs in a thread of its own, since a notebook has one already. An interrupt lets the requests in
    flight finish, because they are paid for.

    Raises
    ------
    AugmentationError : no usable key or address, a cap that might be exceeded, a server that cannot go on
    """
    cost.check_cap(todo, journal, params)
    sender = Sender(params, journal)
    with server.quiet_clients(), ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, sender.run(todo))
        try:
            future.result()
        except KeyboardInterrupt:
            sender.stopped = True
            raise
    if sender.halt:
        raise sender.halt.error()
