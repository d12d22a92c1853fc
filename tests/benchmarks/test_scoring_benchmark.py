"""The scoring benchmark measures what it says: same tokens for all, and a GPU part that runs on any device."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prompting import network, tokenizer

from emosafe_lib.prompting import shared_prefix, wordings
from emosafe_lib.study.parameters import ShapeParams

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "scoring.py"
TINY = ShapeParams(layers=2, hidden=16, heads=2, kv_heads=1, intermediate=32, vocabulary=320)


@pytest.fixture(scope="module")
def bench():
    """The benchmark as a module, loaded from its file."""
    spec = importlib.util.spec_from_file_location("scoring_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILE.parent)
        spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def setup(bench):
    made = tokenizer()
    prompt = bench.prompt_of(made, "safety", 0)
    return bench.Setup(network("llama", vocabulary=len(made)), prompt, bench.messages_of(made, 4))


def test_the_prefix_has_about_the_length_asked_for(bench):
    made = tokenizer()
    start = len(wordings.build_prompt(made, "safety", "guard").prefix)
    prompt = bench.prompt_of(made, "safety", start + 900)
    assert abs(len(prompt.prefix) - start - 900) < 200 and prompt.exemplar_ids


def test_texts_are_about_a_hundred_tokens(bench):
    lengths = [len(ids) for ids in bench.messages_of(tokenizer(), 20)]
    assert min(lengths) >= 60 and max(lengths) <= 145 and 90 < np.mean(lengths) < 130


def test_the_limit_feeds_as_many_tokens_as_ours(bench, setup):
    """Prefix once, then message and tree of every text."""
    fed = []
    setup.network.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(args[0].numel()), with_kwargs=True
    )
    bench.ours(setup, setup.messages)
    mine, tree = sum(fed), shared_prefix.plant(setup.prompt.suffixes, setup.prompt.answers)
    assert mine == len(setup.prompt.prefix) + sum(map(len, setup.messages)) + 4 * len(tree.ids) + padding(setup)
    for with_prefix in (True, False):
        fed.clear()
        bench.forward_only(setup, with_prefix)
        assert abs(sum(fed) - (mine - padding(setup))) <= len(setup.messages)


def padding(setup) -> int:
    """Tokens that the longest message of the one batch adds to the others."""
    lengths = [len(ids) for ids in setup.messages]
    return len(lengths) * max(lengths) - sum(lengths)


def test_pairs_alternate_and_a_peer_scores_its_share_once(bench, setup):
    calls = []

    def peer(setup, messages):
        calls.append(messages)
        return np.zeros((len(messages), 1, 3))

    found, scored = bench.pairs(setup, peer, 4, 2)
    assert [len(part) for part in calls] == [2, 2] and [*calls[0], *calls[1]] == setup.messages
    assert len(found) == 2 and scored.shape == (4, 1, 3)


def test_a_true_shape_is_measured_on_any_device(bench):
    row = bench.true_shape("tiny", TINY, "cpu", torch.float32, 3, gemm_size=64)
    assert row["ours"] > 0 and 0 < row["limit_share"] < 10 and row["texts"] == 3


def test_operations_grow_by_what_attention_to_the_prefix_takes(bench, setup):
    def work(length):
        return bench.operations(replace(setup, prompt=replace(setup.prompt, prefix=(1,) * length)))

    config, tree = setup.network.config, shared_prefix.plant(setup.prompt.suffixes, setup.prompt.answers)
    tokens = sum(map(len, setup.messages)) + len(setup.messages) * len(tree.ids)
    per_pair = 4 * config.num_hidden_layers * config.hidden_size
    grown = work(100) - work(0)
    assert grown == 2 * bench.body_weights(setup.network) * 100 + per_pair * (100 * tokens + 100**2 / 2)
