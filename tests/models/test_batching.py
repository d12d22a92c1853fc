"""Token-budget batches: complete, within budget, nearly free of padding, and the same on every machine."""

import numpy as np
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from emosafe_lib.models.batching import BudgetSampler, budget_batches, encode, padding_by_order, padding_share


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 500))
def test_every_row_once_and_no_batch_beyond_the_budget(lengths, budget):
    batches = budget_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= budget


def test_padding_is_below_a_tenth_on_a_skewed_mix():
    lengths = np.clip(np.random.default_rng(0).lognormal(3.5, 0.8, 2000), 3, 256).astype(int)
    assert padding_share(lengths, budget_batches(lengths, 1024)) < 0.10
    padding = padding_by_order(lengths, 1024).groupby("batching")[["text", "padding"]].sum()
    assert padding.loc["random order", "padding"] > padding.loc["random order", "text"] * 0.5


def test_an_epoch_is_a_function_of_seed_and_number_alone():
    lengths = np.random.default_rng(1).integers(3, 9, 60)

    def epoch(number, seed=0):
        sampler = BudgetSampler(lengths, 24, seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4) and epoch(3) != epoch(3, seed=1)
    assert len(epoch(3)) == len(epoch(4)) == len(BudgetSampler(lengths, 24, 0))


def test_rows_meet_others_in_the_next_epoch():
    sampler, company = BudgetSampler([5] * 40, 20, 0), []
    for number in (0, 1):
        sampler.set_epoch(number)
        company.append({frozenset(batch) for batch in sampler})
    assert company[0] != company[1]


def test_fewer_batches_than_half_of_the_processes_leave_nobody_without_one():
    """Whoever had none would wait for the others for ever."""
    parts = [list(BudgetSampler([5, 5, 5], 5, 0, rank, 8)) for rank in range(8)]
    assert {len(part) for part in parts} == {1} and {batch[0] for (batch,) in parts} == {0, 1, 2}


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_all_batches_and_have_as_many(world):
    lengths = np.random.default_rng(2).integers(3, 30, 50)
    parts = [list(BudgetSampler(lengths, 64, 0, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(BudgetSampler(lengths, 64, 0, 0, world))}
    assert {row for part in parts for batch in part for row in batch} == set(range(50))


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory):
    return tiny_models.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_a_control_token_in_a_text_is_data(llama_tokenizer):
    """A pad token spelled out in a message must neither be masked nor end the text."""
    ids = encode(llama_tokenizer, ["calm <|pad|> <|end_of_text|> <|begin_of_text|> calm"], 64).ids[0]
    assert ids.count(llama_tokenizer.pad_token_id) == ids.count(llama_tokenizer.eos_token_id) == 0
    assert ids.count(llama_tokenizer.bos_token_id) == 1


def test_a_text_without_tokens_begins_as_others_do_though_that_tokens_id_is_zero():
    class Numbered:
        bos_token_id, cls_token_id, eos_token_id, pad_token_id = 0, None, 7, 9

        def __call__(self, texts, **options):
            return {"input_ids": [[] for _ in texts]}

    assert encode(Numbered(), [""], 8).ids == [[0]]


def test_an_encoders_control_token_in_a_text_is_data(tmp_path):
    from transformers import AutoTokenizer

    tiny_models.make_encoder(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = encode(tokenizer, ["calm [PAD] [SEP] calm"], 64).ids[0]
    assert ids.count(tokenizer.pad_token_id) == 0 and ids.count(tokenizer.sep_token_id) == 1


def test_truncation_is_declared_and_an_empty_text_has_a_token(llama_tokenizer):
    found = encode(llama_tokenizer, ["calm garden morning " * 9, "calm", ""], 8)
    assert found.truncated.tolist() == [True, False, False]
    assert max(found.lengths) == 8 and min(found.lengths) >= 1
