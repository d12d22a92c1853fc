"""The exercises of notebook 06: right, wrong and missing answers."""

import pytest
import torch

from emosafe_lib.models import capacity
from emosafe_lib.study.parameters import load_model
from emosafe_lib.teaching import check


def test_the_batch_is_the_first_whose_cache_is_larger():
    model = load_model("llama-1b")
    weights = capacity.weight_bytes(capacity.count_parameters(model), "int4")
    config = capacity.configuration(model)
    batch = next(n for n in range(1, 1000) if capacity.cache_bytes(config, "int4", n, 256) > weights)
    assert check("06.1", batch) and not check("06.1", batch - 1) and not check("06.1", 1)


@pytest.mark.parametrize("answer", [294, 295])
def test_a_batch_that_outgrows_weights_in_bf16_is_told_to_take_int4(answer):
    assert "take weights from int4" in repr(check("06.1", answer))


def by_row(matrix, bits, per_matrix=False, cut=False, floor=1e-12, steps=None):
    largest = matrix.abs().max() if per_matrix else matrix.abs().amax(dim=1, keepdim=True)
    scale = (largest / (steps or 2 ** (bits - 1) - 1)).clamp(min=floor)
    return ((matrix / scale).trunc() if cut else (matrix / scale).round()) * scale


def test_a_scale_for_each_row_is_right():
    assert check("06.2", by_row)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda m, bits: by_row(m, bits, per_matrix=True), "one large row"),
        (lambda m, bits: by_row(m, bits, cut=True), "half a step"),
        (lambda m, bits: by_row(m, bits, floor=0), "0 / 0"),
        (lambda m, bits: by_row(m, 8), "half a step|different weights"),
        (lambda m, bits: m, "different weights"),
        (lambda m, bits: by_row(m, bits, steps=2 ** (bits - 1)), "different weights"),
        (lambda m, bits: by_row(m, bits)[0], "shape"),
        (lambda m, bits: torch.nn.Linear(2, 2)(m), "RuntimeError"),
    ],
)
def test_other_functions_are_told_why_they_are_not(answer, why):
    import re

    verdict = check("06.2", answer)
    assert not verdict and re.search(why, repr(verdict)), verdict


def test_the_embedding_s_share_is_one_of_bytes():
    counts = capacity.count_parameters(load_model("llama-1b"))
    total = capacity.weight_bytes(counts, "int4")
    share, smaller = 2 * counts["embedding"] / total, (total - counts["embedding"]) / 1e9
    assert check("06.3", (share, smaller))
    assert "of the parameters" in repr(check("06.3", (counts["embedding"] / counts["total"], smaller)))
    assert not check("06.3", (share, total / 1e9)) and not check("06.3", (0.9, smaller))
    assert check("06.3", (None, None)).says == "not answered yet"
