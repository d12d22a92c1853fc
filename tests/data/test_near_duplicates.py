"""Near-duplicate pairs against an all-pairs search with plain Python sets."""

import itertools
import random

import numpy as np
import pytest

from emosafe_lib.data import near_duplicates


def words(key: str) -> set:
    tokens = key.split()
    return set(tokens) | set(itertools.pairwise(tokens))


def all_pairs(keys, threshold):
    sets = [words(key) for key in keys]
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(keys)), 2)
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
    }


def corpus(n: int, seed: int) -> list[str]:
    """Texts of 1 to 60 words, a third of them a neighbour with a few words changed."""
    source = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(400)]
    texts: list[str] = []
    while len(texts) < n:
        text = source.choices(vocabulary, k=source.randint(1, 60))
        texts.append(" ".join(text))
        if source.random() < 0.33:
            for _ in range(source.randint(1, 3)):
                text[source.randrange(len(text))] = source.choice(vocabulary)
            texts.append(" ".join(text))
    return texts[:n]


@pytest.mark.parametrize("threshold", [0.7, 0.85])
def test_13_finds_what_an_exhaustive_search_finds(threshold):
    keys = corpus(900, seed=1)
    expected = all_pairs(keys, threshold)
    assert len(expected) > 40
    assert {tuple(pair) for pair in near_duplicates.near_duplicate_pairs(keys, threshold).tolist()} == expected


def test_agrees_with_datasketch_on_jaccard():
    from datasketch import MinHash

    one, other = "a b c d e f g h i j k l m n o p", "a b c d e f g h i j k l m n o q"
    sketches = []
    for key in (one, other):
        sketch = MinHash(num_perm=512, seed=1)
        sketch.update_batch([str(part).encode() for part in words(key)])
        sketches.append(sketch)
    values, offsets = near_duplicates.shingles([one, other])
    exact = near_duplicates.jaccard(np.array([[0, 1]]), values, offsets)[0]
    assert exact == len(words(one) & words(other)) / len(words(one) | words(other))
    assert abs(exact - sketches[0].jaccard(sketches[1])) < 0.08


def test_chunks_change_nothing(monkeypatch):
    keys = corpus(300, seed=2)
    whole = near_duplicates.near_duplicate_pairs(keys, 0.7)
    monkeypatch.setattr(near_duplicates, "CHUNK", 37)
    monkeypatch.setattr(near_duplicates, "PAIR_CHUNK", 11)
    assert np.array_equal(near_duplicates.near_duplicate_pairs(keys, 0.7), whole) and len(whole)


def test_two_identical_and_one_empty_handed():
    assert near_duplicates.near_duplicate_pairs(["a b c", "a b c", "x"], 0.7).tolist() == [[0, 1]]
    assert (
        len(near_duplicates.near_duplicate_pairs(["one"], 0.7))
        == len(near_duplicates.near_duplicate_pairs([], 0.7))
        == 0
    )


def test_components_join_chains():
    part = near_duplicates.components(5, np.array([[0, 1], [1, 2]]), np.array([[3, 4]]))
    assert part[0] == part[1] == part[2] != part[3] == part[4]
