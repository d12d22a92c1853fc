"""The checks of notebook 04's exercises: LoRA's size, the weighted loss, and the rank that a change of weights needs."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

RANK, HEADS, KEPT = 16, ("score", "classifier"), 0.9
LOGITS = ((2.0, 0.5, -1.0), (0.0, 0.0, 0.0), (-1.0, 3.0, 0.5))
WEIGHTS = (0.5, 1.0, 4.0)


@exercise("04.1", expects="one number")
def numbers_that_lora_trains(answer: int, network: torch.nn.Module) -> Verdict:
    """`answer` counts the numbers of B and A at rank 16 beside every linear layer of `network` but the head."""
    layers = {name: part for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    sides = {name: part.in_features + part.out_features for name, part in layers.items()}
    in_head = {name for name in sides if name.split(".")[-1] in HEADS}
    truth = RANK * sum(count for name, count in sides.items() if name not in in_head)
    head = sum(numbers.numel() for name in in_head for numbers in layers[name].parameters())
    if answer == truth:
        share = truth / sum(part.numel() for part in network.parameters())
        return right(
            f"{truth:,} numbers, {share:.0%} of the model's; each matrix gives {RANK} times rows plus columns."
        )
    if answer == RANK * sum(sides.values()):
        return wrong("The head is among them: it is trained in full and gets no adapter. Leave it out.")
    if answer == sum(part.weight.numel() for name, part in layers.items() if name not in in_head):
        return wrong("These are the numbers of the matrices W themselves. Beside a W of m x n stand m x 16 and 16 x n.")
    if answer in (truth + 2 * head, truth / 2 + head):
        return wrong(
            "The number that was printed is for rank 8 and holds the head, which is trained in full at any rank: take off "
            f"its {head:,} numbers before you double the rest."
        )
    if answer in (2 * truth, truth / 2):
        return wrong(f"Off by a factor of two: the rank asked for is {RANK}, and B and A count once each.")
    return wrong(f"Sum {RANK} * (rows + columns) over the linear layers but the head: see the section on LoRA.")


@exercise(
    "04.2", expects="a function of three logits, the number of the right level and three weights that returns a loss"
)
def loss_of_one_message(answer: Callable) -> Verdict:
    """`answer` maps three logits, the number of the right level and three weights to a loss."""
    cases = [(logits, level) for logits in LOGITS for level in range(3)]
    found = [float(answer(np.array(logits), level, np.array(WEIGHTS))) for logits, level in cases]
    logits, levels = torch.tensor([logits for logits, _ in cases]), torch.tensor([level for _, level in cases])
    weights = torch.tensor(WEIGHTS)
    plain = cross_entropy(logits, levels, reduction="none")
    truth = cross_entropy(logits, levels, weight=weights, reduction="none")
    if np.allclose(found, truth, atol=1e-5):
        times = WEIGHTS[2] / WEIGHTS[0]
        return right(f"With these weights the same mistake costs {times:.0f} times as much on the rare level.")
    if np.allclose(found, plain, atol=1e-5):
        return wrong("This is the plain cross-entropy: multiply it by the weight of the right level.")
    if np.allclose(found, -truth, atol=1e-5):
        return wrong("The sign is missing: a logarithm of a probability is negative, and a loss is not.")
    if np.allclose(found, -weights[levels] * logits[range(len(cases)), levels], atol=1e-5):
        return wrong("Logits are no probabilities yet: take the softmax, and then the logarithm.")
    if np.allclose(found, truth / np.log(10), atol=1e-5):
        return wrong("The logarithm is the natural one: np.log, not np.log10.")
    return wrong(
        "Softmax of the logits, minus the logarithm of the right one, times its weight: see the cells on the loss."
    )


@exercise("04.3", expects="one number")
def rank_that_is_needed(answer: int, change: torch.Tensor) -> Verdict:
    """`answer` is the smallest rank that keeps 90 % of the squared entries of `change`."""
    squares = torch.linalg.svdvals(change.double()) ** 2
    kept = torch.cumsum(squares, dim=0) / squares.sum()
    truth = int((kept < KEPT).sum()) + 1
    if answer == truth:
        return right(
            f"Rank {truth} keeps {float(kept[truth - 1]):.0%} of this change. One matrix after few steps: a hint, no rule."
        )
    strength = squares.sqrt()
    if answer == int((torch.cumsum(strength, dim=0) / strength.sum() < KEPT).sum()) + 1:
        return wrong("You added up the singular values themselves: square them first.")
    if answer == truth - 1:
        return wrong(
            f"Rank {answer} keeps {float(kept[truth - 2]) if truth > 1 else 0:.0%}, which is less than 90 %. Count from one."
        )
    if isinstance(answer, int) and truth < answer <= len(kept):
        return wrong(f"Rank {answer} keeps {float(kept[answer - 1]):.0%}; a smaller one is enough.")
    return wrong("Divide the running sum of strength**2 by its last value; at which place does it first reach 0.9?")
