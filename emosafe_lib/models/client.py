"""The one client of a chat server: many requests at once, within every limit, again after faults that pass.

The official client does the talking; what it would do on its own (retry, follow redirects, log) is switched off, because
here a retry costs money, a redirect may carry a text elsewhere, and a log may hold one. tenacity tries again and
aiolimiter keeps the limits. Two things that neither of them does stand here: when a server asks to be left alone,
everybody waits and not only the request that was told so; and what an estimate took too many of is given back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

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

from emosafe_lib.models import server, wire
from emosafe_lib.models.server import Busy, Refused, TryAgain
from emosafe_lib.study.errors import ServerError

BURST_SECONDS = 2.0  # this much of a limit may be used at once
FAILURES_IN_A_ROW = 10
BACK_OFF = wait_random_exponential(multiplier=0.5, max=20)


@dataclass(frozen=True)
class Limits:
    """What a user allows itself, under the names of `AugmentationParams`, which may stand in its place.

    Without a limit of one's own the server alone sets the pace. Being told that it is too early is not counted as one
    of the `attempts` of a request; the deadline holds for all of them together.
    """

    concurrency: int = 8
    attempts: int = 4
    attempt_seconds: float = 60.0
    deadline_seconds: float = 120.0
    requests_per_minute: float = 1e9
    tokens_per_minute: float = 1e12


def wait_as_told(state) -> float:
    """Seconds to wait: as long as the server said, else longer and longer."""
    after = state.outcome.exception().after
    return BACK_OFF(state) if after is None else after


def trying_again(limits: Limits, **options) -> Callable:
    """tenacity's loops as a function of what to try: faults are counted, rate limits are only waited for.

    Parameters
    ----------
    options : further arguments of `AsyncRetrying`
    """
    options = {"wait": wait_as_told, "reraise": True} | options
    late, fault = stop_before_delay(limits.deadline_seconds), retry_if_exception_type(TryAgain)
    busy = AsyncRetrying(retry=retry_if_exception_type(Busy), stop=late, **options)
    fault &= retry_if_not_exception_type(Busy)
    return partial(AsyncRetrying(retry=fault, stop=late | stop_after_attempt(limits.attempts), **options), busy)


def bucket(per_minute: float, largest: float) -> AsyncLimiter:
    """A limiter that lets through what `BURST_SECONDS` allow, or one largest request, and then keeps the pace."""
    size = max(per_minute * BURST_SECONDS / 60, largest)
    return AsyncLimiter(size, size * 60 / per_minute)


def run_alone(work: Coroutine, interrupted: Callable = lambda interrupt: None):
    """What a coroutine returns, in a thread and loop of its own, since a notebook has a loop already.

    An interrupt is told to `interrupted`, and raised when the coroutine has ended.
    """
    with server.quiet_clients(), ThreadPoolExecutor(1) as thread:
        future = thread.submit(asyncio.run, work)
        try:
            return future.result()
        except KeyboardInterrupt as interrupt:
            interrupted(interrupt)
            raise


class ChatClient:
    """Sends requests to one server, and stops when it is pointless to go on.

    Parameters
    ----------
    where : the server's name in errors
    options : see `wire.client_options`
    largest : tokens of the largest request

    Attributes
    ----------
    halt : why nothing more is sent, if so
    failures : requests in a row that got no answer
    answered : whether any request got one
    other_limit : whether the server refuses the name of the limit that a body has, and is given the other one
    """

    def __init__(self, where: str, options: dict, limits: Limits, largest: int = 1):
        self.where, self.options, self.limits, self.largest = where, options, limits, largest
        self.halt: BaseException | None = None
        self.failures, self.answered = 0, False
        self.closed_until, self.credit = 0.0, 0.0
        self.other_limit = False

    def run(self, jobs: Iterable, work: Callable[[object], Awaitable[str]], alone: Callable | None = None) -> None:
        """Do the work for all jobs: one after another at first, so that a wrong key, address or option costs one
        request, and then as many at once as allowed.

        An interrupt lets the requests in flight finish, because they are paid for.

        Parameters
        ----------
        work : asks what it has to with `ask`; returns a note if the job got no answer, else an empty string
        alone : whether still to go one by one; by default until the server has answered

        Raises
        ------
        ServerError : the server cannot be asked any more, or has not answered too often in a row
        """
        self.halt = None
        alone = alone or (lambda: not self.answered)
        run_alone(self.work_off(iter(jobs), work, alone), lambda interrupt: setattr(self, "halt", interrupt))
        if self.halt:
            raise self.halt

    async def work_off(self, jobs, work, alone) -> None:
        """Open the client and the limiters, which belong to one event loop, and set the workers to work."""
        self.requests = bucket(self.limits.requests_per_minute, 1)
        self.tokens = bucket(self.limits.tokens_per_minute, self.largest)
        async with wire.open_client(**self.options) as self.openai:
            await self.worker(jobs, work, alone)
            await asyncio.gather(*(self.worker(jobs, work) for _ in range(self.limits.concurrency)))

    async def worker(self, jobs, work, going: Callable = lambda: True) -> None:
        """Take jobs while there are any, and count those in a row that got no answer."""
        while going() and not self.halt and (job := next(jobs, None)) is not None:
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
        self.halt = self.halt or server.no_more(self.where, what, remedy)

    async def turn(self, tokens: float) -> None:
        """Wait until one more request of so many tokens may go out."""
        used = min(self.credit, tokens)
        self.credit -= used
        await self.tokens.acquire(min(tokens - used, self.tokens.max_rate))
        await self.requests.acquire()
        while (wait := self.closed_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def give_back(self, tokens: float) -> None:
        """Let later requests have the tokens by which an estimate was too high."""
        self.credit += max(tokens, 0)

    async def ask(
        self,
        body: dict,
        read: Callable,
        tokens: float = 0,
        leave: Callable = lambda: None,
        failed: Callable = lambda fault: None,
        **options,
    ):
        """What `read` makes of the answer's body, bytes.

        Parameters
        ----------
        read : raises TryAgain for a body that is no answer
        tokens : an upper estimate of the request's tokens
        leave : called each time just before the request leaves
        failed : called with the fault of each try that brought no answer
        options : of the official client's call, such as `extra_headers`

        Raises
        ------
        TryAgain : no answer within all tries and the deadline
        Refused : there will be none to this request
        ServerError : nothing more should be sent
        """

        async def pause(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await self.turn(tokens)

        await pause(0)
        if self.halt:
            raise ServerError(self.where, "was stopped", "run again to go on")
        tries = trying_again(self.limits, sleep=pause)
        try:
            async with asyncio.timeout(self.limits.deadline_seconds) as deadline:

                async def once():
                    try:
                        return await self.attempt(body, read, leave, deadline, options)
                    except TryAgain as fault:
                        failed(fault)
                        raise

                try:
                    return await tries(once)
                except Refused as refused:
                    if self.other_limit or self.answered or not refused.of_limit:
                        raise
                self.other_limit = True
                try:
                    return await tries(once)
                except Refused:
                    self.other_limit = False
                    raise
        except TimeoutError:
            pass
        raise TryAgain("deadline")

    def with_limit(self, body: dict) -> dict:
        """The body with its limit of tokens under the name that the server takes."""
        old, new = server.LIMITS if server.LIMITS[0] in body else server.LIMITS[::-1]
        return {new if name == old else name: value for name, value in body.items()} if self.other_limit else body

    async def attempt(self, body: dict, read: Callable, leave: Callable, deadline: asyncio.Timeout, options: dict):
        """One request on the wire, from its first byte to the answer's last within `attempt_seconds`; raises what
        `server.judge_error` makes of its failure.
        """
        leave()
        verdict = TryAgain("timeout")
        try:
            async with asyncio.timeout(self.limits.attempt_seconds):
                completions = self.openai.chat.completions.with_raw_response
                raw = await completions.create(**self.with_limit(body), **options)
            verdict = None
        except TimeoutError:
            pass
        except openai.OpenAIError as error:
            left = deadline.when() - asyncio.get_running_loop().time()
            verdict = server.judge_error(error, left, self.where)
        if verdict is None:
            return read(raw.http_response.content)
        if isinstance(verdict, TryAgain) and verdict.after:
            self.closed_until = max(self.closed_until, time.monotonic() + verdict.after)
        raise verdict
