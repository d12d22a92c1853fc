"""Augmentation through the official client, over a socket, against a server that misbehaves."""

import calendar
import email.utils
import inspect
import json
import logging
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from augment_cases import command_of, live, row, rows
from chat_server import ChatServer, Response, completion, short_id

from emosafe_lib.augment import cost, reinterpretation
from emosafe_lib.augment import requests as augment_requests
from emosafe_lib.augment.journal import Journal, journal_path
from emosafe_lib.augment.providers import openai_batch
from emosafe_lib.models import server as server_module
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.rows import write_rows

KEY = "sk-canary-key-000000"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def run(server, folder, count=8, table=None, **changes):
    return reinterpretation.reinterpret(rows(count) if table is None else table, live(server.url, **changes), folder)


def answers(folder):
    """All answers in the one journal of a folder, final or not."""
    (path,) = Path(folder).glob("*.jsonl")
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [record for record in records if "outcome" in record]


def test_a_good_server_gives_one_row_a_request(tmp_path):
    with ChatServer() as server:
        patient = {"attempt_seconds": 4.0}  # on a crowded machine a good answer may take longer than 0.4 s
        made = run(server, tmp_path, **patient)
        assert made.card["accepted"] == made.card["requested"] == len(server.seen) == 8
        assert set(server.billed.values()) == {1} and made.card["cost_usd"] == pytest.approx(8 * (500 + 160) / 1e6)
        again = run(server, tmp_path, **patient)
        assert again.rows.equals(made.rows) and len(server.seen) == 8 and again.card["from_journal"] == 8


def test_18_a_refused_key_costs_one_request(tmp_path):
    """401 stops at once; the server's message, which quotes a key, is not repeated."""
    with ChatServer(lambda number, body: "401") as server:
        with pytest.raises(AugmentationError, match="401") as caught:
            run(server, tmp_path)
        assert len(server.seen) == 1 and "canary" not in str(caught.value) and "\n" not in str(caught.value)


def test_19_retry_after_is_honoured_and_every_row_is_answered_once(tmp_path):
    """Nobody sends while the server has asked for a pause."""
    with ChatServer(lambda number, body: "429:0.5" if number == 2 else "good") as server:
        made = run(server, tmp_path, concurrency=1)
        assert made.card["answered"] == 8 and len(server.seen) == 9
        assert server.times[3] - server.times[2] >= 0.5
        assert set(server.billed.values()) == {1}


def test_19_one_refusal_makes_all_workers_wait(tmp_path):
    """What was under way arrives, and then nothing until the server's time is over."""
    with ChatServer(lambda number, body: "429:1" if number == 4 else "good", latency=0.05) as server:
        run(server, tmp_path, count=16, concurrency=4)
        refused = server.times[4]
        assert not [at for at in server.times if refused + 0.3 < at < refused + 1.0]
        assert len([at for at in server.times if at > refused + 1.0]) >= 8


def test_19_rate_limits_do_not_count_as_faults(tmp_path):
    """More refusals than `attempts`, and the row still gets its answer."""
    with ChatServer(lambda number, body: "429" if number < 6 else "good") as server:
        assert run(server, tmp_path, count=2, attempts=2).card["answered"] == 2


def test_20_a_used_up_quota_stops_and_a_later_run_goes_on(tmp_path):
    with ChatServer(lambda number, body: "good" if number < 3 else "quota") as server:
        with pytest.raises(AugmentationError, match="quota.*run again.*kept"):
            run(server, tmp_path, concurrency=1)
        assert len(server.seen) == 4
        server.behaviour = lambda number, body: "good"
        card = run(server, tmp_path).card
        assert card["from_journal"] == 3 and card["answered"] == 8 and set(server.billed.values()) == {1}


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_21_an_hour_of_retry_after_stops_and_says_when(form, tmp_path):
    wait = "3600" if form == "seconds" else email.utils.formatdate(time.time() + 3600, usegmt=True)
    started = time.monotonic()
    with ChatServer(lambda number, body: f"429:{wait}") as server:
        with pytest.raises(AugmentationError, match="until .* UTC") as caught:
            run(server, tmp_path)
        said = re.search(r"until (.*) UTC", str(caught.value)).group(1)
        assert abs(calendar.timegm(time.strptime(said, "%Y-%m-%d %H:%M")) - time.time() - 3600) < 120
        assert len(server.seen) == 1 and time.monotonic() - started < 5


@pytest.mark.parametrize("kind", ["500", "hang", "cut", "drop"])
def test_22_a_bad_line_is_bounded_by_a_deadline(kind, tmp_path):
    """Every row ends with an outcome, in bounded time."""
    started = time.monotonic()
    with ChatServer(lambda number, body: kind, idempotent=False) as server:
        card = run(server, tmp_path, count=4, deadline_seconds=1.0, attempt_seconds=0.3, attempts=10).card
    assert time.monotonic() - started < 8
    assert card["rejected"] == {"api_error": 4} and card["answered"] == 0
    assert {answer["outcome"] for answer in answers(tmp_path)} == {"api_error"}


def test_22_a_dead_server_is_not_asked_two_thousand_times(tmp_path):
    """After some failures in a row the run ends and says so."""
    with ChatServer(lambda number, body: "500") as server:
        with pytest.raises(AugmentationError, match="in a row"):
            run(server, tmp_path, count=60, attempts=1)
        assert len(server.seen) < 30


def test_22_passing_faults_are_survived(tmp_path):
    """Each second request fails in some way, and no row is lost."""
    kinds = ["500", "hang", "cut", "drop", "late"]
    with ChatServer(lambda number, body: kinds[number // 2 % 5] if number % 2 else "good") as server:
        card = run(server, tmp_path, attempts=6, attempt_seconds=0.3).card
        assert card["answered"] == 8 and set(server.billed.values()) == {1}


@pytest.mark.parametrize("kind", ["html", "broken"])
def test_23_a_body_that_is_no_completion_is_an_api_error(kind, tmp_path, caplog, capfd):
    """Tries are capped, and nothing of the body is kept or logged."""
    with ChatServer(lambda number, body: kind) as server, caplog.at_level(logging.DEBUG):
        card = run(server, tmp_path, count=2, attempts=3).card
        assert len(server.seen) == 6 and card["rejected"] == {"api_error": 2}
    said = caplog.text + "".join(capfd.readouterr()) + "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert not any(part in said for part in ("html", "Whenever I pass", "chatcmpl", "choices"))


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("no_choices", "no_choices"),
        ("refusal", "refusal"),
        ("filter", "content_filter"),
        ("filter400", "content_filter"),
        ("length", "length"),
    ],
)
def test_24_and_25_each_way_not_to_answer_has_its_name(kind, outcome, tmp_path):
    """Counted, never accepted, and not asked again."""
    with ChatServer(lambda number, body: kind) as server:
        for _ in range(2):
            assert run(server, tmp_path, count=3).card["rejected"] == {outcome: 3}
        assert len(server.seen) == 3


def test_26_another_model_is_recorded(tmp_path):
    with ChatServer(lambda number, body: "wrong_model") as server:
        card = run(server, tmp_path, count=3).card
        assert card["models_answered"] == {"another-model": 3} and card["accepted"] == 3


def test_26_strict_mode_stops_at_another_model_and_accepts_none_of_it(tmp_path):
    """What was paid stays on record."""
    with ChatServer(lambda number, body: "wrong_model") as server:
        with pytest.raises(AugmentationError, match="another model"):
            run(server, tmp_path, strict_model=True)
        assert len(server.seen) == 1 and answers(tmp_path)[0]["model"] == "another-model"
        server.behaviour = lambda number, body: "snapshot"
        assert run(server, tmp_path, strict_model=True).card["rejected"] == {"other_model": 1}


@pytest.mark.parametrize("kind", ["fenced", "trailing", "duplicate_key", "list", "nan", "reply:", "reply:null"])
def test_27_a_reply_that_is_not_the_json_asked_for_is_rejected(kind, tmp_path):
    with ChatServer(lambda number, body: kind) as server:
        rejected = run(server, tmp_path, count=2).card["rejected"]
        assert rejected == ({"no_choices": 2} if kind == "reply:" else {"schema": 2}) and len(server.seen) == 2


def test_28_one_reply_to_all_is_accepted_once(tmp_path):
    with ChatServer(lambda number, body: "same") as server:
        card = run(server, tmp_path, count=5).card
        assert card["accepted"] == 1 and card["rejected"] == {"near_duplicate": 4}


def test_29_after_kill_9_only_unfinished_rows_are_paid_for(tmp_path):
    """The process is killed in mid-run, twice; every row ends up answered and billed once."""
    write_rows(rows(24), tmp_path / "rows.parquet")
    with ChatServer(latency=0.05) as server:
        command = command_of(tmp_path / "rows.parquet", live(server.url), tmp_path)
        for limit in (6, 14):
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            end = time.monotonic() + 60
            while len(server.billed) < limit and time.monotonic() < end:
                time.sleep(0.005)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        assert limit <= len(server.billed) < 24
        before = len(server.seen)
        card = run(server, tmp_path, table=rows(24)).card
        assert card["answered"] == 24 and card["from_journal"] >= limit - 4
        assert len(server.billed) == 24 and set(server.billed.values()) == {1}
        assert len(server.seen) - before == 24 - card["from_journal"]


def test_29_a_request_is_noted_before_it_leaves(tmp_path):
    """Fault 29: whatever the server gets to see is in the journal by then, tries after a fault included."""
    noted = []

    def behaviour(number, body):
        (path,) = tmp_path.glob("*.jsonl")
        noted.append(any(f'"sent":"{short_id(body)}' in line for line in path.read_text().splitlines()))
        return "500" if number % 3 == 1 else "good"

    with ChatServer(behaviour) as server:
        assert run(server, tmp_path, count=12, attempts=8).card["answered"] == 12
        assert all(noted) and len(noted) == len(server.seen) > 12


def test_29_answers_lost_in_flight_are_told(tmp_path):
    """A server that bills what was lost; the card says how many may have been, and the cap counts them."""
    with ChatServer() as server:
        params = live(server.url)
        request = augment_requests.requests_for(rows(4), params)[0]
        with Journal(journal_path(tmp_path, params)) as journal:
            journal.sent(request.key)
            assert journal.uncertain == 1
            dollars = reinterpretation.estimate(rows(4), params)["cost_usd"]
            tight = params.model_copy(update={"max_cost_usd": dollars * 1.01})
            with pytest.raises(AugmentationError, match="max_cost_usd"):
                cost.check_cap(augment_requests.requests_for(rows(4), params), journal, tight)


def test_32_a_try_that_was_cut_off_counts_although_the_next_one_is_answered(tmp_path):
    with ChatServer(lambda number, body: "drop" if number == 1 else "good") as server:
        run(server, tmp_path, count=3, concurrency=1)
        params = live(server.url)
        with Journal(journal_path(tmp_path, params)) as journal:
            assert journal.uncertain == 1 and sum(answer.lost for answer in journal.answers.values()) == 1
            price = reinterpretation.estimate(rows(1), params)["cost_usd"]
            left = params.model_copy(update={"max_cost_usd": journal.spent_usd + 1.5 * price})
            with pytest.raises(AugmentationError, match="max_cost_usd"):
                cost.check_cap(augment_requests.requests_for(rows(1), params), journal, left)


def test_31_a_changed_parameter_asks_anew_and_keeps_the_old_answers(tmp_path):
    with ChatServer() as server:
        run(server, tmp_path, count=3)
        run(server, tmp_path, count=3, temperature=0.1)
        assert len(server.seen) == 6 and len(list(tmp_path.glob("*.jsonl"))) == 2
        assert run(server, tmp_path, count=3).card["from_journal"] == 3


def test_32_a_cost_cap_stops_before_anything_is_sent(tmp_path):
    with ChatServer() as server:
        with pytest.raises(AugmentationError, match="max_cost_usd.*cap 0.0001"):
            run(server, tmp_path, max_cost_usd=0.0001)
        with pytest.raises(AugmentationError, match="price"):
            run(server, tmp_path, prices=None)
        assert not server.raw


@pytest.mark.parametrize("usage", [-(10**9), 0, 10**400, 0.5, None, "many"])
def test_32_what_a_server_says_of_usage_never_lowers_what_counts(usage, tmp_path):
    """One answer with a debt of tokens would let all others pass the cap."""
    kind = Response(body=json.dumps(completion("{}") | {"usage": {"prompt_tokens": usage}}).encode())
    with ChatServer(lambda number, body: kind) as server:
        run(server, tmp_path, count=1)
        params = live(server.url)
        (request,) = augment_requests.requests_for(rows(1), params)
        with Journal(journal_path(tmp_path, params), {}) as journal:
            assert journal.spent_usd >= cost.of_tokens(request.prompt_tokens, 0, params)


def test_32_a_cap_counts_the_larger_of_both_counts(tmp_path):
    """The bill is the server's count where that can be; the cap counts ours where it is larger, and theirs where it is."""
    with ChatServer() as server:
        card = run(server, tmp_path, count=2).card
        with Journal(journal_path(tmp_path, live(server.url)), {}) as journal:
            assert journal.spent_usd > card["cost_usd"] == pytest.approx(2 * (500 + 160) / 1e6)
    dear = Response(body=json.dumps(completion("{}") | {"usage": {"prompt_tokens": 10**6}}).encode())
    with ChatServer(lambda number, body: dear) as server, pytest.raises(AugmentationError, match="cap of 2.0"):
        run(server, tmp_path, count=8, max_cost_usd=2.0, concurrency=1)
    assert len(server.seen) == 2


@pytest.mark.parametrize("amount", ["-1", "1e999", "1" + "0" * 400, "NaN", '"free"', "-1e-9", "1e13", "null"])
@pytest.mark.parametrize("name", ["cost_usd", "cap_usd", "prompt_tokens"])
def test_32_a_journal_line_with_an_impossible_amount_is_refused(name, amount, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(f'{{"settings":{{}}}}\n{{"key":"k","outcome":"ok","{name}":{amount}}}\n')
    with (
        pytest.raises(AugmentationError, match="journal.jsonl line 2: is not a journal record") as caught,
        Journal(path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_32_a_row_cap_is_never_exceeded(tmp_path):
    with ChatServer() as server:
        run(server, tmp_path, count=40, max_rows=5)
        assert len(server.seen) == 5
        params = live(server.url, max_rows=5)
        with (
            Journal(tmp_path / "other.jsonl") as journal,
            pytest.raises(AugmentationError, match="40 requests planned, cap 5"),
        ):
            reinterpretation.answer_all(
                rows(40), augment_requests.requests_for(rows(40), live(server.url)), params, journal
            )
        assert len(server.seen) == 5


def test_33_canaries_and_the_key_are_nowhere(tmp_path, caplog, capfd, monkeypatch):
    """Not in a captured request, the journal, a log at debug level, standard output, rows or card."""
    canaries = ("zelda.quux@example.org", "+49 170 9988776", "@zelda_quux", "instagram: zelda.quux", "u/zelda_quux")
    told = [row(n, text=f"{row(n)['text']} Write to me: {canaries[n % 5]} please.") for n in range(20)]
    monkeypatch.setenv("OPENAI_LOG", "debug")
    logging.getLogger("openai").setLevel(logging.DEBUG)
    kinds = ("good", "500", "identifier", "good", "broken")
    with ChatServer(lambda number, body: kinds[number % 5]) as server, caplog.at_level(logging.DEBUG):
        made = run(server, tmp_path, table=rows(0, *told), attempts=10, attempt_seconds=4.0, deadline_seconds=60.0)
        assert made.card["answered"] == 20
        sent = server.raw.decode()
    assert "[EMAIL_1]" in sent and "[PHONE_1]" in sent and "[USER_1]" in sent and sent.count(KEY) == len(server.seen)
    kept = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    shown = caplog.text + "".join(capfd.readouterr()) + json.dumps(made.card)
    for canary in canaries:
        for place in (sent, kept, shown, made.rows.to_json()):
            assert canary not in place and canary.lower() not in place.lower()
    assert KEY not in kept + shown and "Whenever I pass" not in kept + shown


def test_33_a_traceback_shows_neither_key_nor_text(tmp_path):
    """The whole chain of an uncaught error."""
    write_rows(rows(3), tmp_path / "rows.parquet")
    with ChatServer(lambda number, body: "400") as server:
        command = command_of(tmp_path / "rows.parquet", live(server.url), tmp_path)
        environment = os.environ | {"OPENAI_LOG": "debug"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "refuses the request (status 400, unknown_parameter)" in said
    assert KEY not in said and "Whenever" not in said and said.count("Traceback") == 1


def test_a_redirect_is_not_followed(tmp_path):
    """A text must not travel to another address because a server says so."""
    with ChatServer(lambda number, body: "redirect") as server:
        with pytest.raises(AugmentationError, match="307"):
            run(server, tmp_path)
        assert len(server.seen) == 1 and b"/elsewhere" not in server.raw


def test_35_replay_uses_recorded_replies_and_opens_no_socket(tmp_path, monkeypatch):
    """Without a key too; what was never recorded is counted."""
    with ChatServer() as server:
        recorded = run(server, tmp_path, count=5)
        url = server.url

    def refuse(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.delenv("OPENAI_API_KEY")
    replayed = reinterpretation.reinterpret(rows(5), live(url, provider="replay"), tmp_path)
    assert replayed.rows.equals(recorded.rows)
    card = reinterpretation.reinterpret(rows(7), live(url, provider="replay"), tmp_path).card
    assert card["rejected"].get("not_recorded", 0) >= 2 and card["answered"] <= 5


def test_the_rate_limit_holds(tmp_path):
    """Twelve requests at four a second, after a burst of what two seconds allow."""
    started = time.monotonic()
    with ChatServer() as server:
        run(server, tmp_path, count=12, requests_per_minute=240, concurrency=12, attempt_seconds=4.0)
        assert len(server.seen) == 12 and time.monotonic() - started >= (12 - 4 * 2 - 1) / 4
        assert server.times[-1] - server.times[0] >= 0.7


def test_the_limit_on_tokens_holds(tmp_path):
    with ChatServer() as server:
        tokens = augment_requests.requests_for(rows(1), live(server.url))[0].prompt_tokens
        run(server, tmp_path, count=6, tokens_per_minute=int(tokens * 60), concurrency=6)
        assert server.times[-1] - server.times[0] >= 1.5


def test_no_more_requests_at_once_than_allowed(tmp_path):
    with ChatServer(latency=0.2) as server:
        run(server, tmp_path, count=9, concurrency=3)
        ahead = [server.times[n + 3] - server.times[n] for n in range(1, 6)]
        assert min(ahead) >= 0.15


# --- the Batch API ----------------------------------------------------------------------------------------------------


def test_a_batch_is_handed_in_once_and_costs_half(tmp_path):
    with ChatServer() as server:
        server.batch_polls = 2
        made = run(server, tmp_path, provider="openai-batch")
        assert made.card["accepted"] == 8 and set(server.billed.values()) == {1}
        assert made.card["cost_usd"] == pytest.approx(8 * (500 + 160) / 2e6)
        assert run(server, tmp_path, provider="openai").card["from_journal"] == 8 and len(server.batches) == 1


def test_29_a_batch_under_way_is_picked_up_by_the_next_run(tmp_path):
    """The first run does not wait for it, the second one fetches it."""
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress.*nothing is sent twice"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8
        assert len(server.batches) == 1 and set(server.billed.values()) == {1}


def test_29_a_batch_whose_id_was_lost_is_found_by_its_digest(tmp_path):
    """Killed between handing in and writing the id down."""
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(b"".join(line for line in path.read_bytes().splitlines(True) if b'"batch"' not in line))
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8
        assert len(server.batches) == 1 and set(server.billed.values()) == {1}


def others(server: ChatServer, number: int, **changes) -> None:
    """Start batches of somebody else on the same account."""
    for each in range(number):
        server.batches[f"other-{each}"] = (
            server.batches["batch-0"] | {"id": f"other-{each}", "metadata": None} | changes
        )


def test_29_a_batch_whose_id_was_lost_is_found_behind_all_that_an_account_has_started_since(tmp_path):
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        others(server, 2 * openai_batch.PAGE)
        next(tmp_path.glob("*.jsonl")).unlink()
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8
        assert set(server.billed.values()) == {1} and len(server.pages) == 1 + 3


def test_nobody_pages_through_batches_whose_answers_are_deleted(tmp_path):
    with ChatServer() as server:
        run(server, tmp_path / "a", provider="openai-batch")
        others(server, 2 * openai_batch.PAGE, created_at=int(time.time()) - openai_batch.OLDEST - 60)
        run(server, tmp_path / "b", table=rows(0, row(8), row(9)), provider="openai-batch")
        assert server.pages == ["", ""]


@pytest.mark.parametrize("heard", [True, False])
def test_29_a_batch_whose_answer_was_lost_on_its_way_is_not_handed_in_again(tmp_path, monkeypatch, heard):
    """The server has taken it, or has not: only the second one is worth another try."""
    lost, once = [], openai_batch.BatchServer.once

    async def drops_an_answer(self, ask):
        creating = "batches.create" in inspect.getsource(ask) if ask.__name__ == "<lambda>" else False
        if not creating or lost:
            return await once(self, ask)
        if heard:
            await once(self, ask)
        lost.append(True)
        raise server_module.TryAgain("connection")

    monkeypatch.setattr(openai_batch.BatchServer, "once", drops_an_answer)
    monkeypatch.setattr(openai_batch, "PAUSE_SECONDS", 0.0)
    with ChatServer() as server:
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8
        assert lost and len(server.batches) == 1 and set(server.billed.values()) == {1}


@pytest.mark.parametrize("meanwhile", ["other rows", "answered"])
def test_29_an_old_batch_is_fetched_and_what_it_does_not_answer_is_handed_in(tmp_path, meanwhile):
    """It stood for rows that are no longer asked about, or for rows that were answered one by one since."""
    table = rows(0, *(row(number) for number in range(8, 16)))
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        if meanwhile == "answered":
            run(server, tmp_path, provider="openai")
            table = rows(16)
        card = run(server, tmp_path, table=table, provider="openai-batch").card
        assert card["answered"] == card["requested"] == len(table) and len(server.batches) == 2


def test_29_an_old_batch_may_be_larger_than_what_is_left_to_ask(tmp_path, monkeypatch):
    """The bound on its answers follows the requests that it was handed in with."""
    monkeypatch.setattr(openai_batch.wire, "LARGEST_BODY", 3000)
    monkeypatch.setattr(openai_batch, "BYTES_OF_ANSWER", 2000)
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        table = rows(0, row(8), row(9))
        assert run(server, tmp_path, table=table, provider="openai-batch").card["answered"] == 2


def test_29_a_batch_that_expired_unanswered_is_handed_in_again(tmp_path):
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        server.files["out-0"] = b""
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8 and len(server.batches) == 2


def test_29_a_batch_whose_answers_are_deleted_is_handed_in_again(tmp_path):
    """Whoever comes back after a month; a younger one without its file is the server's fault."""
    with ChatServer() as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        del server.files["out-0"]
        with pytest.raises(AugmentationError, match="404"):
            run(server, tmp_path, provider="openai-batch")
        server.batches["batch-0"]["created_at"] -= openai_batch.OLDEST
        assert run(server, tmp_path, provider="openai-batch").card["answered"] == 8 and len(server.batches) == 2


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ('{"custom_id": []}', None),
        ('{"custom_id": "somebody else"}', None),
        ("[1]", None),
        ('{"custom_id": "KEY"}', "api_error"),
        ('{"custom_id": "KEY", "response": "sorry"}', "api_error"),
        ('{"custom_id": "KEY", "response": {"status_code": 200, "body": [1]}}', "api_error"),
    ],
)
def test_24_a_line_of_another_form_costs_one_answer_and_no_run(line, outcome):
    params = live("http://127.0.0.1:9/v1", provider="openai-batch")
    (request,) = augment_requests.requests_for(rows(1), params)
    answer = openai_batch.read_line(line.replace("KEY", request.key).encode(), {request.key: request}, params)
    assert (answer and answer.outcome) == outcome


def test_29_a_line_that_failed_in_an_old_batch_waits_for_the_next_run(tmp_path):
    """Asked once more beside the rest, two lines that always fail would take turns for ever."""
    with ChatServer(lambda number, body: "500" if number % 8 == 0 else "good") as server:
        server.batch_polls = 1
        with pytest.raises(AugmentationError, match="in_progress"):
            run(server, tmp_path, provider="openai-batch", batch_wait_seconds=0.0)
        card = run(server, tmp_path, count=16, provider="openai-batch").card
        assert card["answered"] == 14 and card["failed_requests"] == {"batch line": 2} and len(server.batches) == 2


def test_24_lines_of_a_batch_fail_one_by_one(tmp_path):
    """A bad line costs one row, and a later run asks for it alone."""
    with ChatServer(lambda number, body: ("good", "500", "refusal", "fenced")[number % 4]) as server:
        card = run(server, tmp_path, provider="openai-batch").card
        assert card["accepted"] == 2 and card["rejected"] == {"api_error": 2, "refusal": 2, "schema": 2}
        server.behaviour = lambda number, body: "good"
        card = run(server, tmp_path, provider="openai-batch").card
        assert card["accepted"] == 4 and len(server.seen) == 10


def test_33_a_batch_file_holds_no_identifier(tmp_path):
    told = [row(n, text=f"{row(n)['text']} Mail zelda.quux@example.org please.") for n in range(4)]
    with ChatServer() as server:
        run(server, tmp_path, table=rows(0, *told), provider="openai-batch")
        assert b"[EMAIL_1]" in server.raw and b"zelda" not in server.raw


def test_32_a_batch_beyond_the_cap_is_not_handed_in(tmp_path):
    with ChatServer() as server:
        with pytest.raises(AugmentationError, match="max_cost_usd"):
            run(server, tmp_path, provider="openai-batch", max_cost_usd=0.0001)
        assert not server.batches and not server.files
