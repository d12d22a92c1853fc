"""Batches by length, to a budget of tokens, so that a processor works on text and not on padding.

A batch costs its longest text times its rows. Sorting by length and filling each batch up to a token budget keeps
padding under a tenth of all tokens and memory even, whatever the mix of lengths; batches of equal rows in random order,
the usual default, spend much of their work on padding where short and long texts meet.
"""

from dataclasses import dataclass

import numpy as np

STARTS = ("bos", "cls", "eos", "pad")


@dataclass(frozen=True)
class Encoded:
    """Token ids of n texts: `ids[i]` is a list of integers; `truncated[i]` says whether text i was cut."""

    ids: list[list[int]]
    truncated: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text, shape (n,)."""
        return np.array([len(ids) for ids in self.ids], dtype=int)


def start_token(*special: int | None) -> int | None:
    """What a text of no tokens is read as: the first of the special tokens, in the order of `STARTS`, that there is."""
    return next((token for token in special if token is not None), None)


def encode(tokenizer, texts, max_length: int | None) -> Encoded:
    """Tokenize texts, at most `max_length` tokens each, the end cut off; whole where it is None.

    A control token spelled out in a text is data: it is split into ordinary tokens and controls nothing.
    """
    options = {"split_special_tokens": True, "return_attention_mask": False, "verbose": False}
    if not len(texts):  # which tokenizers do not take
        return Encoded([], np.zeros(0, dtype=bool))
    whole = tokenizer(list(texts), **options)["input_ids"]
    limit = {} if max_length is None else {"truncation": True, "max_length": max_length}
    cut = tokenizer(list(texts), **limit, **options)["input_ids"]
    start = start_token(*(getattr(tokenizer, f"{name}_token_id") for name in STARTS))
    cut = [ids or [start] for ids in cut]
    return Encoded(cut, np.array([len(a) > len(b) for a, b in zip(whole, cut, strict=True)], dtype=bool))


def budget_batches(lengths, budget: int, order=None) -> list[list[int]]:
    """Group rows of similar length so that rows x longest stays within `budget` tokens; a row is never left out.

    Parameters
    ----------
    lengths : tokens per row, shape (n,)
    budget : tokens of one padded batch; a single longer row forms a batch of its own
    order : a permutation that breaks ties between equal lengths; it changes who meets whom, never the batches' sizes

    Returns
    -------
    lists of row numbers, shortest rows first
    """
    lengths = np.asarray(lengths)
    order = np.arange(len(lengths)) if order is None else np.asarray(order)
    batches: list[list[int]] = []
    for row in order[np.argsort(lengths[order], kind="stable")]:
        if not batches or (len(batches[-1]) + 1) * lengths[row] > budget:
            batches.append([])
        batches[-1].append(int(row))
    return batches


def map_batches(function, tokenizer, encoded: Encoded, budget: int) -> np.ndarray:
    """What `function` makes of padded batches within a token budget, put back in the rows' own order.

    `function` takes token ids and their mask, both (rows, tokens), padded on the tokenizer's side, and returns an array
    (rows, ...).
    """
    from transformers import DataCollatorWithPadding

    collate, found = DataCollatorWithPadding(tokenizer), {}
    for batch in budget_batches(encoded.lengths, budget):
        found.update(zip(batch, function(collate([{"input_ids": encoded.ids[row]} for row in batch])), strict=True))
    return np.stack([found[row] for row in range(len(encoded.ids))])


def padding_share(lengths, batches) -> float:
    """The share of all tokens, padding included, that is padding."""
    lengths = np.asarray(lengths)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - float(sum(int(lengths[batch].sum()) for batch in batches)) / padded if padded else 0.0


def padding_by_order(lengths, budget: int, seed: int = 0):
    """Tokens of text and of padding in every batch, by length to a budget and in random order with as many batches.

    Returns
    -------
    a DataFrame with the columns batching, batch, text, padding
    """
    import pandas as pd

    lengths = np.asarray(lengths)
    ours = budget_batches(lengths, budget)
    shuffled = np.random.default_rng(seed).permutation(len(lengths))
    ways = {"by length, to a budget": ours, "random order": np.array_split(shuffled, len(ours))}
    return pd.DataFrame(
        {
            "batching": way,
            "batch": number,
            "text": int(lengths[batch].sum()),
            "padding": int(lengths[batch].max() * len(batch) - lengths[batch].sum()),
        }
        for way, batches in ways.items()
        for number, batch in enumerate(batches)
    )


class BudgetSampler:
    """Training batches of every epoch: fresh company for each row, fresh order of batches, the same number of batches.

    The order is a function of seed and epoch alone, so a resumed run sees what an uninterrupted one would have seen.
    Each of `world` processes takes its share of the batches; some are dealt again so that all get as many.
    """

    def __init__(self, lengths, budget: int, seed: int, rank: int = 0, world: int = 1):
        self.lengths, self.budget, self.seed = np.asarray(lengths), budget, seed
        self.rank, self.world, self.epoch = rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        random = np.random.default_rng([self.seed, self.epoch])
        batches = budget_batches(self.lengths, self.budget, random.permutation(len(self.lengths)))
        deal = random.permutation(len(batches))
        deal = np.resize(deal, -(-len(deal) // self.world) * self.world)
        yield from (batches[number] for number in deal[self.rank :: self.world])

    def __len__(self) -> int:
        return -(-len(budget_batches(self.lengths, self.budget)) // self.world)
