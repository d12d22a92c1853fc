"""Attacks on pooled vectors and on what tells exhausted memory from other errors."""

import numpy as np
import pytest
import tiny_models
import torch

from emosafe_lib.models import backbone, batching
from emosafe_lib.models.pooling import embed, pool
from emosafe_lib.study.memory import out_of_memory


def test_pooling_ignores_padding():
    states, mask = torch.arange(12.0).reshape(2, 3, 2), torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert pool(states, mask, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool(states[:1], torch.tensor([[0, 1, 1]]), "last").tolist() == [[4.0, 5.0]]


def test_an_embedding_has_unit_length_whatever_shares_its_batch(tmp_path, monkeypatch):
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    network, tokenizer = backbone.load_encoder(tiny_models.model_params("encoder"))
    texts = tiny_models.make_rows()["text"].tolist()
    encoded = batching.encode(tokenizer, texts, 6)
    alone, together = (embed(network, tokenizer, encoded, budget) for budget in (1, 10_000))
    assert np.allclose(np.linalg.norm(alone, axis=1), 1) and np.abs(alone - together).max() < 1e-6
    assert encoded.truncated.any() and not encoded.truncated.all()
    assert embed(network, tokenizer, batching.encode(tokenizer, [], 6), 64).shape == (0, 16)


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (MemoryError(), True),
        (ValueError("Some modules are dispatched on the CPU. Make sure you have enough GPU RAM"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("a tensor's storage was not allocated"), False),
    ],
    ids=lambda value: "" if isinstance(value, bool) else type(value).__name__,
)
def test_exhausted_memory_is_told_from_other_errors(error, expected):
    assert out_of_memory(error) is expected
