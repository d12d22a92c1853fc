"""A check answers whatever it is given: with one line, a reason, and never an exception."""

import pytest

from emosafe_lib.study.errors import StageError
from emosafe_lib.teaching import check, exercises
from emosafe_lib.teaching.exercises import exercise, right, wrong


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(exercises, "CHECKS", {})
    monkeypatch.setattr(exercises, "ROOMS", {})

    @exercise("99.1")
    def twice_the_input(answer, given=3):
        return right("It doubles.") if answer == 2 * given else wrong("It is\nnot twice the input; see the cell above.")

    @exercise("99.2")
    def a_function_that_doubles(answer):
        return right("It doubles.") if answer(3) == 6 else wrong("It does not double.")


def test_a_right_answer_alone_is_truthy():
    assert check("99.1", 6) and not check("99.1", 5) and not check("99.1", None)


def test_each_verdict_is_one_line_with_its_number():
    assert repr(check("99.1", 6)) == "99.1: right. It doubles."
    assert repr(check("99.1", 5)) == "99.1: not yet. It is not twice the input; see the cell above."
    assert repr(check("99.1", None)) == "99.1: not answered yet"


def test_a_check_gets_what_the_notebook_hands_over():
    assert check("99.1", 10, 5) and check("99.1", 10, given=5)


def untouched(number): ...


def untouched_but_documented(number: int) -> int:
    """Twice a number."""


@pytest.mark.parametrize("blank", [None, ..., untouched, untouched_but_documented, (None, ...), {"a": None, "b": None}])
def test_an_answer_cell_left_as_it_is_counts_as_no_answer(blank):
    assert repr(check("99.2", blank)) == "99.2: not answered yet"


@pytest.mark.parametrize("given", [0, False, "", [], {}, lambda number: 0, (None, 2)])
def test_an_answer_that_is_merely_empty_or_wrong_counts_as_one(given):
    assert check("99.1", given).says == "not yet"


def test_an_answer_that_fails_is_not_yet_right_and_the_line_says_where_without_quoting_it():
    def halves(number):
        raise ValueError("a private message")

    shown = repr(check("99.2", halves))
    assert shown.startswith("99.2: not yet. ") and "private" not in shown
    assert f"ValueError in line {halves.__code__.co_firstlineno + 1} " in shown
    assert "TypeError" in repr(check("99.2", "no function"))


def test_a_number_that_nobody_knows_is_a_slip_of_the_notebook():
    with pytest.raises(StageError, match="'99.9': is not known; take the number"):
        check("99.9", 1)
