"""What every reader of a table, a journal or a list refuses, however the file was made.

A lenient reader picks one of several meanings in silence: the last of two equal keys, the first of two equal columns, a
`NaN` that ties a hundred strangers into one group. Here such a file is refused by a reason that names places and never
holds a cell, because a cell may be a message. The readers (`sources.raw_tables`, `sources.own`, `ondevice.classify`,
`augment.journal`, `augment.tactics`) add where it was.
"""

import csv
import json
import math
from functools import partial
from typing import IO

MOST_LINE_CHARACTERS = 10_000_000  # of a line and of a cell
MOST_DIGITS = 20  # no id and no count has more; Python itself gives up at some thousands
DELIMITERS = ",;\t|"
SNIFFED_CHARACTERS = 2000  # the sniffer takes time in proportion to the square of what it is given


def json_value(text: str | bytes, most_digits: int = MOST_DIGITS) -> object:
    """One JSON document; `most_digits` is how many an integer in it may have.

    Raises
    ------
    ValueError : no JSON, or JSON with a name given twice, NaN or an infinity, a huge integer, or nesting without end;
        the message says which, without content
    """
    try:
        return json.loads(
            (text.decode("utf-8") if isinstance(text, bytes) else text).rstrip(),
            object_pairs_hook=unique_pairs,
            parse_constant=no_number,
            parse_int=partial(small_integer, most_digits=most_digits),
            parse_float=finite_number,
        )
    except json.JSONDecodeError as error:
        raise ValueError("no valid JSON" if error.lineno == 1 else f"no valid JSON at line {error.lineno}") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def unique_pairs(pairs: list[tuple]) -> dict:
    """A JSON object as a dict; ValueError if a name is given twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def no_number(name: str) -> None:
    """`NaN` and `Infinity` are not JSON."""
    raise ValueError(f"{name.lstrip('-')} is no JSON")


def small_integer(digits: str, most_digits: int) -> int:
    """An integer of so many digits at most."""
    if len(digits.lstrip("-")) > most_digits:
        raise ValueError(f"an integer of more than {most_digits} digits")
    return int(digits)


def finite_number(digits: str) -> float:
    """A number that has a value: `1e999` has none."""
    value = float(digits)
    return value if math.isfinite(value) else no_number("Infinity")


class LineTooLong(ValueError):
    """A line was longer than anybody may hold; the stream stands behind it."""


class Lines:
    """The lines of a text or binary stream, with the ends that they have there; `last` is the latest.

    Raises
    ------
    LineTooLong : instead of a line that is too long, which is never held; the next call goes on behind it
    """

    def __init__(self, stream: IO):
        self.stream, self.first, self.last, self.number = stream, "", "", 0

    def __iter__(self):
        return self

    def __next__(self):
        line = self.last = self.stream.readline(MOST_LINE_CHARACTERS + 1)
        self.number += 1
        self.first = self.first or line
        if not line:
            raise StopIteration
        if len(line) <= MOST_LINE_CHARACTERS:
            return line
        ends = ("\n", "\r") if isinstance(line, str) else b"\n"
        while line and not line.endswith(ends):
            line = self.stream.readline(MOST_LINE_CHARACTERS)
        raise LineTooLong(f"line {self.number}: more than {MOST_LINE_CHARACTERS} characters")

    @property
    def ends_otherwise(self) -> bool:
        """Whether a carriage return alone ends the latest line and not the first, or the first and not the latest.

        Such a mark stands inside a message, and a reader that ends a row there reads it by half.
        """
        return self.last.endswith(("\r", "\n")) and self.last.endswith("\r") != self.first.endswith("\r")


def fault_of_bytes(start: bytes) -> str:
    """Why a file that begins with some bytes cannot be read as lines of UTF-8; "" where nothing speaks against it."""
    if not start:
        return "is empty"
    wide = start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in (start[:1], start[1:2])
    return "is UTF-16 or UTF-32, not UTF-8" if wide else ""


def delimiter_of(header: str) -> str:
    """What separates the names of a header line: comma, semicolon, tab or bar."""
    try:
        return csv.Sniffer().sniff(header[:SNIFFED_CHARACTERS], DELIMITERS).delimiter
    except csv.Error:  # one name alone
        return ","


def fault_of_names(names: list[str]) -> str:
    """Why a header cannot tell its columns apart; "" where it can. The faulty names are not shown."""
    first: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if first.setdefault(name, number) != number:
            return f"columns {first[name]} and {number} have the same name"
    return ""
