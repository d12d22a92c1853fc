"""A run looks for weights before it starts, against a hub on this machine that keeps some back."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import toy

from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import load_study
from workflow import study_run, weights

ANSWERS = {
    "open": (200, {"ETag": '"1"', "X-Repo-Commit": "a" * 40}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "nowhere": (404, {"X-Error-Code": "RepoNotFound"}),
    "other": (404, {"X-Error-Code": "RevisionNotFound"}),
    "token": (403, {}),
    "busy": (503, {}),
}
CODE = """
import json, sys
from workflow.weights import in_cache, what_the_hub_lacks
files = [(f"a/{name}", "config.json", "main") for name in sys.argv[1:]]
print(json.dumps([None if in_cache(*file) else what_the_hub_lacks(*file) for file in files]))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for the file's repository, and tells of nothing but heads: no file is asked for."""

    def do_HEAD(self):
        status, headers = ANSWERS[self.path.split("/")[2]]
        self.send_response(status)
        for name, value in (headers | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def asked(endpoint, names, cache):
    """What the hub at an address lacks, by names of repositories, asked in a process of its own, as its client needs it."""
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", CODE, *names], capture_output=True, text=True, env=env, cwd=toy.ROOT, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_hub_is_asked_once_and_each_refusal_has_its_remedy(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        found = asked(f"http://127.0.0.1:{hub.server_port}", [*ANSWERS, "no/name"], tmp_path)
        hub.shutdown()
    remedies = dict(zip([*ANSWERS, "no/name"], [each and each[1] for each in found], strict=True))
    assert remedies.pop("open") is None
    words = {"gated": "accept it", "nowhere": "correct path:", "other": "correct path:", "token": "unset HF_TOKEN"}
    words |= {"busy": "later", "no/name": "owner/name"}
    assert {name: word for name, word in words.items() if word in remedies[name]} == words
    assert not list(tmp_path.rglob("config.json"))


def test_a_hub_that_does_not_answer_is_told_within_seconds_unless_its_file_is_in_the_cache(tmp_path):
    for repository, files in (("open", ("config.json", "model.safetensors")), ("begun", ("config.json",))):
        folder = tmp_path / "hub" / f"models--a--{repository}"
        kept = folder / "snapshots" / ("a" * 40)
        kept.mkdir(parents=True)
        for name in files:
            (kept / name).write_text("{}")
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
    cached, begun, absent = asked("http://127.0.0.1:9", ["open", "begun", "gated"], tmp_path)
    assert cached is None and "network" in absent[1] and begun == absent


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


def test_missing_weights_are_told_before_anything_starts_and_with_what_can_be_run(checkout, outputs):
    with pytest.raises(
        ModelError, match='^llama-1b, bert-base: no weights .* or run the others: MODELS="nano-1 minilm"$'
    ):
        study_run.run_study("toy", ["nano-1", "llama-1b", "minilm", "bert-base"], 1)
    assert not outputs.exists()


def test_a_repository_without_an_owner_is_looked_for_on_the_hub(checkout):
    facts = {"name": "plain", "family": "encoder", "weights": "hub", "path": "plain-encoder"}
    (checkout / "params" / "models" / "plain.yaml").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match="^plain: no weights in the hub's cache"):
        weights.require_weights(load_study("toy"), ["plain"])


def test_a_package_or_a_file_that_is_missing_is_told_alike(checkout):
    facts = {"family": "llama", "weights": "gguf"}
    for name, path in (("packed", "no_such_package:m.gguf"), ("filed", "weights/m.gguf")):
        (checkout / "params" / "models" / f"{name}.yaml").write_text(json.dumps(facts | {"name": name, "path": path}))
        with pytest.raises(ModelError, match=f"^{name}: .*(is not installed|no such file); .*, or name other models$"):
            weights.require_weights(load_study("toy"), [name])


@pytest.mark.parametrize(
    ("until", "current", "refused"),
    [
        ("02_chatgpt_augmentation", (), False),
        ("03_prompting_baselines", (), True),
        ("03_prompting_baselines", ("03_prompting_baselines",), False),
        ("05_scaling_analysis", ("03_prompting_baselines",), True),
        ("", weights.LOAD_WEIGHTS, False),
    ],
)
def test_weights_that_no_stage_will_load_may_be_absent(checkout, monkeypatch, until, current, refused):
    monkeypatch.setattr(weights, "is_current", lambda stage, *others: stage in current)
    monkeypatch.setattr(weights, "rows_change", lambda study, models: False)
    if refused:
        with pytest.raises(ModelError, match="llama-1b"):
            weights.require_weights(load_study("toy"), ["llama-1b"], until)
    else:
        weights.require_weights(load_study("toy"), ["llama-1b"], until)


def test_rows_that_are_made_anew_make_a_finished_model_anew(checkout, monkeypatch):
    monkeypatch.setattr(weights, "is_current", lambda stage, *others: True)
    with pytest.raises(ModelError, match="llama-1b"):
        weights.require_weights(load_study("toy"), ["llama-1b"])
