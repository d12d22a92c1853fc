"""Downloads against a server on this machine: cut, wrong, absent and resumed files."""

import hashlib
import http.server
import subprocess
import sys
import threading
import time

import pytest

from emosafe_lib import cli
from emosafe_lib.data.sources import fetch
from emosafe_lib.data.sources.base import File, Source
from emosafe_lib.study.errors import SourceError

BODY = b"text,label\n" + b"x,1\n" * 30_000
GOOD = hashlib.sha256(BODY).hexdigest()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `/o/r/<commit>/<name>`; the name says how badly."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self):
        name, start = self.path.rsplit("/", 1)[1], self.headers.get("Range")
        self.asked.append((name, start))
        if name in ("absent", "busy"):
            return self.send_error(404 if name == "absent" else 503)
        body = POINTER if name == "pointer" else BODY
        first = int(start.split("=")[1].rstrip("-")) if start and name != "ignores-range" else 0
        if first >= len(body):
            return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        cut = name in ("cut", "ignores-range") and not start
        if name == "slow":
            self.wfile.write(body[:100])
            self.wfile.flush()
            time.sleep(20)
        self.wfile.write(body[first : first + 50_000] if cut else body[first:])
        if cut:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def source(server, name, digest=GOOD, **options) -> Source:
    file = File("a.csv", name, (digest,))
    return Source("toy", "Toy", "o/r", "c" * 40, "MIT", "nobody", files=(file,), base=server, **options)


def get(toy, folder):
    return fetch.fetch([toy], folder, progress=False, say=lambda line: None)


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    toy = source(server, "good")
    assert get(toy, tmp_path) == 1 and (tmp_path / "toy" / "a.csv").read_bytes() == BODY
    assert get(toy, tmp_path) == 0 and len(Handler.asked) == 1


def test_3_a_cut_body_leaves_no_final_file_and_the_rerun_resumes(server, tmp_path):
    toy = source(server, "cut")
    with pytest.raises(SourceError, match="run it again"):
        get(toy, tmp_path)
    assert not (tmp_path / "toy" / "a.csv").exists()
    assert get(toy, tmp_path) == 1 and (tmp_path / "toy" / "a.csv").read_bytes() == BODY
    name, start = Handler.asked[-1]
    assert name == "cut" and 0 < int(start.removeprefix("bytes=").rstrip("-")) <= 50_000


def test_a_server_that_ignores_the_resuming_costs_one_more_download(server, tmp_path):
    toy = source(server, "ignores-range")
    part = tmp_path / "toy" / ".a.csv.part"
    part.parent.mkdir()
    part.write_bytes(b"old beginning")
    Handler.asked.append(("", None))
    with pytest.raises(SourceError, match="run it again"):  # wrong, begun anew, and this server cuts the first try
        get(toy, tmp_path)
    assert [start for _, start in Handler.asked[1:]] == ["bytes=13-", None]
    assert not (tmp_path / "toy" / "a.csv").exists()


def test_2_a_wrong_hash_is_refused_and_nothing_is_left(server, tmp_path):
    with pytest.raises(SourceError) as caught:
        get(source(server, "good", "0" * 64), tmp_path)
    assert GOOD in str(caught.value) and "0" * 64 in str(caught.value)
    assert list((tmp_path / "toy").iterdir()) == []


def test_2_a_git_lfs_pointer_is_refused(server, tmp_path):
    with pytest.raises(SourceError, match="Git-LFS pointer"):
        get(source(server, "pointer"), tmp_path)
    assert not (tmp_path / "toy" / "a.csv").exists()


def test_an_absent_file_names_its_address(server, tmp_path):
    with pytest.raises(SourceError, match=r"/o/r/c{40}/absent: the server answered 404"):
        get(source(server, "absent"), tmp_path)


@pytest.mark.parametrize(("name", "kept"), [("absent", False), ("busy", True)])
def test_what_has_arrived_is_thrown_away_only_where_nothing_more_will_come(server, tmp_path, name, kept):
    part = tmp_path / "toy" / ".a.csv.part"
    part.parent.mkdir()
    part.write_bytes(b"beginning")
    with pytest.raises(SourceError, match="the server answered"):
        get(source(server, name), tmp_path)
    assert part.is_file() is kept


def test_a_changed_final_file_is_never_overwritten(server, tmp_path):
    path = tmp_path / "toy" / "a.csv"
    path.parent.mkdir()
    path.write_text("my own edit")
    with pytest.raises(SourceError, match="has changed"):
        get(source(server, "good"), tmp_path)
    assert path.read_text() == "my own edit" and Handler.asked == []


def test_licences_that_restrict_use_are_said_first(server, tmp_path):
    said = []
    fetch.fetch([source(server, "good", restricted="research only")], tmp_path, progress=False, say=said.append)
    assert said[0] == "licence restricts use: toy: MIT; research only" and len(said) == 2


def test_what_cannot_be_downloaded_is_named_after_the_rest_is_done(server, tmp_path):
    copy = Source(
        "held", "Held", "o/r", "c" * 40, "MIT", "", files=(File("b", "b", (GOOD,)),), copy_only="edited copy only"
    )
    with pytest.raises(SourceError, match=r"not downloaded: held \(edited copy only\)"):
        fetch.fetch([copy, source(server, "good")], tmp_path, progress=False, say=lambda line: None)
    assert (tmp_path / "toy" / "a.csv").is_file()


def test_3_killed_in_mid_download(server, tmp_path):
    code = f"""
from pathlib import Path
from emosafe_lib.data.sources import fetch
from emosafe_lib.data.sources.base import File, Source
toy = Source("toy", "Toy", "o/r", "c" * 40, "MIT", "", files=(File("a.csv", "slow", ("{GOOD}",)),), base="{server}")
fetch.fetch([toy], Path({str(tmp_path)!r}), progress=False)
"""
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while not Handler.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    child.kill()
    child.wait()
    assert Handler.asked and not (tmp_path / "toy" / "a.csv").exists()
    assert get(source(server, "good"), tmp_path) == 1
    assert (tmp_path / "toy" / "a.csv").read_bytes() == BODY


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EMOSAFE_DATA_DIR", str(tmp_path))
    assert cli.main(["data", "fetch", "--study", "sample"]) == 0
    assert cli.main(["data", "fetch", "--study", "no-such-study"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_sources_that_no_study_merges_can_be_named(capsys):
    assert fetch.main(["list", "--sources", "goemotions", "gutenberg_novels"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["goemotions", "gutenberg_novels"]
    assert cli.main(["data", "list", "--sources", "nobody"]) == 1 and "not registered" in capsys.readouterr().err
