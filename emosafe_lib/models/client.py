"""The one client of a chat server: many requests at once, within every limit, again after faults that pass.

The official client does the talking; what it would do on its own (retry, follow redirects, log) is switched off, because
here a retry costs money, a redirect may carry a text elsewhere, and a log may hold one. tenacity tries again and
aiolimiter keeps the limits. Two things neither of them does stand here: when a server asks to be left alone, everybody
waits and not only the request that was told so; and tokens that an estimate took too many of are given back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import openai
from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from emosafe_lib.models import server
from emosafe_lib.models.server import Busy, TryAgain
from emosafe_lib.study.errors import ServerError

BURST_SECONDS = 2.0  # this much of a limit may be used at once
FAILURES_IN_A_ROW = 10
BACK_OFF = wait_random_exponential(multiplier=0.5, max=20)


@dataclass(frozen=True)
class Limits:
    """What a user allows itself.

    Attributes
    ----------
    attempts : tries of one request; being told that it is too early counts as none
    attempt_seconds, deadline_seconds : how long one try may take, and all tries of a request together
    requests_per_minute, tokens_per_minute : None where only the server sets a limit
    largest : tokens of the largest request
    """

    concurrency: int = 8
    attempts: int = 4
    attempt_seconds: float = 60.0
    deadline_seconds: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    largest: int = 1


def wait_as_told(state) -> float:
    """Seconds to wait: as long as the server said, else longer and longer."""
    after = state.outcome.exception().after
    return BACK_OFF(state) if after is None else after


def trying_again(limits: Limits, kind=AsyncRetrying, **options) -> Callable:
    """tenacity's loops as a function of what to try: faults are counted, rate limits are only waited for.

    Parameters
    ----------
    kind : `Retrying` for a function that is no coroutine
    options : further arguments of `kind`
    """
    late = stop_before_delay(limits.deadline_seconds)
    options = {"wait": wait_as_told, "reraise": True} | options
    busy = kind(retry=retry_if_exception_type(Busy), stop=late, **options)
    fault = retry_if_exception_type(TryAgain) & retry_if_not_exception_type(Busy)
    return partial(kind(retry=fault, stop=late | stop_after_attempt(limits.attempts), **options), busy)


def bucket(per_minute: float | None, largest: float) -> AsyncLimiter | None:
    """A limiter that lets through what `BURST_SECONDS` allow, or one largest request, and then keeps the pace."""
    if per_minute is None:
        return None
    size = max(per_minute * BURST_SECONDS / 60, largest)
    return AsyncLimiter(size, size * 60 / per_minute)


class ChatClient:
    """Sends requests to one server, and stops when it is pointless to go on.

    Parameters
    ----------
    where : the server's name in errors
    options : see `server.client_options`

    Attributes
    ----------
    halt : why nothing more is sent, if so
    failures : requests in a row that got no answer
    answered : whether any request got one
    """

    def __init__(self, where: str, options: dict, limits: Limits):
        self.where, self.options, self.limits = where, options, limits
        self.halt: BaseException | None = None
        self.failures, self.answered = 0, False
        self.closed_until, self.credit = 0.0, 0.0

    def run(self, jobs: Iterable, work: Callable[[object], Awaitable[str]], alone: Callable | None = None) -> None:
        """Do the work for all jobs: one after another at first, so that a wrong key, address or option costs one
        request, and then as many at once as allowed.

        The event loop runs in a thread of its own, since a notebook has one already. An interrupt lets the requests in
        flight finish, because they are paid for.

        Parameters
        ----------
        work : asks what it has to with `ask`; returns a note if the job got no answer, else an empty string
        alone : whether still to go one by one; by default until the server has answered

        Raises
        ------
        ServerError : the server cannot be asked any more, or has not answered too often in a row
        """
        self.halt = None
        with server.quiet_clients(), ThreadPoolExecutor(1) as thread:
            alone = alone or (lambda: not self.answered)
            future = thread.submit(asyncio.run, self.work_off(iter(jobs), work, alone))
            try:
                future.result()
            except KeyboardInterrupt as interrupt:
                self.halt = interrupt
                raise
        if self.halt:
            raise self.halt

    async def work_off(self, jobs, work, alone) -> None:
        """See `run`."""
        http = openai.DefaultAsyncHttpx2Client(follow_redirects=False)
        self.pace = bucket(self.limits.requests_per_minute, 1)
        self.flow = bucket(self.limits.tokens_per_minute, self.limits.largest)
        jobs = takewhile(lambda _: not self.halt, jobs)
        async with openai.AsyncOpenAI(**self.options, http_client=http) as self.openai:
            while alone() and (job := next(jobs, None)) is not None:
                await self.one(job, work)
            await asyncio.gather(*(self.worker(jobs, work) for _ in range(self.limits.concurrency)))

    async def worker(self, jobs, work) -> None:
        """Take jobs until there are no more."""
        for job in jobs:
            await self.one(job, work)

    async def one(self, job, work) -> None:
        """One job; whoever cannot be answered is counted."""
        try:
            note = await work(job)
        except ServerError as error:
            self.halt = self.halt or error
            return
        self.failures = self.failures + 1 if note else 0
        self.answered |= not note
        if self.failures >= FAILURES_IN_A_ROW:
            self.stop(f"failed {self.failures} requests in a row ({note})", "run again when the server answers")

    def stop(self, what: str, remedy: str) -> None:
        """Send nothing more; what is in flight finishes. The first reason counts."""
        self.halt = self.halt or ServerError(self.where, what, f"{remedy}; {server.KEPT}")

    async def turn(self, tokens: float) -> None:
        """Wait until one more request of so many tokens may go out."""
        if self.flow:
            used = min(self.credit, tokens)
            self.credit -= used
            await self.flow.acquire(min(tokens - used, self.flow.max_rate))
        if self.pace:
            await self.pace.acquire()
        while (wait := self.closed_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def give_back(self, tokens: float) -> None:
        """Let later requests have the tokens by which an estimate was too high."""
        self.credit += max(tokens, 0)

    async def ask(self, body: dict, read: Callable, tokens: float = 0, leave: Callable = lambda: None, **options):
        """What `read` makes of the answer's body, bytes.

        Parameters
        ----------
        read : raises TryAgain for a body that is no answer
        tokens : an upper estimate of the request's tokens
        leave : called each time just before the request leaves
        options : of the official client's call, such as `extra_headers`

        Raises
        ------
        TryAgain : no answer within all tries and the deadline
        Refused : there will be none to this request
        ServerError : nothing more should be sent
        """
        await self.turn(tokens)
        if self.halt:
            raise ServerError(self.where, "was stopped", "run again to go on")

        async def pause(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await self.turn(tokens)

        tries = trying_again(self.limits, sleep=pause)
        try:
            async with asyncio.timeout(self.limits.deadline_seconds) as deadline:
                return await tries(self.attempt, body, read, leave, deadline, options)
        except TimeoutError:
            pass
        raise TryAgain("deadline")

    async def attempt(self, body: dict, read: Callable, leave: Callable, deadline: asyncio.Timeout, options: dict):
        """One request on the wire; raises what `server.judge_error` makes of its failure."""
        leave()
        verdict = None
        try:
            raw = await self.openai.chat.completions.with_raw_response.create(**body, **options)
        except openai.OpenAIError as error:
            left = deadline.when() - asyncio.get_running_loop().time()
            verdict = server.judge_error(error, left, self.where)
        if verdict is None:
            return read(raw.http_response.content)
        if isinstance(verdict, TryAgain) and verdict.after:
            self.closed_until = max(self.closed_until, time.monotonic() + verdict.after)
        raise verdict
