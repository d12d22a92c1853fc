"""One verdict for every exercise: not answered yet, not yet, or right, always one line and always a reason.

A notebook with open exercises still has to run from top to bottom, so a check ends in a verdict whatever it is given.
Checks are found by their number when they are asked for: what a check is made of stays out of a stage's digest, and
mending one makes no study run again.
"""

import dis
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import CodeType

from emosafe_lib.study.errors import StageError
from emosafe_lib.study.optional import reason

# The module beside this one that holds the checks of a notebook, by the notebook's number.
ROOMS = {
    "00": "first_look",
    "01": "merge",
    "02": "augmentation",
    "03": "prompting",
    "04": "finetuning",
    "05": "analysis",
    "06": "ondevice",
    "A1": "ladder",
}
CHECKS: dict[str, tuple[Callable[..., "Verdict"], str]] = {}  # with what each expects


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer: truthy only where it is right, and shown as one line.

    Attributes
    ----------
    says : "right", "not yet" or "not answered yet"
    why : what makes the answer right, or what is wrong with it and where to look
    number : the exercise's number, such as "04.1"; `check` fills it in
    """

    says: str
    why: str = ""
    number: str = ""

    def __bool__(self) -> bool:
        return self.says == "right"

    def __repr__(self) -> str:
        return " ".join(f"{self.number}: {self.says}{'. ' if self.why else ''}{self.why}".split())


def right(why: str) -> Verdict:
    """The verdict on a right answer; `why` says what makes it right."""
    return Verdict("right", why)


def wrong(why: str) -> Verdict:
    """The verdict on a wrong answer; `why` says what is wrong with it and where to look."""
    return Verdict("not yet", why)


def exercise(number: str, expects: str) -> Callable:
    """Register the function below as the check of an exercise.

    The function takes the answer, and whatever else the notebook's check cell hands over, and returns a `Verdict`.
    `expects` says what kind of answer it can use, such as "one number" or "a function of two tables"; an answer that it
    cannot use is told so.
    """

    def register(function: Callable[..., Verdict]) -> Callable[..., Verdict]:
        CHECKS[number] = function, expects
        return function

    return register


def check(number: str, answer: object, *given, **named) -> Verdict:
    """The verdict on an answer to an exercise.

    Parameters
    ----------
    number : the exercise, such as "04.1"
    answer : the student's; None, `...`, a function whose body is `...`, or a collection of nothing else count as none
    given, named : what else the check asks for

    Raises
    ------
    StageError : there is no such exercise; a wrong or missing answer never raises
    """
    function, expects = check_of(number)
    if unanswered(answer):
        return Verdict("not answered yet", number=number)
    if other := another_kind(answer, expects):
        return replace(wrong(other), number=number)
    try:
        verdict = function(answer, *given, **named)
    except Exception as error:
        verdict = wrong(unusable(error, answer, expects))
    return replace(verdict, number=number)


def check_of(number: str) -> tuple[Callable[..., Verdict], str]:
    """The check of an exercise, and what it expects.

    Raises
    ------
    StageError : there is none
    """
    room = ROOMS.get(number.partition(".")[0])
    if room:
        importlib.import_module(f"emosafe_lib.teaching.{room}")
    if number not in CHECKS:
        raise StageError(f"exercise {number!r}", "is not known", "take the number from the exercise's own cell")
    return CHECKS[number]


def returns_none_at_once(code: CodeType) -> bool:
    """Whether a function's body is `...` or a docstring alone."""
    steps = list(dis.get_instructions(code))
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    return {step.opname for step in steps} <= idle and {s.argval for s in steps if "CONST" in s.opname} == {None}


def unanswered(answer: object) -> bool:
    """Whether an answer cell was left as it is."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return bool(answer) and all(map(unanswered, answer))
    code = getattr(answer, "__code__", None)
    return answer is None or answer is ... or (code is not None and returns_none_at_once(code))


def another_kind(answer: object, expects: str) -> str:
    """What to say of an answer that is plainly not of the kind that is expected; empty where nothing is."""
    parts = answer if isinstance(answer, list | tuple) else [answer]
    if "number" in expects and any(map(is_number_as_text, parts)):
        return f"Expected is {expects}, and a number in quotes is text: leave the quotes out."
    misses_number = expects.startswith("one number") and not hasattr(answer, "__float__")
    misses_function = expects.startswith("a function") and not callable(answer)
    return f"Expected is {expects}, and this is {kind_of(answer)}." if misses_number or misses_function else ""


def is_number_as_text(part: object) -> bool:
    """Whether something is a number that was written as text, with a point, a comma or a per cent sign."""
    try:
        return isinstance(part, str) and float(part.strip(" %").replace(",", ".")) is not None
    except ValueError:
        return False


def kind_of(answer: object) -> str:
    """What an answer is, in words."""
    if isinstance(answer, list | tuple | dict | set):
        return f"a {type(answer).__name__} of {len(answer)}"
    named = {str: "text", bool: "True or False", int: "a number", float: "a number"}
    return "a function" if callable(answer) else named.get(type(answer), f"of the type {type(answer).__name__}")


def unusable(error: Exception, answer: object, expects: str) -> str:
    """What to say of an answer that the check failed on, with what was expected."""
    if callable(answer):
        said = f"Calling this function, or reading what it returned, ended in {trouble(error, answer)}."
        return f"{said} Expected is {expects}."
    return f"Expected is {expects}, and the check could not read this one, which is {kind_of(answer)}."


def trouble(error: Exception, answer: object) -> str:
    """Why a check failed, in words that hold no message's text: the error's class, and where in the student's function."""
    said, file = reason(error, "class"), getattr(getattr(answer, "__code__", None), "co_filename", None)
    trace, line = error.__traceback__, None
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    return f"{said} in line {line} of its cell" if line else said
