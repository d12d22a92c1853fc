"""The exercises of notebook 04: right, wrong and missing answers."""

import numpy as np
import pytest
import torch

from emosafe_lib.finetuning.network import add_lora
from emosafe_lib.models.classifier import load_classifier
from emosafe_lib.study.parameters import load_model
from emosafe_lib.study.taxonomy import SAFETY_LEVELS
from emosafe_lib.teaching import check


@pytest.fixture(scope="module")
def nano():
    return load_classifier(load_model("nano-1"), SAFETY_LEVELS)[0]


def test_the_count_is_what_peft_trains_beside_the_head(nano):
    lora = {"rank": 16, "alpha": 16, "target_modules": "all-linear"}
    model = load_model("nano-1")
    training = model.training.model_copy(update={"lora": model.training.lora.model_copy(update=lora)})
    head = sum(part.numel() for part in nano.score.parameters())
    matrices = [part for name, part in nano.named_modules() if isinstance(part, torch.nn.Linear) and name != "score"]
    with_head = 16 * sum(part.in_features + part.out_features for part in [*matrices, nano.score])
    whole = sum(part.weight.numel() for part in matrices)
    fresh = load_classifier(model, SAFETY_LEVELS)[0]
    adapted = add_lora(fresh, model.model_copy(update={"training": training}))
    truth = sum(part.numel() for part in adapted.parameters() if part.requires_grad) - head
    assert check("04.1", truth, nano)
    assert "head" in repr(check("04.1", with_head, nano)) and not check("04.1", with_head, nano)
    assert "themselves" in repr(check("04.1", whole, nano))
    assert "factor of two" in repr(check("04.1", truth // 2, nano))
    assert "holds the head" in repr(check("04.1", 2 * (truth // 2 + head), nano))
    assert "holds the head" in repr(check("04.1", truth // 2 + head, nano))
    assert check("04.1", 7, nano).says == "not yet" and check("04.1", None, nano).says == "not answered yet"


def loss(logits, level, weights):
    return -np.log(np.exp(logits[level]) / np.exp(logits).sum()) * weights[level]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (loss, "right"),
        (lambda logits, level, weights: loss(logits, level, np.ones(3)), "multiply"),
        (lambda logits, level, weights: -loss(logits, level, weights), "sign"),
        (lambda logits, level, weights: -weights[level] * logits[level], "softmax"),
        (lambda logits, level, weights: loss(logits, level, weights) / np.log(10), "np.log10"),
        (lambda logits, level, weights: 1.0, "not yet"),
        (lambda logits, level: 1.0, "TypeError"),
        (None, "not answered yet"),
    ],
)
def test_the_weighted_loss_of_one_message(answer, says):
    verdict = check("04.2", answer)
    assert says in repr(verdict) and bool(verdict) == (says == "right")


def test_the_rank_that_keeps_most_of_a_change():
    """Squares 36, 25, 9, 1, 1: two patterns keep 85 % and three 97 %, and of the plain values it takes four."""
    left, right = (torch.linalg.qr(torch.randn(size, 5, generator=torch.manual_seed(0)))[0] for size in (9, 7))
    change = left @ torch.diag(torch.tensor([6.0, 5.0, 3.0, 1.0, 1.0])) @ right.T
    assert check("04.3", 3, change)
    assert "85 %" in repr(check("04.3", 2, change)).replace("85%", "85 %")
    assert "square" in repr(check("04.3", 4, change))
    assert "smaller" in repr(check("04.3", 5, change))
    assert check("04.3", "three", change).says == "not yet" and check("04.3", None, change).says == "not answered yet"
