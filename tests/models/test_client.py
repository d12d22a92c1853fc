"""The client of a chat server without a server: how its limits and its workers behave."""

import asyncio
import time

import pytest

from emosafe_lib.models import client
from emosafe_lib.models.server import Busy, TryAgain
from emosafe_lib.study.errors import ServerError

OPTIONS = {"api_key": "none", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0, "timeout": 1.0}


def opened(largest: int = 1, **limits) -> client.ChatClient:
    """A client that nobody answers; its jobs need not ask."""
    return client.ChatClient("here", OPTIONS, client.Limits(**limits), largest)


def seconds_for(asked: client.ChatClient, jobs: int, tokens: float, too_many: float) -> float:
    """How long so many jobs wait for their turns; `too_many` of their tokens are given back."""

    async def work(_) -> str:
        await asked.turn(tokens)
        asked.give_back(too_many)
        return ""

    started = time.monotonic()
    asked.run(range(jobs), work)
    return time.monotonic() - started


def test_tokens_are_limited_by_what_was_used_and_not_by_the_estimate():
    """At 100 tokens a second, after a burst of 200: what is given back need not be waited for."""
    assert seconds_for(opened(100, tokens_per_minute=6000, concurrency=1), 5, 100, 0) >= 2.95
    assert seconds_for(opened(100, tokens_per_minute=6000, concurrency=1), 20, 100, 90) < 9  # 18 without


def test_a_request_above_the_burst_goes_out_and_pays_for_itself():
    """At 100 tokens a second a burst holds 200; the second request of 300 waits until the first is worked off."""
    assert seconds_for(opened(300, tokens_per_minute=6000), 1, 300, 0) < 2.5
    assert seconds_for(opened(300, tokens_per_minute=6000), 2, 300, 0) >= 2.95


def test_less_than_one_request_in_two_seconds_is_possible():
    assert seconds_for(opened(requests_per_minute=20), 1, 1, 0) < 2.5
    assert seconds_for(opened(requests_per_minute=20), 2, 1, 0) >= 2.95


def test_jobs_go_one_by_one_until_one_is_answered():
    under_way, most = [], []

    async def work(job) -> str:
        under_way.append(job)
        most.append(len(under_way))
        await asyncio.sleep(0.02)
        under_way.remove(job)
        return "" if job >= 3 else "no answer"

    opened(concurrency=4).run(range(12), work)
    assert most[:4] == [1] * 4 and max(most) == 4


def test_failures_in_a_row_end_the_run_and_what_is_in_flight_finishes():
    finished = []

    async def work(job) -> str:
        await asyncio.sleep(0.05 if job < 4 else 0.0)
        finished.append(job)
        return "" if job < 4 else "no answer"

    with pytest.raises(ServerError, match="in a row \\(no answer\\).*kept"):
        opened(concurrency=4).run(range(100), work)
    assert set(range(4)) <= set(finished) and len(finished) <= 4 + client.FAILURES_IN_A_ROW + 4


def test_only_faults_count_as_attempts_and_the_last_one_is_told():
    raised = [Busy("early", 0.0)] * 6 + [TryAgain("down", 0.0)] * 9
    left = iter(raised)

    async def once():
        raise next(left)

    with pytest.raises(TryAgain, match="down"):
        asyncio.run(client.trying_again(client.Limits(attempts=3))(once))
    assert len(list(left)) == len(raised) - 6 - 3


def test_nobody_waits_past_the_deadline_for_another_try():
    async def once():
        raise Busy("early", 5.0)

    started = time.monotonic()
    with pytest.raises(Busy):
        asyncio.run(client.trying_again(client.Limits(deadline_seconds=1.0))(once))
    assert time.monotonic() - started < 1.0
