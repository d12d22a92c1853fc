"""Where requests go, with what, and how much may come back: no environment, no odd address and no body gets around it."""

import json
import socket
import threading
import tracemalloc

import httpx2
import pytest
from augment_cases import live, rows
from chat_server import MODEL, ChatServer
from prompting import make_rows, model_params, settings
from server_behaviours import TABLE, right

from emosafe_lib.augment import reinterpretation
from emosafe_lib.models import client, completion, server, wire
from emosafe_lib.prompting import backends, scoring
from emosafe_lib.study.errors import EmosafeError, ServerError

KEY = "sk-canary-key-000000"
ROWS = make_rows(12)
TEST = ROWS[ROWS["split"] == "test"].reset_index(drop=True)


class Proxy:
    """A proxy on loopback that passes nothing on and keeps all that it was sent."""

    def __init__(self):
        self.socket, self.got = socket.create_server(("127.0.0.1", 0)), []
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.socket.accept()
            self.got.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            connection.close()


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that every variable names."""
    made = Proxy()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, made.url)
        monkeypatch.setenv(name.lower(), made.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return made


def prompt(url: str, **changes) -> scoring.Scores:
    """Twelve rows asked of a server."""
    changes = {"name": "served", "weights": "hub", "path": MODEL, "backend": "openai", "base_url": url} | changes
    backend = backends.open_backend(model_params(**changes))
    backend.client.limits = client.Limits(concurrency=1, attempts=1)
    return scoring.score_rows(backend, scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain"), TEST)


def test_no_proxy_of_the_environment_sees_anything(proxy, tmp_path):
    """Neither key nor message, in prompting, augmentation and batches; a client that asks the environment goes there."""
    with ChatServer(lambda number, body: right(body)) as asked:
        assert httpx2.get(asked.url).status_code == 502 and len(proxy.got) == 1
        assert prompt(asked.url).outcomes == ["ok"] * 12 and len(asked.seen) == 12
        for provider in ("openai", "openai-batch"):
            asked.behaviour = lambda number, body: "good"
            params = live(asked.url, provider=provider, attempt_seconds=20.0, deadline_seconds=60.0)
            assert reinterpretation.reinterpret(rows(9), params, tmp_path / provider).card["accepted"] == 9
    assert len(proxy.got) == 1


def test_a_proxy_that_the_study_names_learns_the_server_and_no_more(proxy):
    with pytest.raises(EmosafeError, match="in a row"):
        prompt("https://models.example.org/v1", proxy=proxy.url)
    assert proxy.got and {got.split(b"\r\n")[0] for got in proxy.got} == {b"CONNECT models.example.org:443 HTTP/1.1"}
    assert KEY.encode() not in b"".join(proxy.got) and b"note" not in b"".join(proxy.got)


@pytest.mark.parametrize("named", ["proxy:3128", "socks5://127.0.0.1:1", "http://me:word@proxy:3128", "http://[::1"])
def test_what_is_no_proxy_is_refused_in_one_line(named, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ServerError, match="augmentation.proxy: is not a proxy's address") as caught:
        wire.client_options(None, "augmentation.base_url", 1.0, named)
    assert "word" not in str(caught.value) and "\n" not in str(caught.value)


def test_no_header_of_the_environment_travels(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-canary")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Canary: yes")
    with ChatServer(lambda number, body: right(body)) as asked:
        prompt(asked.url)
        reinterpretation.reinterpret(rows(2), live(asked.url, attempt_seconds=20.0), tmp_path)
        assert {name for headers in asked.headers for name in headers} <= wire.HEADERS
        assert b"canary" not in asked.raw.lower().replace(KEY.encode(), b"")


@pytest.mark.parametrize(
    "host",
    [
        *("134744072", "0x08080808", "8.8.8.8", "[::ffff:8.8.8.8]", "[2001:4860:4860::8888]"),
        *(
            "ai",
            "10.0.0.4",
            "192.168.1.7",
            "169.254.169.254",
            "0.0.0.0",
            "[fe80::1]",
            "localhost.",
            "127.0.0.1.nip.invalid",
        ),
    ],
)
def test_plain_http_is_for_this_machine_however_an_address_is_written(host, monkeypatch):
    known = {"ai": "8.8.8.8", "localhost.": "8.8.4.4"}
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *rest, **more: resolve(known.get(name, name), *rest, **more)
    )
    with pytest.raises(ServerError, match="unencrypted") as caught:
        wire.check_address(f"http://{host}:8000/v1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_this_machine_is_this_machine_however_it_is_written(host):
    assert wire.check_address(f"http://{host}:8000/v1") == f"http://{host}:8000/v1"


def test_a_name_with_one_address_elsewhere_is_elsewhere(monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (where, 0)) for where in ("127.0.0.1", "8.8.8.8")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert not wire.is_here("http://both/v1")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "http://[::1/v1",
            "http://localhost:99999/v1",
            "http://localhost:port/v1",
            "http:///v1",
            "http://",
            "localhost",
        ),
        *(
            "ftp://x/v1",
            "file:///etc/passwd",
            "http://local host/v1",
            "http://\x00/v1",
            "http://010.8.8.8/v1",
            "http://0177.0.0.1/v1",
            "https://a:b@c/v1",
            "https://c/v1?k=v",
        ),
        *("https://c/v1#k", "https://c/\u2028", "http://:8000/v1", "https://c:0/v1"),
    ],
)
def test_a_malformed_address_is_one_line(address):
    with pytest.raises(ServerError) as caught:
        wire.check_address(address, "m: base_url")
    assert str(caught.value).startswith("m: base_url: ") and "\n" not in str(caught.value)


def test_a_server_here_needs_no_key(monkeypatch, tmp_path):
    """In augmentation as in prompting; elsewhere both need one."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer(lambda number, body: right(body)) as asked:
        assert prompt(asked.url).outcomes == ["ok"] * 12
        params = live(asked.url, attempt_seconds=20.0)
        assert reinterpretation.reinterpret(rows(3), params, tmp_path).card["accepted"] == 3
    with pytest.raises(ServerError, match="is not set"):
        wire.client_options("https://models.example.org/v1", "augmentation.base_url", 1.0)


@pytest.mark.parametrize("name", ["gzip bomb of 300 MB", "gzip bomb with status 500", "endless body"])
def test_a_body_without_measure_takes_little_memory(name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer(TABLE[name].answer) as asked:
        prompt_once = model_params(name="m", weights="hub", path=MODEL, backend="openai", base_url=asked.url)
        backend = backends.open_backend(prompt_once)
        backend.client.limits = client.Limits(concurrency=1, attempts=1)
        question = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain").question
        tracemalloc.start()
        _, outcomes = backend.score(question, ["hello"])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert outcomes == ["api_error"] and peak < 8 * wire.LARGEST_BODY


def test_a_batch_result_may_be_as_large_as_its_answers(monkeypatch, tmp_path):
    """And no larger."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer() as asked:
        params = live(asked.url, provider="openai-batch", attempt_seconds=20.0, deadline_seconds=20.0, attempts=1)
        monkeypatch.setattr(wire, "LARGEST_BODY", 20_000)
        monkeypatch.setattr("emosafe_lib.augment.providers.openai_batch.BYTES_OF_ANSWER", 2_000)
        assert reinterpretation.reinterpret(rows(20), params, tmp_path / "a").card["answered"] == 20
        monkeypatch.setattr("emosafe_lib.augment.providers.openai_batch.BYTES_OF_ANSWER", 1)
        with pytest.raises(EmosafeError, match="oversized body"):
            reinterpretation.reinterpret(rows(30), params, tmp_path / "b")


@pytest.mark.parametrize(
    ("wait", "told"),
    [("3600", "until "), ("9" * 400, "more than a year"), ("Fri, 31 Dec 9999 23:59:59 -2359", "more than a year")],
)
def test_a_wait_beyond_the_calendar_is_told(wait, told):
    assert told in server.wait_told(server.wait_named({"retry-after": wait}))


@pytest.mark.parametrize(
    "wait", ["", "soon", "-5", "1e9", "Fri, 99 Dec 2026", "\u0663", "NaN", "Mon, 01 Jan 0000 00:00:00 GMT"]
)
def test_a_wait_that_is_none_is_none(wait):
    assert server.wait_named({"retry-after": wait}) in (None, 0.0)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *((MODEL, MODEL), ("openai/gpt-4o", "openai/gpt-4o"), ("llama3.1:8b", "llama3.1:8b"), ("", ""), (None, "")),
        *(
            ("/home/ann/tiny.gguf", "tiny.gguf"),
            ("C:\\models\\tiny.gguf", "tiny.gguf"),
            ("../x/tiny.gguf", "tiny.gguf"),
        ),
        *((f"Bearer {KEY}", None), (KEY, None), (KEY.upper(), None), (KEY[:14], None), ("I feel awful", None)),
        *(("awful", None), ("m" * 101, None), ("a\nb", None), ("mod\u00e8le", None), ("<b>", None), ("a/b/c/d", None)),
        *((f"/tmp/{KEY}", None), ("/home/ann/I feel.gguf", None), ("\ud800", None)),
    ],
)
def test_a_models_name_is_kept_if_it_is_one(name, kept, monkeypatch):
    """Never the key, a part of it or the message; what is no name is known by a digest."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = completion.clean_name(name, MODEL, "Today I feel awful.")
    assert found == kept if kept is not None else found.startswith("unclear-") and len(found) == 20


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        *(
            (500, 500),
            (500.0, 500),
            (10**8, 10**8),
            (0, None),
            (-1, None),
            (-(10**9), None),
            (10**400, None),
            (99, None),
        ),
        *(
            (500.5, None),
            (float("nan"), None),
            (float("inf"), None),
            (True, None),
            ("500", None),
            (None, None),
            ([], None),
        ),
    ],
)
def test_a_count_of_tokens_is_believed_if_it_can_be_one(count, kept):
    assert completion.believed(count, 100) == kept


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": 7}',
        b'{"choices": [7]}',
        b"[" * 100_000,
        b"\xff",
        b'{"choices":' * 5_000,
    ],
)
def test_what_is_no_completion_may_be_tried_again(body):
    with pytest.raises(server.TryAgain, match="unreadable body"):
        completion.read_completion(completion.decoded(body))


def test_of_a_completion_only_what_is_looked_at_must_be_there():
    data = {"choices": [{"message": {"content": "safe", "tool_calls": 7}, "finish_reason": None}], "object": "odd"}
    read = completion.read_completion(json.loads(json.dumps(data)))
    assert completion.outcome_of(read) == ("ok", "safe") and read.model is None
