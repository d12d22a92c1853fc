"""The `openai` provider: a chat server is asked by `models.client`, and no request is ever paid for twice.

What is done here is the bookkeeping: before a request leaves, the journal says so; its answer is on disk before the same
worker takes the next request; and nothing is sent that might exceed the cap on costs.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from emosafe_lib.augment import cost, exchange
from emosafe_lib.augment.journal import MAYBE_BILLED, Answer, Journal
from emosafe_lib.augment.requests import Request
from emosafe_lib.models.client import ChatClient
from emosafe_lib.models.completion import decoded, same_model
from emosafe_lib.models.server import Refused, TryAgain
from emosafe_lib.study import progress
from emosafe_lib.study.errors import ServerError
from emosafe_lib.study.parameters import AugmentationParams


class Bookkeeper:
    """Keeps the journal, the cap and the progress bar while the client sends."""

    def __init__(self, todo: list[Request], params: AugmentationParams, journal: Journal):
        from tqdm.auto import tqdm

        self.params, self.journal = params, journal
        largest = max(request.prompt_tokens for request in todo)
        self.client = ChatClient("chat server", exchange.options_of(params), params, largest)
        self.reserved = 0.0
        self.bar = tqdm(total=len(todo), desc="asking", leave=False, mininterval=1.0)

    async def work(self, request: Request) -> str:
        """Have one request answered and written down; returns a note if there was no answer, else an empty string.

        Raises
        ------
        ServerError : nothing more should be sent
        """
        price = cost.estimate([request], self.params)["cost_usd"]
        doubtful = self.journal.timeouts * price
        if self.journal.spent_usd + self.reserved + doubtful + price > self.params.max_cost_usd + 1e-9:
            what = f"the cap of {self.params.max_cost_usd} US dollars is reached"
            self.client.stop(what, "raise augmentation.max_cost_usd to go on")
            return ""
        lost: list[float] = []  # what tries may have cost that brought nothing

        def failed(fault: TryAgain) -> None:
            if fault.note in MAYBE_BILLED:
                lost.append(price)
                self.reserved += price

        self.reserved += price
        try:
            answer = await self.ask(request, failed)
        finally:
            self.reserved -= price + sum(lost)
        last = answer.outcome == "api_error" and answer.note in MAYBE_BILLED and answer.note != "deadline"
        answer = replace(answer, lost=len(lost) - last)  # the last try is counted by its note
        self.journal.answered(answer)
        self.step()
        if self.params.strict_model and answer.model and not same_model(self.params.model, answer.model):
            remedy = "set augmentation.model to the model that answers, or strict_model to false"
            self.client.stop("another model answered than was asked", remedy)
        return answer.note if answer.outcome == "api_error" else ""

    async def ask(self, request: Request, failed: Callable[[TryAgain], None]) -> Answer:
        """The answer to one request, whatever became of it; `failed` is told of each try that brought none.

        Raises
        ------
        ServerError : it was never sent, since the run was stopped
        """
        left: list[float] = []

        def leave() -> None:
            if not left:
                self.journal.sent(request.key)
            left.append(time.monotonic())

        # Where a server honours the key, not even an answer that was lost on its way is paid for twice.
        headers = {"Idempotency-Key": request.key}
        try:
            answer = await self.client.ask(
                exchange.body_of(request, self.params),
                lambda body: exchange.read_body(decoded(body), request, self.params),
                request.prompt_tokens,
                leave,
                failed,
                extra_headers=headers,
            )
            self.client.give_back(request.prompt_tokens - answer.prompt_tokens)
        except TryAgain as fault:
            answer = Answer(request.key, "api_error", note=fault.note)
        except (Refused, ServerError) as fault:
            if not left:
                raise
            answer = self.given_up(request, fault)
        return replace(answer, seconds=round(time.monotonic() - left[0], 3), attempts=len(left))

    def given_up(self, request: Request, fault: Refused | ServerError) -> Answer:
        """The record of a request that the server will not answer; stops the run unless a filter caught just this one."""
        if isinstance(fault, Refused) and fault.filtered:
            return Answer(request.key, "content_filter")
        error = fault.error(self.client.where) if isinstance(fault, Refused) else fault
        self.client.halt = self.client.halt or error
        return Answer(request.key, "api_error", note="stopped")

    def step(self) -> None:
        """One more request has ended."""
        spent = f"${self.journal.spent_usd:.4f}"
        self.bar.set_postfix_str(spent, refresh=False)
        self.bar.update()
        progress.heartbeat(f"asking, {spent} so far,", self.bar.n, self.bar.total)


def answer_all(todo: list[Request], params: AugmentationParams, journal: Journal) -> None:
    """Ask a chat server.

    Raises
    ------
    AugmentationError : no usable key or address, a cap that might be exceeded, a server that cannot go on
    """
    cost.check_cap(todo, journal, params)
    keeper = Bookkeeper(todo, params, journal)
    with keeper.bar:
        keeper.client.run(todo, keeper.work)
