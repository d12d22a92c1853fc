"""A check answers whatever it is given: with one line, a reason, and never an exception."""

import pytest

from emosafe_lib.study.errors import StageError
from emosafe_lib.teaching import check, exercises
from emosafe_lib.teaching.exercises import exercise, right, wrong


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(exercises, "CHECKS", {})
    monkeypatch.setattr(exercises, "ROOMS", {})

    @exercise("99.1", expects="twice what is given")
    def twice_the_input(answer, given=3):
        return right("It doubles.") if answer == 2 * given else wrong("It is\nnot twice the input; see the cell above.")

    @exercise("99.2", expects="a function of a number")
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


@pytest.fixture
def declared(registered):
    @exercise("99.3", expects="one number, such as 0.5")
    def half(answer):
        return right("It is.") if answer == 0.5 else wrong("It is not a half.")

    @exercise("99.4", expects="a pair of a name and a number")
    def name_and_half(answer):
        _name, number = answer
        return right("It is.") if abs(number - 0.5) < 0.01 else wrong("It is not a half.")

    @exercise("99.5", expects="a function of a dict that returns a dict")
    def of_a_dict(answer):
        return right("It is.") if answer({"a": 1})["a"] else wrong("It is not.")


@pytest.mark.parametrize(
    ("number", "answer", "said"),
    [
        ("99.3", 0.4, "It is not a half."),
        ("99.3", "0.5", "Expected is one number, such as 0.5, and a number in quotes is text: leave the quotes out."),
        ("99.3", "50 %", "leave the quotes out"),
        ("99.3", "half", "Expected is one number, such as 0.5, and this is text."),
        ("99.3", [0.5, 0.5], "and this is a list of 2."),
        ("99.4", ("a", "0,5"), "leave the quotes out"),
        (
            "99.4",
            0.5,
            "Expected is a pair of a name and a number, and the check could not read this one, which is a number.",
        ),
        ("99.5", {"a": 1}, "Expected is a function of a dict that returns a dict, and this is a dict of 1."),
        ("99.5", lambda given: 3, "Expected is a function of a dict that returns a dict."),
    ],
)
def test_an_answer_of_another_kind_is_told_which_is_expected(declared, number, answer, said):
    assert check(number, answer).says == "not yet" and said in repr(check(number, answer))


def test_every_exercise_of_the_course_says_what_it_expects(monkeypatch):
    monkeypatch.undo()
    for number in (f"{room}.{place}" for room in exercises.ROOMS for place in (1, 2, 3)):
        _check, expects = exercises.check_of(number)
        assert expects


def test_a_number_that_nobody_knows_is_a_slip_of_the_notebook():
    with pytest.raises(StageError, match="'99.9': is not known; take the number"):
        check("99.9", 1)
