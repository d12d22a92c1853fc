"""Exact scores: the shared prefix and the tree give what one plain sequence after another gives, for any batch."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as tried
from hypothesis import strategies as st
from prompting import network

from emosafe_lib.prompting import shared_prefix
from emosafe_lib.prompting.wordings import Prompt
from emosafe_lib.study.errors import ModelError, PromptError

KINDS = ("llama", "llama3-rope", "qwen2", "qwen3", "gpt2")
SEEDS = range(3)
RANDOM = {(kind, seed): network(kind, seed) for kind in KINDS for seed in SEEDS}
NETWORKS = {kind: RANDOM[kind, 0] for kind in KINDS}
TOLERANCE = 1e-4

tokens = st.integers(0, 319)


def sequences(shortest: int, longest: int):
    return st.lists(tokens, min_size=shortest, max_size=longest).map(tuple)


prompts_of_any_form = st.builds(
    Prompt,
    task=st.just("made"),
    variant=st.just("made"),
    prefix=sequences(0, 40),
    suffixes=st.lists(sequences(1, 5), min_size=1, max_size=4).map(tuple),
    answers=st.lists(sequences(1, 3), min_size=2, max_size=3).map(tuple),
)


def plain(net, prompt, messages):
    return np.stack([shared_prefix.plain_log_probabilities(net, prompt, message) for message in messages])


@pytest.mark.parametrize("kind", KINDS)
@tried(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    seed=st.sampled_from(SEEDS),
    prompt=prompts_of_any_form,
    messages=st.lists(sequences(0, 20), min_size=1, max_size=5),
    budget=st.integers(1, 200),
)
def test_any_model_any_prompt_any_messages_any_budget(kind, seed, prompt, messages, budget):
    """One to three layers, one to four key heads, prefix and message of any length, empty ones too; shared or
    multi-token labels.
    """
    net, messages = RANDOM[kind, seed], [list(message) for message in messages]
    got = shared_prefix.label_log_probabilities(net, prompt, messages, budget)
    assert np.abs(got - plain(net, prompt, messages)).max() < TOLERANCE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_what_the_processor_gives(kind):
    got = shared_prefix.label_log_probabilities(network(kind).to("cuda"), PROMPT, MESSAGES)
    assert np.abs(got - plain(NETWORKS[kind], PROMPT, MESSAGES)).max() < TOLERANCE


PROMPT = Prompt("made", "made", (1, 2, 3, 4), ((5, 6), (5, 7, 8)), ((9,), (10, 11), (10, 12, 13)))
MESSAGES = [[20 + n] * (1 + 3 * n % 11) for n in range(9)]


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_against_eight_and_row_order(kind):
    """Batch 1 against 8, rows in any order."""
    one, eight = (
        shared_prefix.label_log_probabilities(NETWORKS[kind], PROMPT, MESSAGES, budget) for budget in (1, 10_000)
    )
    order = np.random.default_rng(0).permutation(len(MESSAGES))
    shuffled = shared_prefix.label_log_probabilities(NETWORKS[kind], PROMPT, [MESSAGES[n] for n in order], 64)
    assert np.abs(one - eight).max() < TOLERANCE
    assert np.abs(shuffled - one[order]).max() < TOLERANCE


@pytest.mark.parametrize("bos", [(), (0,)])
@pytest.mark.parametrize("length", [0, 1, 7, 300])
def test_prefix_length_and_beginning_token(bos, length):
    """With and without BOS, from no prefix to a long one; what comes first is a token like any other."""
    prompt = dataclasses.replace(PROMPT, prefix=(*bos, *(n % 300 for n in range(length))))
    got = shared_prefix.label_log_probabilities(NETWORKS["llama"], prompt, MESSAGES)
    assert np.abs(got - plain(NETWORKS["llama"], prompt, MESSAGES)).max() < TOLERANCE


def test_copying_attention_agrees_with_merged_attention(monkeypatch):
    """The way that a GPU takes is tested here too: prefix copied before every row."""
    want = plain(NETWORKS["qwen3"], PROMPT, MESSAGES)
    monkeypatch.setattr(shared_prefix, "attend_merged", shared_prefix.attend_joined)
    assert np.abs(shared_prefix.label_log_probabilities(NETWORKS["qwen3"], PROMPT, MESSAGES) - want).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bfloat16_runs_and_stays_near(kind):
    """In bf16 the ways agree within the rounding of the type, and the ranking of clear cases holds."""
    want = plain(NETWORKS[kind], PROMPT, MESSAGES)
    half = network(kind).to(torch.bfloat16)
    got = shared_prefix.label_log_probabilities(half, PROMPT, MESSAGES)
    assert np.isfinite(got).all() and np.abs(got - want).max() < 0.5
    clear = np.sort(want, axis=2)[:, :, -1] - np.sort(want, axis=2)[:, :, -2] > 1.0
    assert (got.argmax(axis=2) == want.argmax(axis=2))[clear].all()


def test_each_token_is_touched_once():
    """The prefix passes once, a message once, common beginnings of suffixes and answers once."""
    seen = []
    net = network("llama")
    net.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0].numel()), with_kwargs=True
    )
    shared_prefix.label_log_probabilities(net, PROMPT, [[1, 2, 3]] * 4)
    nodes = 4 + 2 * 3 - 0  # suffixes 5-6 and 5-7-8 share 5; behind each, 10 and 10-12 of the answers
    tree = shared_prefix.plant(PROMPT.suffixes, PROMPT.answers)
    assert len(tree.ids) == 4 + 2 * 2 < nodes
    assert sum(seen) == len(PROMPT.prefix) + 4 * (3 + len(tree.ids))


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_works_for_what_is_read(kind):
    """Its feed-forward part sees the read places of each row and nothing else, and is itself again afterwards."""
    net, seen = network(kind), []
    last = (getattr(net.base_model, "layers", None) or net.base_model.h)[-1].mlp
    first = next(module for module in last.modules() if not list(module.children()))
    first.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    shared_prefix.label_log_probabilities(net, dataclasses.replace(PROMPT, prefix=()), [[1, 2, 3]] * 4)
    places = shared_prefix.plant(PROMPT.suffixes, PROMPT.answers).places
    assert seen == [4 * len(places)] and all(place < 0 for place in places)
    assert "forward" not in vars(last)


def test_a_feed_forward_part_that_was_wrapped_stays_wrapped():
    """Libraries that spread a model over devices replace `forward`; theirs comes back, even after an error."""
    net = network("llama")
    last = net.base_model.layers[-1].mlp
    last.forward = wrapped = last.forward
    with pytest.raises(ZeroDivisionError), shared_prefix.last_mlp_at(net, [-1]):
        assert last.forward is not wrapped
        raise ZeroDivisionError
    assert last.forward is wrapped


def test_a_processor_gets_small_batches(monkeypatch):
    """A budget made for a GPU does not push a CPU's batches out of its cache."""
    monkeypatch.setattr(shared_prefix, "CPU_TOKENS", 64)
    batches = [batch for batch, _ in shared_prefix.score_in_batches(NETWORKS["llama"], PROMPT, MESSAGES, 10_000)]
    assert len(batches) > 1 and sorted(row for batch in batches for row in batch) == list(range(len(MESSAGES)))


def test_a_prefix_that_memory_cannot_hold_is_one_clear_line(monkeypatch):
    net = network("llama")

    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(net.base_model, "forward", full)
    with pytest.raises(ModelError, match="a prefix of 4 tokens .*lower shots_per_class"):
        shared_prefix.label_log_probabilities(net, PROMPT, MESSAGES)


def test_the_networks_own_attention_is_restored():
    net = network("llama")
    before = net.config._attn_implementation
    shared_prefix.label_log_probabilities(net, PROMPT, MESSAGES)
    assert net.config._attn_implementation == before


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch):
    """A budget that is too large costs time, not the run; the note tells what to lower."""
    real, notes = shared_prefix.score_batch, []

    def hungry(net, messages, *rest):
        if len(messages) > 2:
            raise torch.OutOfMemoryError("no room")
        return real(net, messages, *rest)

    want = shared_prefix.label_log_probabilities(NETWORKS["llama"], PROMPT, MESSAGES)
    monkeypatch.setattr(shared_prefix, "score_batch", hungry)
    got = np.zeros_like(want)
    for batch, values in shared_prefix.score_in_batches(NETWORKS["llama"], PROMPT, MESSAGES, 10_000, notes):
        got[batch] = values
    assert np.abs(got - want).max() < TOLERANCE
    assert notes and "tokens_per_batch" in notes[0]


def test_after_the_first_shortage_of_memory_the_rest_is_packed_smaller(monkeypatch):
    """Six messages of eight tokens in batches of two: only the first of them has to fail."""
    real, failed, messages = shared_prefix.score_batch, [], [[5, 6, 7, 8, 9, 10, 11, 12]] * 6
    row = len(messages[0]) + len(shared_prefix.plant(PROMPT.suffixes, PROMPT.answers).ids)

    def hungry(net, part, *rest):
        if len(part) > 1:
            failed.append(len(part))
            raise torch.OutOfMemoryError("no room")
        return real(net, part, *rest)

    want = shared_prefix.label_log_probabilities(NETWORKS["llama"], PROMPT, messages)
    monkeypatch.setattr(shared_prefix, "score_batch", hungry)
    found = list(shared_prefix.score_in_batches(NETWORKS["llama"], PROMPT, messages, 2 * row))
    assert failed == [2] and sorted(number for batch, _ in found for number in batch) == list(range(6))
    assert max(np.abs(values - want[batch]).max() for batch, values in found) < TOLERANCE


def test_out_of_memory_on_one_row_is_one_clear_line(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(shared_prefix, "score_batch", full)
    with pytest.raises(ModelError, match=r"one row of \d+ tokens .*max_text_tokens") as caught:
        shared_prefix.label_log_probabilities(NETWORKS["llama"], PROMPT, MESSAGES)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(shared_prefix, "score_batch", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        shared_prefix.label_log_probabilities(NETWORKS["llama"], PROMPT, MESSAGES)


def test_sliding_windows_are_refused():
    """An attention that this scorer would not reproduce is refused, not approximated."""
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8
    )
    with pytest.raises(ModelError, match="sliding_attention"):
        shared_prefix.label_log_probabilities(transformers.Gemma2ForCausalLM(config).eval(), PROMPT, MESSAGES)


@pytest.mark.parametrize("window, fits", [(8, False), (4096, True), (None, True)])
def test_a_window_of_attention_is_refused_where_a_sequence_is_longer(window, fits):
    """Mistral's configuration names no kinds of layers, only the window."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.MistralConfig(vocab_size=320, sliding_window=window, **sizes, **heads)
    net = transformers.MistralForCausalLM(config).eval()
    if not fits:
        with pytest.raises(ModelError, match="looks back 8 tokens only"):
            shared_prefix.label_log_probabilities(net, PROMPT, MESSAGES)
        return
    plain = np.stack([shared_prefix.plain_log_probabilities(net, PROMPT, ids) for ids in MESSAGES])
    assert np.abs(shared_prefix.label_log_probabilities(net, PROMPT, MESSAGES) - plain).max() < 1e-4


def test_positions_that_depend_on_the_batch_are_refused():
    net = network("llama")
    net.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    with pytest.raises(ModelError, match="dynamic positions"):
        shared_prefix.label_log_probabilities(net, PROMPT, MESSAGES)


def test_an_encoder_is_refused():
    import transformers

    config = transformers.BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ModelError, match="not a causal"):
        shared_prefix.refuse_unsupported(transformers.BertModel(config), 8)


def test_a_sequence_beyond_the_context_is_refused():
    with pytest.raises(PromptError, match="the model holds 16"):
        shared_prefix.label_log_probabilities(network("llama", context=16), PROMPT, [[1] * 20])


@pytest.mark.parametrize("suffixes, answers", [(((),), ((1,),)), (((1,),), ((),)), ((), ((1,),))])
def test_nothing_to_read_is_refused(suffixes, answers):
    with pytest.raises(PromptError, match="empty"):
        shared_prefix.plant(suffixes, answers)


def test_no_messages_give_no_scores():
    assert shared_prefix.label_log_probabilities(NETWORKS["llama"], PROMPT, []).shape == (0, 2, 3)


def test_both_ways_are_timed_and_agree():
    table = shared_prefix.time_both_ways(NETWORKS["llama"], PROMPT, [1, 2, 3], [0, 32], rows=2)
    assert [row["prefix_tokens"] for row in table] == [0, 0, 32, 32]
    assert all(row["difference"] < TOLERANCE and row["seconds"] > 0 for row in table)


def test_no_longer_prefix_is_timed_once_a_message_takes_too_long(monkeypatch):
    monkeypatch.setattr(shared_prefix, "PATIENCE", 0.0)
    table = shared_prefix.time_both_ways(NETWORKS["llama"], PROMPT, [1, 2, 3], [0, 32], rows=2)
    assert [row["prefix_tokens"] for row in table] == [0, 0]
