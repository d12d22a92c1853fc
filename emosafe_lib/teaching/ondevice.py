"""The checks of notebook 06's exercises: a cache that outgrows weights, a scale for each row, what embeddings weigh."""

import torch

from emosafe_lib.models import capacity
from emosafe_lib.study.parameters import load_model
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

MODEL, TOKENS = "llama-1b", 256
CLOSE = 0.01
EVENLY = 4001  # weights that meet every step of 8 bits


@exercise("06.1", expects="one number")
def batch_that_outgrows(answer: int) -> Verdict:
    """`answer` is the smallest batch whose key-value cache is larger than the 4-bit weights."""
    plan = capacity.memory_plan(load_model(MODEL), 1, TOKENS).set_index("dtype")
    weights, cache = plan.loc["int4", "weights"], plan.loc["bfloat16", "cache"]
    truth = int(weights // cache) + 1
    if answer == truth:
        return right(
            f"{weights / 1e9:.2f} GB of weights against {cache / 1e6:.1f} MB a message: a phone reads one message at a "
            "time and need not care, a server with many users must."
        )
    if abs(answer - int(plan.loc["bfloat16", "weights"] // cache) - 1) <= 1:
        return wrong(
            "That is where the weights in bf16 are outgrown; only the cache is in bf16, so take weights from int4."
        )
    if abs(answer - truth) <= 1:
        return wrong("Nearly: the cache has to be larger than the weights, so round the quotient up.")
    return wrong("Divide the bytes of the weights by those of one message's cache, both from the plan.")


@exercise("06.2", expects="a function of a matrix and a number of bits that returns a matrix of the same shape")
def quantized_by_rows(answer) -> Verdict:
    """`answer` is a function `(matrix, bits)` of the weights that come back, quantized with a scale for each row."""
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    matrix[0] *= 1000
    for bits in (8, 4):
        back = answer(matrix.clone(), bits)
        if back.shape != matrix.shape:
            return wrong(f"The shape should stay {tuple(matrix.shape)} and became {tuple(back.shape)}.")
        step = matrix.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        if ((back - matrix).abs() > 0.501 * step).any():
            small = ((back - matrix).abs() <= 0.501 * step)[0].all()
            why = "one large row spoils the others: is the scale taken for each row?" if small else "is it rounded?"
            return wrong(f"With {bits} bits some weights are off by more than half a step; {why}")
        even = answer(torch.linspace(-1, 1, EVENLY)[None], bits)  # few random weights would not meet every step
        if max(len(row.unique()) for row in (*back, *even)) > 2**bits or torch.equal(back, matrix):
            return wrong(f"With {bits} bits a row has at most {2**bits} different weights, and here it has more.")
    if not torch.equal(answer(torch.zeros(2, 3), 8), torch.zeros(2, 3)):
        return wrong("A row of zeros should come back as zeros; its scale is 0, and 0 / 0 is no number.")
    error = {
        bits: ((answer(matrix, bits) - matrix).abs() / matrix.abs().mean(1, keepdim=True)).mean() for bits in (8, 4)
    }
    return right(f"Mean error {error[8]:.1%} of a row's mean weight with 8 bits and {error[4]:.1%} with 4.")


@exercise("06.3", expects="a pair of numbers, such as (0.1, 1.5)")
def weight_of_the_embedding(answer: tuple[float, float]) -> Verdict:
    """`answer` is the embedding's share of the 4-bit bytes, and the GB of all weights with the embedding in 8 bits."""
    share, gigabytes = answer
    counts = capacity.count_parameters(load_model(MODEL))
    total, table = capacity.weight_bytes(counts, "int4"), 2 * counts["embedding"]
    truth = table / total, (total - table / 2) / 1e9
    if abs(share - counts["embedding"] / counts["total"]) < CLOSE:
        return wrong("That is the embedding's share of the parameters; its share of the bytes is larger.")
    if abs(share - truth[0]) > CLOSE:
        return wrong("Two bytes for each parameter of the embedding, over all bytes of the 4-bit weights.")
    if abs(gigabytes - truth[1]) > CLOSE:
        return wrong(
            f"The share is right. In 8 bits the embedding takes half of its {table / 1e9:.2f} GB; the rest stays."
        )
    return right(
        f"{share:.0%} of the bytes, though only {counts['embedding'] / counts['total']:.0%} of the parameters: in a small "
        "model with a large vocabulary the table is what is left to shrink."
    )
