"""An answer is a function of the message: who is read beside it, in which order and batches, changes nothing."""

import numpy as np
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_damaged_folders import whole  # noqa: F401 (a fixture)

from emosafe_lib.models import backbone, batching
from emosafe_lib.ondevice import classify, exported, onnx_classifier
from emosafe_lib.ondevice.exports import MIXED, RUNTIMES
from emosafe_lib.ondevice.task_classifier import TaskClassifier
from emosafe_lib.study.parameters import load_model
from emosafe_lib.study.taxonomy import TASKS

WORDS = " ".join(tiny_models.WORDS.values()).split()
MESSAGES = st.lists(st.sampled_from([*WORDS, "7", "é", "🙂", "<|pad|>"]), min_size=1, max_size=40).map(" ".join)
# fp32 sums in another order, bf16 rounds them once more; int8 rows are read apart, and equal to the last bit.
LARGEST = {"torch": 1e-4, MIXED: 0.02, "onnx": 1e-4, "onnx-int8": 0.0}


def rounded(result):
    return np.array([*result["level_probabilities"].values(), *result["category_probabilities"].values()])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("budget", [1, 64, 512])
def test_an_answer_does_not_hang_on_its_company(whole, runtime, budget, monkeypatch):  # noqa: F811
    monkeypatch.setattr(TaskClassifier, "tokens_per_batch", budget)
    reader = classify.Classifier(whole, runtime=runtime)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(MESSAGES, st.lists(MESSAGES, max_size=6), st.integers(0, 6))
    def same(message, others, place):
        (alone,) = reader.classify([message])
        among = [*others[:place], message, *others[place:]]
        beside = list(reader.classify(among))[min(place, len(others))]
        assert np.abs(rounded(alone) - rounded(beside)).max() <= LARGEST[runtime]
        assert (alone["level"], alone["categories"], alone["outcome"]) == (
            beside["level"],
            beside["categories"],
            beside["outcome"],
        )

    same()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=80) | MESSAGES, min_size=1, max_size=4))
def test_tokenizers_alone_reads_what_transformers_reads(whole, texts):  # noqa: F811
    for task in TASKS:
        _, tokenizer, facts = loaded(whole / task)
        tokens = onnx_classifier.Tokens(whole / task, facts["fitted"]["max_length"])
        wanted, found = batching.encode(tokenizer, texts, facts["fitted"]["max_length"]), tokens.encode(texts)
        assert found.ids == wanted.ids and found.truncated.tolist() == wanted.truncated.tolist()
        padded = tokenizer.pad({"input_ids": wanted.ids}, return_tensors="np")
        for name, values in tokens.padded(found.ids).items():
            assert values.tolist() == padded[name].tolist()


@pytest.mark.parametrize("name", ["nano-1", "minilm"])
def test_a_text_of_no_tokens_is_read_alike_by_the_tokenizers_of_the_package(tmp_path, name):
    """The nano tokenizer begins with token 0, which is a token like any other."""
    tokenizer = backbone.load_tokenizer(load_model(name))
    tokenizer.save_pretrained(tmp_path)
    assert onnx_classifier.Tokens(tmp_path, 64).encode(["", "a"]).ids == batching.encode(tokenizer, ["", "a"], 64).ids


LOADED = {}


def loaded(folder):
    """An export read once."""
    if folder not in LOADED:
        LOADED[folder] = exported.load_exported(folder)
    return LOADED[folder]
