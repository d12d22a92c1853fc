"""The checks of notebook 02: the smallest cap, the level that a second judge costs most, and what a rerun asks again."""

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from emosafe_lib.augment import reinterpretation
from emosafe_lib.augment.journal import FINAL, Journal
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

CENT = 0.01


@exercise("02.1", expects="one number, in US dollars")
def the_smallest_cap(answer: float, rows: pd.DataFrame, params: AugmentationParams) -> Verdict:
    """`answer` is in US dollars, for the plan of `params` sent to gpt-4o-mini."""
    paid = params.model_copy(update={"provider": "openai", "model": "gpt-4o-mini", "prices": None})
    bill = reinterpretation.estimate(rows, paid)["cost_usd"]
    cap = math.ceil(round(bill / CENT, 4)) * CENT
    if abs(answer - cap) < CENT / 2:
        return right(
            f"The whole plan is foreseen to cost {bill:.4f} US dollars; a smaller cap stops it before it is sent."
        )
    if answer < bill:
        return wrong("The plan would not start: what is foreseen for all its requests is above this cap.")
    return wrong("It would start, but so it would with a smaller cap. Are these whole cents, and dollars?")


@exercise("02.2", expects="the name of one level, a text in quotes")
def the_level_that_loses_most(answer: str, agreement: pd.DataFrame) -> Verdict:
    """`agreement` counts replies by the level asked for (index) and the second judge's (columns)."""
    asked = agreement.sum(axis=1)
    lost = asked - pd.Series({level: agreement.loc[level, level] for level in agreement.index})
    shares = (lost / asked)[asked > 0]
    if answer not in agreement.index:
        return wrong(f"It is one of {', '.join(agreement.index)}.")
    if shares.empty:
        return wrong("This run accepted nothing, so no level loses any; try it with another study.")
    if shares.get(answer) == shares.max():
        return right(
            f"It would lose {shares.max():.0%}. A judge who knows only merged rows has never read a re-telling: it may be "
            "the judge who is wrong."
        )
    if lost[answer] == lost.max():
        return wrong("It loses most rows, but it has most, too. Divide by how many were asked for.")
    return wrong("Another level loses a larger share: one minus the diagonal over the sum of its line.")


# Beside the notebook's journal: a failure that a later run made good, and one that it did not.
MORE = (
    ["f", "g", "h", "i"],
    [
        {"settings": {"model": "toy"}},
        {"key": "f", "outcome": "api_error"},
        {"sent": "f"},
        {"key": "f", "outcome": "ok", "content": "..."},
        {"key": "g", "outcome": "refusal"},
        {"key": "h", "outcome": "content_filter"},
        {"key": "i", "outcome": "no_choices"},
    ],
)


def keys_without_an_answer(lines: list[str], plan: list[str]) -> set[str]:
    """What the library's journal would ask again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "toy.jsonl"
        whole, torn = lines[:-1], lines[-1]
        path.write_text("".join(f"{line}\n" for line in whole) + torn, encoding="utf-8")
        with Journal(path, durable=False) as journal:
            return set(plan) - set(journal.answers)


@exercise("02.3", expects="a function of a journal's lines and a plan's keys that returns a set of keys")
def what_a_rerun_asks(answer: Callable, lines: list[str], plan: list[str]) -> Verdict:
    """`answer(lines, plan)` gives the keys of the plan that the next run asks again; the last line is torn."""
    more = [json.dumps(record) for record in MORE[1]] + ['{"key": "i"']
    for given, keys in ((lines, plan), (more, MORE[0])):
        said, truth = set(answer(list(given), list(keys))), keys_without_an_answer(given, keys)
        if said - set(keys):
            return wrong("It names keys that are not in the plan.")
        if said - truth:
            return wrong(f"It would pay twice: {min(said - truth)} has an answer that is final ({', '.join(FINAL)}).")
        if truth - said:
            return wrong(
                f"It would never ask {min(truth - said)}, which has no final answer: was it sent at all, or did it fail?"
            )
    return right("Failed, lost and unsent requests are asked again, and nothing that was paid for.")
