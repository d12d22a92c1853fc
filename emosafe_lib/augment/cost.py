"""Prices, estimates and caps.

A cap is worth something only if the estimate errs upwards: prompts are counted at three characters a token and every
reply at its permitted length. What was really spent comes from the server's own token counts.
"""

from emosafe_lib.augment.tactics import MAX_REPLY_TOKENS
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.parameters import AugmentationParams

# US dollars per million tokens (input, output) as published by OpenAI; `augmentation.prices` overrides them.
PRICES = {"gpt-4o-mini": (0.15, 0.60), "gpt-4o": (2.50, 10.00), "gpt-4.1-mini": (0.40, 1.60), "gpt-4.1": (2.00, 8.00)}


def prices(params: AugmentationParams) -> tuple[float, float]:
    """US dollars per million input and output tokens.

    Raises
    ------
    AugmentationError : neither the parameters nor this module know a price, so no cap could hold
    """
    if params.provider in ("template", "replay"):
        return 0.0, 0.0
    found = params.prices or PRICES.get(params.model)
    if not found:
        remedy = "set augmentation.prices to [input, output] in US dollars per million tokens, [0.0, 0.0] for your own"
        raise AugmentationError(f"model {params.model}", "has no known price", remedy)
    half = 0.5 if params.provider == "openai-batch" else 1.0
    return found[0] * half, found[1] * half


def of_tokens(prompt: int, completion: int, params: AugmentationParams) -> float:
    """What that many tokens cost, in US dollars."""
    price = prices(params)
    return (prompt * price[0] + completion * price[1]) / 1e6


def estimate(requests: list, params: AugmentationParams) -> dict:
    """Upper estimates of tokens and US dollars of some requests."""
    if params.provider in ("template", "replay"):
        return {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
    prompt, completion = sum(request.prompt_tokens for request in requests), len(requests) * MAX_REPLY_TOKENS
    dollars = of_tokens(prompt, completion, params)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "cost_usd": round(dollars, 6)}


def check_cap(todo: list, journal, params: AugmentationParams) -> None:
    """Refuse to start what might exceed a cap.

    What this journal has spent counts, and so do requests whose answers were lost, since they may have been billed.

    Raises
    ------
    AugmentationError : rows or dollars above their cap
    """
    if len(todo) > params.max_rows:
        remedy = "raise augmentation.max_rows"
        raise AugmentationError("augmentation.max_rows", f"{len(todo)} requests planned, cap {params.max_rows}", remedy)
    ahead = estimate(todo, params)["cost_usd"]
    lost = journal.uncertain * ahead / max(len(todo), 1)
    most = journal.spent_usd + lost + ahead
    if most > params.max_cost_usd + 1e-9:
        what = f"up to {most:.4f} US dollars for {len(todo)} requests, cap {params.max_cost_usd}"
        raise AugmentationError("augmentation.max_cost_usd", what, "lower augmentation.max_rows or raise the cap")
