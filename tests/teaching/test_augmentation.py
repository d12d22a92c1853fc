"""The exercises of notebook 02: the bill in cents, a judge's share of losses, and what a killed run asks again."""

import pandas as pd
import pytest

from emosafe_lib.augment import acceptance, reinterpretation
from emosafe_lib.augment.journal import FINAL
from emosafe_lib.data import merge
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.taxonomy import SAFETY_LEVELS
from emosafe_lib.teaching import check

STUDY = load_study("sample")
PARAMS = STUDY.augmentation
PLAN = ["a", "b", "c", "d", "e"]
LINES = [
    '{"settings": {"model": "toy"}}',
    '{"sent": "a"}',
    '{"key": "a", "outcome": "ok", "content": "..."}',
    '{"sent": "b"}',
    '{"key": "b", "outcome": "api_error", "note": "timeout"}',
    '{"sent": "c"}',
    '{"sent": "d"}',
    '{"key": "d", "outcome": "length"}',
    '{"key": "c", "outco',
]
AGREEMENT = pd.DataFrame([[4, 6, 0], [10, 60, 10], [0, 1, 9]], index=SAFETY_LEVELS, columns=SAFETY_LEVELS)


@pytest.fixture(scope="module")
def rows():
    return merge.merge(STUDY.data).rows


def test_every_exercise_can_be_left_open(rows):
    def open_still(lines, plan): ...

    given = (("02.1", None, (rows, PARAMS)), ("02.2", None, (AGREEMENT,)), ("02.3", open_still, (LINES, PLAN)))
    for number, answer, more in given:
        assert "not answered yet" in repr(check(number, answer, *more))


def test_02_1_the_bill_is_rounded_up_to_cents(rows):
    paid = PARAMS.model_copy(update={"provider": "openai", "model": "gpt-4o-mini"})
    cents = int(reinterpretation.estimate(rows, paid)["cost_usd"] * 100) + 1
    assert check("02.1", cents / 100, rows, PARAMS)
    assert "would not start" in repr(check("02.1", (cents - 1) / 100, rows, PARAMS))
    assert "smaller cap" in repr(check("02.1", cents, rows, PARAMS)), "cents are not dollars"


def test_02_2_shares_decide_and_not_counts():
    assert check("02.2", "safe", AGREEMENT)
    assert "Divide" in repr(check("02.2", "borderline", AGREEMENT))
    assert "larger share" in repr(check("02.2", "unsafe", AGREEMENT))
    assert "one of" in repr(check("02.2", "harmless", AGREEMENT))


def test_02_2_nothing_accepted_is_said():
    empty, _ = acceptance.agreement([], [])
    assert "accepted nothing" in repr(check("02.2", "safe", empty))


def by(final, lost):
    """A function that takes some outcomes for final, and asks lost requests again or not."""

    def asked_again(lines, plan):
        done = {key for key in plan for mark in final if any(f'"{key}", "outcome": "{mark}"' in line for line in lines)}
        sent = {key for key in plan if any(f'"sent": "{key}"' in line for line in lines)}
        return set(plan) - done if lost else set(plan) - done - sent

    return asked_again


def test_02_3_failed_lost_and_unsent_are_asked_again():
    assert check("02.3", by(FINAL, lost=True), LINES, PLAN)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (by(["ok"], lost=True), "pay twice: d"),
        (by([*FINAL, "api_error"], lost=True), "never ask b"),
        (by(FINAL, lost=False), "never ask"),
        (by(["ok", "length"], lost=True), "pay twice: g"),
        (lambda lines, plan: [*plan, "z"], "not in the plan"),
        (lambda lines, plan: [line["key"] for line in lines], "returns a set of keys"),
    ],
)
def test_02_3_a_wrong_function_is_told_which_key(answer, why):
    verdict = check("02.3", answer, LINES, PLAN)
    assert not verdict and why in repr(verdict)
