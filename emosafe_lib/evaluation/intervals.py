"""How a number is told with its interval, in one form everywhere, and what interval a share of few rows has.

Nothing heavy is imported here, because `emosafe classify` says how sure its thresholds are.
"""

import math


def with_interval(value: float | None, low: float | None, high: float | None, form: str = ".3f") -> str:
    """A number with its interval as tables write it; alone where there is no interval, a word where it is undefined."""
    if value is None or value != value:
        return "undefined"
    if low is None or low != low:
        return f"{value:{form}}"
    limit = form.lstrip("+")
    return f"{value:{form}} [{low:{limit}}, {high:{limit}}]"


def each_with_interval(table, form: str = ".3f") -> list[str]:
    """The rows of a table, which has the columns value, low and high, as text."""
    return [with_interval(row.value, row.low, row.high, form) for row in table.itertuples()]


def side_of_zero(low: float, high: float) -> int:
    """1 where an interval lies above zero, -1 where it lies below, 0 where it holds zero or is undefined."""
    return int(low > 0) - int(high < 0)


def wilson(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share of n independent things (Wilson 1927): never without width, never beyond 0 and 1."""
    from statistics import NormalDist

    spread = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
