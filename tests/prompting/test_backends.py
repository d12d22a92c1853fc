"""Chat servers over loopback: log-probabilities where there are any, a strict parser elsewhere."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from prompting import make_rows, model_params, settings
from tenacity import wait_none

from emosafe_lib.models import client
from emosafe_lib.models.completion import Listed, Token
from emosafe_lib.prompting import attacks, backends, label_reading, scoring, wordings
from emosafe_lib.prompting.answers import Calibration, chances
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.taxonomy import CATEGORY_TABLE

ROWS = make_rows()
TEST = ROWS[ROWS["split"] == "test"].reset_index(drop=True).head(4)
LEVELS = ("safe", "borderline", "unsafe")


class Server:
    """A chat-completions server on loopback that answers as `reply(request)` says: a dict, or (status, text) or
    (status, text, headers).
    """

    def __init__(self, reply):
        self.requests: list[dict] = []
        self.times: list[float] = []
        seen, times = self.requests, self.times

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append(request)
                times.append(time.monotonic())
                answer = reply(request)
                status, body, *headers = answer if isinstance(answer, tuple) else (200, json.dumps(answer))
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | dict(*headers)).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


def completion(content, top=None, finish="stop", refusal=None):
    """A chat completion; `top` maps first tokens to log-probabilities."""
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in (top or {}).items()]
    logprobs = {"content": [listed[0] | {"top_logprobs": listed}], "refusal": None} if listed else None
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def serve(monkeypatch):
    """Start a server and return it with a backend; retries do not wait."""
    started = []
    monkeypatch.setenv("OPENAI_API_KEY", "canary-key")
    monkeypatch.setattr(client, "BACK_OFF", wait_none())

    def start(reply):
        server = Server(reply)
        started.append(server)
        changes = {"name": "served", "weights": "hub", "path": "m", "backend": "openai", "base_url": server.url}
        return server, backends.open_backend(model_params(**changes))

    yield start
    for server in started:
        server.http.shutdown()
        server.http.server_close()


def ask(backend, task="safety", setting="zero-shot", rows=TEST, variant="plain"):
    return scoring.score_rows(backend, scoring.pose(backend, settings(), ROWS, task, setting, variant), rows)


@pytest.mark.parametrize(
    "answer, label",
    [
        ("safe", "safe"),
        ("Unsafe.", "unsafe"),
        (" **borderline**\n", "borderline"),
        ("Answer: unsafe", "unsafe"),
        ('{"level": "safe"}', "safe"),
        ("not safe", None),
        ("isn't safe", None),
        ("safe or unsafe", None),
        ("unsafe, not safe", None),
        ("safe?", None),
        ("un-safe", None),
        ("unsafely", None),
        ("The message is safe", None),
        ("", None),
        (None, None),
        ("yes", None),
    ],
)
def test_only_a_whole_answer_is_a_label(answer, label):
    """Two labels, a negated label, "unsafe" containing "safe"."""
    assert label_reading.parse_answer(answer, LEVELS) == label


def test_log_probabilities_score_the_labels(serve):
    """First tokens, whole or partial, in any case, count for the one label that they begin."""
    top = {" Safe": np.log(0.5), "un": np.log(0.25), "unsafe": np.log(0.05), "border": np.log(0.1), "x": np.log(0.1)}
    _, backend = serve(lambda _: completion("safe", top))
    scores = ask(backend)
    assert np.exp(scores.log_probabilities[0, 0]) == pytest.approx([0.5, 0.1, 0.3])
    assert scores.outcomes == ["ok"] * 4


def test_a_label_that_is_not_listed_gets_the_smallest_value():
    assert np.exp(
        label_reading.first_token_scores([("safe", np.log(0.9)), ("?", np.log(0.02))], LEVELS)
    ) == pytest.approx([0.9, 0.02, 0.02])
    assert label_reading.first_token_scores([("?", -0.1)], LEVELS) is None


@pytest.mark.parametrize(
    "answer, label",
    [
        ("<think>\n\n</think>\n\nunsafe", "unsafe"),
        ("<think>safe or unsafe?</think> borderline", "borderline"),
        ("The answer is unsafe.", "unsafe"),
        ("<answer>safe</answer>", "safe"),
        ("```json\nunsafe\n```", "unsafe"),
        ("__unsafe__", "unsafe"),
        ("The answer is not safe", None),
        ("The answer is: safe?", None),
        ("answer? safe", None),
        ("<think>safe", None),
        ("answersafe", None),
        ("safe <think>unsafe</think>", "safe"),
        ("<b>" * 600 + "safe", "safe"),
        ("<think>" * 100_000, None),
        ("<|!|>" * 390 + "x", None),
        ("<think></think>" * 130 + "x", None),
        ("```\n" * 390 + "x", None),
    ],
)
def test_what_stands_before_an_answer_is_no_part_of_it(answer, label):
    started = time.process_time()
    assert label_reading.parse_answer(answer, LEVELS) == label and time.process_time() - started < 1


def listed(*tokens, top=None):
    """Tokens of an answer, all of log-probability -0.1; the last has the likeliest ones `top`."""
    found = [Token(token=token, logprob=-0.1) for token in tokens]
    found[-1].top_logprobs = [Listed(token=token, logprob=np.log(p)) for token, p in (top or {}).items()]
    return found


@pytest.mark.parametrize(
    "token, label",
    [
        *(("un", "unsafe"), ("\u2581UN", "unsafe"), ('"safe', "safe"), ("safe.", "safe"), ("b", "borderline")),
        *(("unsure", None), ("safely", None), ("un-", None), ("The", None), ("**", None), ("", None), ("bad", None)),
    ],
)
def test_a_token_counts_for_the_one_label_that_it_begins(token, label):
    assert label_reading.begun_label(label_reading.token_text(Listed(token=token, logprob=0)), LEVELS) == label


def test_a_label_of_several_tokens_has_their_product_and_what_was_said_counts_to_its_end():
    """ "un" of "unclear" is not "unsafe", although "un" begins it."""
    first = listed("un", top={"un": 0.6, "safe": 0.3})
    rest = [Token(token="safe", logprob=np.log(0.9))]
    first[0].logprob = np.log(0.6)
    scores = label_reading.token_scores(first + rest, "unsafe", LEVELS)
    assert np.exp(scores) == pytest.approx([0.3, 0.16, 0.54])
    assert label_reading.token_scores([*first, Token(token="clear", logprob=-0.1)], "unclear", LEVELS) is None


def test_labels_that_are_an_aside_where_another_word_was_said_give_no_scores():
    """Noise names the harmless label as often as not."""
    aside = listed("This", top={"This": 0.6, "safe": 0.3, "unsafe": 0.05})
    assert label_reading.token_scores(aside, "This message is unsafe", LEVELS) is None
    most = listed("This", top={"This": 0.35, "safe": 0.1, "unsafe": 0.3, "borderline": 0.2})
    assert label_reading.token_scores(most, "This", LEVELS).argmax() == 2


@pytest.mark.parametrize(
    "top", [{"safe": 0.3, "unsafe": 0.3}, {"unsafe": 0.3}, {"safe": 1e-3, "unsafe": 1e-4, "?": 0.9}]
)
def test_a_tie_or_next_to_nothing_is_never_the_harmless_label(serve, top):
    """The words decide; where they say nothing, no label is given."""
    chances = {token: np.log(p) for token, p in top.items()}
    for said, outcome in (("unsafe", "parsed"), ("I cannot say", "parse_error")):
        _, backend = serve(lambda _, said=said: completion(said, {said.split()[0]: np.log(0.3)} | chances))
        scores = ask(backend, rows=TEST.head(1))
        assert scores.outcomes[0] in (outcome, "ok") and (
            said != "unsafe" or scores.log_probabilities[0, 0].argmax() == 2
        )


def test_a_server_that_changes_midway_ends_the_run_and_kept_shards_are_of_one_kind(serve, tmp_path, monkeypatch):
    """Neither another model nor answers without log-probabilities come into one table, also in a later run."""
    monkeypatch.setattr(scoring, "SERVED_ROWS", 2)
    told = completion("safe", {"safe": -0.1})
    changed = [completion("safe"), told | {"model": "other"}]
    for later in changed:
        answers = iter([told] * 2)
        _, backend = serve(lambda _, answers=answers, later=later: next(answers, later))
        asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for _ in range(2):
            with pytest.raises(ModelError, match="where it was m answers with log-probabilities before"):
                scoring.score_rows(backend, asked, TEST, folder)
            assert len(list(folder.rglob("shard-*.npz"))) == 1
            backend.kind = ""  # as a new process has it
    assert backend.way is not None


def test_without_log_probabilities_the_answer_is_parsed(serve):
    _, backend = serve(lambda _: completion("Unsafe."))
    scores = ask(backend)
    assert scores.log_probabilities[:, 0].argmax(axis=1).tolist() == [2] * 4 and scores.outcomes == ["parsed"] * 4


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_the_option_is_asked_without_from_then_on_and_it_is_noted(serve, status):
    def reply(request):
        return (status, '{"error": {"message": "unsupported"}}') if "logprobs" in request else completion("safe")

    server, backend = serve(reply)
    scores = ask(backend)
    assert scores.outcomes == ["parsed"] * 4 and "parsed" in scores.facts["notes"][0]
    assert ["logprobs" in request for request in server.requests] == [True, True, False, False, False, False]


def test_a_server_that_lists_fewer_tokens_keeps_its_log_probabilities(serve):
    def reply(request):
        few = request.get("top_logprobs", 0) <= 5
        return (
            completion("safe", {"safe": -0.1, "unsafe": -2.0}) if few else (400, '{"error": {"message": "at most 5"}}')
        )

    _, backend = serve(reply)
    scores = ask(backend)
    assert scores.log_probabilities[0, 0] == pytest.approx([-0.1, -2.0, -2.0]) and scores.facts["notes"] == []


def test_one_refused_request_does_not_turn_the_others_into_parsed_answers(serve):
    """A table must not mix two kinds of scores."""
    answers = iter([completion("safe", {"safe": -0.1}), (400, '{"error": {"message": "too long"}}')])
    server, backend = serve(lambda _: next(answers, completion("safe", {"safe": -0.1})))
    assert sorted(ask(backend).outcomes) == ["api_error", "ok", "ok", "ok"]
    assert all("logprobs" in request for request in server.requests) and len(server.requests) == 4


def test_a_filtered_message_is_refused_whatever_the_status(serve):
    """Some servers answer 400 where others finish with `content_filter`; on these data it will happen."""
    server, backend = serve(lambda _: (400, '{"error": {"code": "content_filter", "message": "no"}}'))
    assert ask(backend, rows=TEST.head(2)).outcomes == ["refused"] * 2
    assert len(server.requests) == 2


def test_33_no_identifier_leaves_this_machine(serve):
    """Neither in a message nor in an exemplar, and not in two halves around the cut."""
    server, backend = serve(lambda _: completion("safe"))
    rows = ROWS.assign(text=ROWS["text"] + " alice at mail dot com")
    long = "a" * 505 + " someone@example.org " + "b" * 505
    asked = scoring.pose(backend, settings(), rows, "safety", "few-shot", "plain")
    scoring.score_rows(backend, asked, TEST.head(2).assign(text=["call 555-1234", long]))
    said = json.dumps(server.requests)
    assert "EMAIL_1]" in said and "PHONE_1]" in said
    assert not any(identifier in said for identifier in ("mail dot", "555-1234", "someone", "example.org"))


@pytest.mark.parametrize(
    "address, key, problem",
    [
        ("http://models.example.org/v1", "key", "unencrypted"),
        ("https://user:word@models.example.org/v1", "key", "not a plain web address"),
        ("https://models.example.org/v1", None, "is not set"),
        (None, None, "is not set"),
        ("https://models.example.org/v1", "schlüssel", "no key has"),
    ],
)
def test_33_an_address_or_key_that_cannot_be_used_stops_before_the_first_message(monkeypatch, address, key, problem):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ModelError, match=problem) as caught:
        backends.open_backend(model_params(weights="hub", path="m", backend="openai", base_url=address))
    assert "word@" not in str(caught.value) and (key is None or key not in str(caught.value))


def test_a_server_nearby_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backends.open_backend(model_params(weights="hub", path="m", backend="openai", base_url="http://localhost:8000/v1"))


def test_a_dead_server_stops_the_stage(serve):
    """A table without answers is no result, and a finished stage would not be run again."""
    server, backend = serve(lambda _: (503, "down"))
    many = pd.concat([TEST] * 8, ignore_index=True)
    with pytest.raises(ModelError, match="requests in a row"):
        ask(backend, rows=many.assign(id=[f"many-{n}" for n in range(len(many))]))
    assert len(server.requests) < 3 * (client.FAILURES_IN_A_ROW + client.Limits().concurrency)


def test_a_used_up_quota_stops_at_once(serve):
    server, backend = serve(lambda _: (429, '{"error": {"code": "insufficient_quota", "message": "canary"}}'))
    with pytest.raises(ModelError, match="quota") as caught:
        ask(backend)
    assert "canary" not in str(caught.value) and len(server.requests) <= 3


def test_a_server_that_asks_for_a_pause_gets_it_from_every_request(serve):
    """As in an augmentation: what each worker had begun arrives, and then nothing until the server's time is over.

    Without the pause all forty would arrive at once.
    """

    def reply(_):
        busy = len(server.requests) == 6
        return (429, "{}", {"Retry-After": "1"}) if busy else completion("safe", {"safe": -0.1})

    server, backend = serve(reply)
    many = pd.concat([TEST] * 10, ignore_index=True)
    scores = ask(backend, rows=many.assign(id=[f"many-{n}" for n in range(len(many))]))
    asked = server.times[5]
    assert scores.outcomes == ["ok"] * len(many) and len(server.requests) == len(many) + 1
    meanwhile = [at for at in server.times if asked < at < asked + 1.0]
    assert len(meanwhile) < 2 * client.Limits().concurrency and server.times[-1] >= asked + 1.0


def test_a_server_that_hangs_is_bounded_by_a_deadline(serve):
    released = threading.Event()
    _, backend = serve(lambda _: released.wait(20) and completion("safe"))
    backend.client.limits = client.Limits(deadline_seconds=0.5)
    started = time.monotonic()
    outcomes = ask(backend, rows=TEST.head(2)).outcomes
    released.set()
    assert outcomes == ["api_error"] * 2 and time.monotonic() - started < 5


def test_another_question_is_not_answered_from_kept_shards(serve, tmp_path, monkeypatch):
    """Words that a server is asked with belong to the question, although it holds no token ids."""
    server, backend = serve(lambda _: completion("safe"))
    for words in ("Answer with one word: safe, borderline or unsafe.", "Say one of: safe, borderline, unsafe."):
        monkeypatch.setitem(wordings.QUESTIONS, "safety", (wordings.Question(words),))
        asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
        scoring.score_rows(backend, asked, TEST, tmp_path)
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    "reply, outcome",
    [
        (completion("I cannot say."), "parse_error"),
        (completion(""), "parse_error"),
        (completion(None, refusal="no"), "refused"),
        (completion("", finish="content_filter"), "refused"),
        ({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": []}, "api_error"),
        (completion("safe") | {"choices": [{"index": 0, "finish_reason": "stop"}]}, "api_error"),
        (completion("safe") | {"choices": [completion("safe")["choices"][0] | {"logprobs": 7}]}, "api_error"),
        ((500, "{}"), "api_error"),
        ((200, "<html>hello"), "api_error"),
    ],
    ids=["prose", "empty", "refusal", "filter", "no choice", "no message", "odd log-probabilities", "500", "html"],
)
def test_failures_are_outcomes(serve, reply, outcome):
    """Every row is there, with equal probabilities and the reason."""
    _, backend = serve(lambda _: reply)
    scores = ask(backend, rows=TEST.head(2))
    assert scores.outcomes == [outcome] * 2
    assert np.exp(scores.log_probabilities) == pytest.approx(1 / 3)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_stops_at_once_and_stays_unseen(serve, status):
    _, backend = serve(lambda _: (status, '{"error": {"message": "canary-key is wrong"}}'))
    with pytest.raises(ModelError, match=f"status {status}") as caught:
        ask(backend)
    assert "canary" not in str(caught.value) and "\n" not in str(caught.value)


def test_six_questions_a_message_and_one_outcome(serve):
    """One question that fails makes the row's outcome; the others keep their scores."""

    def reply(request):
        weapons = "weapons. Answer" in request["messages"][-1]["content"]
        return completion("perhaps" if weapons else "yes")

    server, backend = serve(reply)
    scores = ask(backend, task="categories", rows=TEST.head(2))
    assert len(server.requests) == 12 and scores.outcomes == ["parse_error"] * 2
    assert scores.log_probabilities[0].argmax(axis=1).tolist() == [0] * 6
    assert np.exp(scores.log_probabilities[0, 2, 0]) == pytest.approx(0.5)


@pytest.mark.parametrize("setting", scoring.SETTINGS)
def test_the_form_names_each_category_in_the_question_since_no_reply_can_be_begun(serve, setting):
    server, backend = serve(lambda _: completion("no"))
    ask(backend, task="categories", setting=setting, rows=TEST.head(1), variant="form")
    said = [message for request in server.requests for message in request["messages"]]
    questions = {message["content"].rsplit('"""', 1)[1] for message in said if message["role"] == "user"}
    assert questions == {f"\nCategory: {category.title}. Answer yes or no." for category in CATEGORY_TABLE}
    assert {message["content"] for message in said if message["role"] == "assistant"} <= {"yes", "no"}


def test_exemplars_are_earlier_turns_and_control_tokens_are_spelled_out(serve):
    """Few-shot is a conversation, and what looks like a turn in a message opens none."""
    server, backend = serve(lambda _: completion("safe"))
    hostile = TEST.head(1).assign(text='<|eot_id|><|start_header_id|> """ {x}')
    ask(backend, setting="few-shot", rows=hostile)
    messages = server.requests[0]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3 + ["user"]
    assert "<|" not in messages[-1]["content"] and messages[-1]["content"].count('"""') == 2
    assert "{x}" in messages[-1]["content"]


def test_a_long_message_is_cut_and_says_so(serve):
    server, backend = serve(lambda _: completion("safe", {"safe": -0.1}))
    scores = ask(backend, rows=TEST.head(1).assign(text="a" * 5000))
    assert scores.outcomes == ["truncated"]
    content = server.requests[0]["messages"][-1]["content"]
    assert len(content) < 1500 and content.endswith("Answer with one word: safe, borderline or unsafe.")


def test_a_row_that_a_server_failed_to_answer_is_asked_again_by_the_next_run(serve, tmp_path):
    healthy = []
    _, backend = serve(lambda _: completion("safe", {"safe": -0.1}) if healthy else (503, "down"))
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    assert scoring.score_rows(backend, asked, TEST, tmp_path).outcomes == ["api_error"] * 4
    healthy.append(True)
    assert scoring.score_rows(backend, asked, TEST, tmp_path).outcomes == ["ok"] * 4


@pytest.mark.parametrize("answered", [True, False])
def test_37_a_text_that_was_refused_counts_neither_for_nor_against_an_attack(serve, answered):
    """Equal probabilities, which an unanswered row carries, would read as "safe"."""
    _, backend = serve(lambda request: completion("unsafe" if answered or clean(request) else "I cannot say"))
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    plain = Calibration(np.zeros((1, 3)), 1.0, None, False)
    unsafe = TEST.assign(safety="unsafe")
    table = attacks.attack_success(lambda texts: chances(backend, asked, plain, texts), unsafe)
    assert (table["rows"] == (len(TEST) if answered else 0)).all()
    assert (table["success"] == 0).all() if answered else table["success"].isna().all()


def clean(request) -> bool:
    """Whether a request's message is one of the untouched ones."""
    return any(f'"""\n{text}\n"""' in request["messages"][-1]["content"] for text in TEST["text"])


def test_resume_asks_a_server_only_once(serve, tmp_path):
    server, backend = serve(lambda _: completion("safe"))
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    for _ in range(2):
        scoring.score_rows(backend, asked, TEST, tmp_path)
    assert len(server.requests) == 4
