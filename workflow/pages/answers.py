"""What the front page answers first: each claim in one line, with its effect and the interval.

`claims.json` says why a verdict fell in a sentence that holds every number. Whoever opens the page wants the one number
that decides, so each claim has a function that picks it.
"""

import math
from collections import Counter
from pathlib import Path

from emosafe_lib.evaluation.claims import STATEMENTS
from emosafe_lib.evaluation.intervals import with_interval
from emosafe_lib.evaluation.metrics import METRIC_NAMES
from emosafe_lib.evaluation.readings import agreed
from emosafe_lib.study.errors import StageError
from workflow.receipts import read_or_empty

SHOWN = {"claim", "ladder", "verdict", "test", "because"}


def read_claims(base: Path) -> dict:
    """The claims that notebook 05 wrote into a study's folder, by name; {} where it has not run.

    Raises
    ------
    StageError : an earlier version of this package wrote them, and they are not what a page shows today
    """
    claims = read_or_empty(base / "claims.json")
    known = all(name.partition("@")[0] in STATEMENTS for name in claims)
    if not known or any(not isinstance(claim, dict) or SHOWN - claim.keys() for claim in claims.values()):
        raise StageError("claims.json", "is of another version of emosafe", "run notebook 05 again")
    return claims


def claims_in_order(claims: dict) -> list[str]:
    """The names in `claims.json`, a ladder after the other, each in the order of the paper's findings."""
    order = list(STATEMENTS)
    return sorted(claims, key=lambda name: (name.partition("@")[2], order.index(name.partition("@")[0])))


def on_first_ladder(claims: dict) -> list[str]:
    """The names of the claims on the study's first ladder, in order; those on further ones are told by an @."""
    return [name for name in claims_in_order(claims) if "@" not in name]


def lines_of(claims: dict) -> list[dict]:
    """The claims on the first ladder: what is claimed, both verdicts, and the effect with what it is a difference of."""
    return [
        {"claim": claims[name]["claim"], "verdict": claims[name]["verdict"], "words": words_verdict(claims[name])}
        | dict(zip(("effect", "meaning"), effect_of(name, claims[name]), strict=True))
        for name in on_first_ladder(claims)
    ]


def words_verdict(claim: dict) -> str:
    """The verdict by the paper's own words, where it is another than the strict one; else empty."""
    own = (claim.get("paper") or {}).get("verdict", "")
    return "" if own == claim["verdict"] else own


def summary(lines: list[dict]) -> str:
    """How the claims fare, such as `2 of 5 are supported, 2 contradicted, 1 cannot be told`."""
    count = Counter(line["verdict"] for line in lines)
    verb = agreed(count["supported"], "is", "are")
    said = [f"{count['supported']} of {len(lines)} {verb} supported", f"{count['contradicted']} contradicted"]
    return ", ".join([*said, f"{count['cannot tell']} cannot be told"])


def effect_of(name: str, claim: dict) -> tuple[str, str]:
    """The number that decides a claim, with its interval, and what it is; a claim without numbers says why it has none."""
    numbers = claim.get("numbers") or {}
    metric = numbers.get("metric", "")
    try:
        return EFFECTS[name.partition("@")[0]](numbers, {**METRIC_NAMES, "f1": "F1"}.get(metric, metric))
    except (KeyError, ValueError):  # no runs, so no numbers; or a file of another version
        return "", claim.get("because", "")


def spoken(found: dict) -> str:
    """A difference as `+0.123 [0.100, 0.150]`."""
    return with_interval(found["value"], found["low"], found["high"], "+.3f")


def widest(gaps: dict) -> str:
    """The name of the difference that is furthest below zero; where some are undefined, of the others."""
    return min(gaps, key=lambda name: math.inf if gaps[name]["value"] is None else gaps[name]["value"])


def larger(numbers: dict, metric: str) -> tuple[str, str]:
    """Claim 1: the largest model minus the smallest."""
    small, *_, large = numbers["models"]
    return spoken(numbers["largest_minus_smallest"]), f"mean {metric}, {large} minus {small}"


def most(numbers: dict, metric: str) -> tuple[str, str]:
    """Claim 2: what size adds to the categories and to zero-shot beyond what it adds elsewhere."""
    both = [spoken(numbers[name]) for name in ("categories_minus_safety", "zero_shot_minus_others")]
    return f"{both[0]} and {both[1]}", f"{metric} that size adds in categories and in zero-shot, beyond the others"


def level(numbers: dict, metric: str) -> tuple[str, str]:
    """Claim 3: in how many categories the smallest is level, and the widest gap."""
    gaps = {(label, m): gap for label, found in numbers["categories"].items() for m, gap in found.items()}
    label, rival = widest(gaps)
    counted = f"level in {len(numbers['level'])} of {len(numbers['categories'])} categories"
    against = f"{numbers['smallest']} minus {rival} in {label.replace('_', ' ')}"
    return spoken(gaps[label, rival]), f"{counted}; widest gap in {metric or 'F1'}, {against}"


def fits(numbers: dict, metric: str) -> tuple[str, str]:
    """Claim 4: the bytes by precision, computed."""
    sizes = numbers["gigabytes"]
    shown = ", ".join(f"{name} {sizes[name]:.2f} GB" for name in numbers["below"] or sizes)
    return shown, f"computed for {numbers['model']}, without an interval; the limit is {numbers['limit']:g} GB"


def viable(numbers: dict, metric: str) -> tuple[str, str]:
    """Claim 5: the widest gap of the smallest model."""
    gaps = numbers["against"] | {f"{metric} against TF-IDF": numbers["over_tfidf"]}
    return spoken(gaps[widest(gaps)]), f"widest gap of the smallest model: {widest(gaps)}"


EFFECTS = dict(zip(STATEMENTS, (larger, most, level, fits, viable), strict=True))
