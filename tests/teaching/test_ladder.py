"""The exercises of notebook A1: right, wrong and missing answers."""

import math

import pytest

from emosafe_lib.nano import ladder as shipped
from emosafe_lib.teaching import check, ladder


@pytest.fixture(scope="module")
def losses():
    return shipped.loss_table(shipped.curves())


def test_bits_are_nats_over_ln_2_and_perplexity_is_e_to_the_loss(losses):
    novel = losses[(losses["seed"] == 0) & (losses["text"] == "novel")].set_index("rung")["loss"]
    nats, perplexity = novel["nano-1"] - novel["nano-4"], math.exp(novel["nano-4"])
    assert check("A1.1", (nats / math.log(2), perplexity), losses)
    assert "in nats" in repr(check("A1.1", (nats, perplexity), losses))
    assert "not for 2" in repr(check("A1.1", (nats / math.log(2), 2 ** novel["nano-4"]), losses))
    assert check("A1.1", None, losses).says == "not answered yet"


def total(shape):
    return sum(ladder.counted(shape).values())


def test_a_shape_s_parameters_are_counted_part_by_part():
    assert check("A1.2", total)


def without_grouping(shape):
    return total(shape.model_copy(update={"kv_heads": shape.heads})) if hasattr(shape, "model_copy") else total(shape)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (without_grouping, "fewer heads"),
        (lambda s: total(s) + s.vocabulary * s.hidden, "tied"),
        (lambda s: total(s) - s.hidden, "one norm"),
        (lambda s: total(s) - ladder.counted(s)["the feed-forward part"], "feed-forward"),
        (lambda s: 12 * s.layers * s.hidden**2, "part by part"),
    ],
)
def test_a_wrong_count_hints_at_what_is_missing(answer, why):
    verdict = check("A1.2", answer)
    assert not verdict and why in repr(verdict)


def test_the_rate_is_judged_by_the_notebook_s_own_training():
    own = [8.0, *[7.0] * 8]
    assert check("A1.3", {0.1: 8.1, 1: 7.0, 10: 7.4}, own)
    assert "own training" in repr(check("A1.3", {0.1: 8.1, 1: 7.9, 10: 7.4}, own))
    assert "folder" in repr(check("A1.3", {0.1: 7.0, 1: 7.0, 10: 7.0}, own))
    assert "folder" in repr(check("A1.3", {0.1: 8.1, 1: 7.0, 10: 7.0}, own))
    assert "guessing" in repr(check("A1.3", {0.1: 99, 1: 7.0, 10: 0}, own))
    assert "factors" in repr(check("A1.3", {1: 7.0}, own))
    assert check("A1.3", None, own).says == "not answered yet"
