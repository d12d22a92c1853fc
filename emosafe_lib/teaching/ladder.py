"""The checks of notebook A1's exercises: nats and bits, a shape's parameters, and a learning rate that is too high."""

import math
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd

from emosafe_lib.models import capacity
from emosafe_lib.nano.pretrain import RUNGS, VOCABULARY
from emosafe_lib.study.parameters import load_model
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

SHAPES = (*RUNGS, "llama-1b", "llama-8b")  # tied and untied tables, as many and fewer key and value heads
LAST = 8
MOST_LOSS = math.log(VOCABULARY) + 2  # a rate that is far too high ends above guessing
CLOSE = 0.01


@exercise("A1.1", expects="a pair of numbers, such as (0.5, 200)")
def bits_and_perplexity(answer: tuple[float, float], losses: pd.DataFrame) -> Verdict:
    """`answer` holds the bits a token that nano-4 saves, and its perplexity, on the held-out novel."""
    bits, perplexity = answer
    novel = losses[(losses["seed"] == 0) & (losses["text"] == "novel")].set_index("rung")["loss"]
    nats, truth = novel["nano-1"] - novel["nano-4"], math.exp(novel["nano-4"])
    if abs(bits - nats) < CLOSE:
        return wrong("That is the difference in nats; divide it by ln 2.")
    if abs(bits - nats / math.log(2)) > CLOSE:
        return wrong("Take the difference of the two losses on the novel, seed 0, and turn nats into bits.")
    if abs(perplexity - 2 ** novel["nano-4"]) < 1:
        return wrong("The bits are right. A loss in nats asks for e to the loss, not for 2 to it.")
    if abs(perplexity - truth) > 0.01 * truth:
        return wrong("The bits are right. The perplexity is e to the loss of nano-4.")
    return right(
        f"nano-4 is as unsure as a die with {truth:.0f} faces, nano-1 as one with {math.exp(novel['nano-1']):.0f}."
    )


@exercise("A1.2", expects="a function of a shape that returns a whole number")
def parameters_of_a_shape(answer) -> Verdict:
    """`answer` is a function of a shape that counts its parameters."""
    for name in SHAPES:
        model = load_model(name)
        found, truth = answer(model.shape), capacity.count_parameters(model)["total"]
        if found != truth:
            return wrong(
                f"{name} has {truth:,} parameters, and the function says {found:,}. {why_not(model.shape, found - truth)}"
            )
    odd = SimpleNamespace(layers=1, hidden=8, heads=4, kv_heads=1, intermediate=5, vocabulary=7, tied_embeddings=False)
    if answer(odd) != sum(counted(odd).values()):
        return wrong("It fits the models of this study and no other shape: is a number typed in?")
    return right(
        "Without a single weight: most of a small model is its table, most of a large one its feed-forward part."
    )


def counted(shape) -> dict[str, int]:
    """The parameters of a shape by part."""
    key_value = shape.kv_heads * (shape.hidden // shape.heads)
    attention, forward = 2 * shape.hidden**2 + 2 * shape.hidden * key_value, 3 * shape.hidden * shape.intermediate
    return {
        "the tables": (1 if shape.tied_embeddings else 2) * shape.vocabulary * shape.hidden,
        "attention": shape.layers * attention,
        "the feed-forward part": shape.layers * forward,
        "the norms": (2 * shape.layers + 1) * shape.hidden,
    }


def why_not(shape, gap: int) -> str:
    """A hint at the part that a wrong count has forgotten, or counted twice."""
    grouped = 2 * shape.layers * shape.hidden * (shape.hidden - shape.kv_heads * (shape.hidden // shape.heads))
    if gap == grouped:
        return "Keys and values have fewer heads than queries."
    if abs(gap) == shape.vocabulary * shape.hidden:
        return "Are the input and the output table one here (tied) or two?"
    parts = counted(shape) | {"one norm": shape.hidden, "the layers' norms": 2 * shape.layers * shape.hidden}
    named = [name for name, size in parts.items() if abs(gap) == size]
    return f"Look at {named[0]}." if named else "Add it up part by part: tables, attention, feed-forward, norms."


@exercise("A1.3", expects="a dict of the loss by factor, such as {0.1: 8.0, 1: 7.0, 10: 6.5}")
def rate_that_is_worst(answer: dict[float, float], losses: list[float]) -> Verdict:
    """`answer` is the mean loss of the last steps by factor; `losses` are those of the notebook's own training."""
    found = {float(factor): float(np.mean(value)) for factor, value in answer.items()}
    if set(found) != {0.1, 1.0, 10.0}:
        return wrong("Give a loss for each of the factors 0.1, 1 and 10.")
    own = float(np.mean(losses[-LAST:]))
    if abs(found[1.0] - own) > 0.05:
        return wrong(
            f"With factor 1 it is the notebook's own training, whose last {LAST} losses have the mean {own:.2f}."
        )
    if any(abs(one - other) < CLOSE for one, other in combinations(found.values(), 2)):
        return wrong("Two of the losses are the same: did each run get its own rate, and a folder of its own?")
    if not all(0 < loss < MOST_LOSS for loss in found.values()):
        return wrong(
            f"A loss is above 0, and one far above {math.log(VOCABULARY):.1f} is worse than guessing among all tokens."
        )
    best, worst = min(found, key=found.get), max(found, key=found.get)
    return right(
        f"Best with {best:g} times the rate, worst with {worst:g} times. So short a run ends while its rate still rises, "
        "before the peak, so a higher rate can win; the notebook's own was chosen on 350,000 tokens. A rate belongs to its "
        "budget."
    )
