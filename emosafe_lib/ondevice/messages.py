"""Messages as people hand them over: a CSV or JSONL file, standard input, or an argument.

A file that somebody else made is full of surprises, and none may cost more than its own row: half a message could mean
the opposite of the whole, so a row that cannot be read for certain is unreadable by itself, and only where nobody can tell
where rows begin is the file refused. Rows are read as they are needed; no error quotes one.
"""

import csv
import sys
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import IO

from emosafe_lib.data.cleaning import Unreadable, prepared
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.strict_reading import (
    MOST_LINE_CHARACTERS,
    Lines,
    LineTooLong,
    delimiter_of,
    fault_of_bytes,
    fault_of_names,
    json_value,
)

MOST_CHARACTERS = 100_000
BLANK = Unreadable("a blank line of a file")  # counts as a row and gets no result


def readable(text: object) -> str | Unreadable:
    """A message in the form in which the training rows were read, or why it cannot be classified."""
    if isinstance(text, Unreadable):
        return text
    if not isinstance(text, str):
        return Unreadable(f"not a text but {type(text).__name__}")
    if len(text) > MOST_CHARACTERS:
        return Unreadable(f"more than {MOST_CHARACTERS} characters")
    return prepared(text, MOST_CHARACTERS)


def texts_of(path: str, column: str) -> Iterator:
    """The texts of a JSONL or CSV file, or of standard input (`-`, one a line), read as they are needed.

    Bytes that are not UTF-8 become lone surrogates, for which `readable` refuses their row alone. `BLANK` stands for a
    blank line of a file.

    Raises
    ------
    ModelError : the file is absent, of another kind or without messages, or a CSV file lacks the column or is malformed
    """
    if path == "-":
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
        yield from (line.rstrip("\n") if isinstance(line, str) else line for line in held_lines(sys.stdin))
        return
    reader = READERS.get(Path(path).suffix.lower())
    if reader is None or not Path(path).is_file():
        what = "is not a file" if reader else "is neither CSV nor JSONL"
        raise ModelError(path, what, "name a .jsonl or .csv file, or - for standard input")
    with open(path, "rb") as stream:
        fault = fault_of_bytes(stream.read(4096))
    if fault:
        raise ModelError(path, fault, "save messages as UTF-8, with the name of their column in the first line")
    held = False
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        for text in reader(stream, path, column):
            held = held or text is not BLANK
            yield text
    if not held:
        raise ModelError(path, "holds no message", "put messages below the header, one a row")


def held_lines(stream: IO[str]) -> Iterator[str | Unreadable]:
    """The lines of a stream; one that is too long to be held is a value of its own."""
    lines = Lines(stream)
    while True:
        try:
            yield from lines
            return
        except LineTooLong:
            yield Unreadable(f"more than {MOST_LINE_CHARACTERS} characters")


class QuotedLines(Lines):
    """Lines of which `quotes` counts the quotes until it is set back."""

    quotes = 0

    def __next__(self) -> str:
        line = super().__next__()
        self.quotes += line.count('"')
        return line


def csv_texts(stream, path: str, column: str) -> Iterator:
    """The column of a CSV file, row by row.

    A row with a stray quote, or with an unquoted comma in a cell, is unreadable by itself: half a message could mean the
    opposite of the whole. Where a quote never closes, or a cell has no end in sight, nobody can tell where rows begin.
    The same holds where a row with a stray quote has an odd number of quotes, or where what follows it is no whole row:
    its message may go on in the next line.

    Raises
    ------
    ModelError : the column is absent or two have one name, or nobody can tell where a row ends; by the row's number
    """
    csv.field_size_limit(MOST_LINE_CHARACTERS)
    lines, remedy = QuotedLines(stream), "close the quote, or double it inside a cell"
    stray = False
    try:
        first = next(lines, "")
        reader = csv.reader(chain([first], lines), delimiter=delimiter_of(first), strict=True)
        names = next(filter(None, reader), [])
    except (csv.Error, LineTooLong) as error:
        raise ModelError(path, f"header: {error}", remedy) from None
    if column not in names:
        raise ModelError(path, f"has no column {column!r}", "name it with --column")
    if fault := fault_of_names(names):
        raise ModelError(path, f"header: {fault}", "rename or remove one of them")
    for number in count(1):
        lines.quotes, broken = 0, False
        try:
            cells = next(reader, None)
        except (csv.Error, LineTooLong) as error:
            if "expected after" not in str(error):
                raise ModelError(path, f"row {number}: {error}", remedy) from None
            cells, broken = [], True
        if cells is None:
            return
        torn = (lines.quotes % 2 and (broken or stray)) or (stray and 0 < len(cells) < len(names))
        if torn:
            raise ModelError(path, f"row {number}: a quote stands inside a cell, so its end is unknown", remedy)
        if lines.ends_otherwise:
            what = f"row {number}: a carriage return ends some lines and not others"
            raise ModelError(path, what, "save it with one kind of line end")
        if broken:
            yield Unreadable("a quote stands inside a cell")
        elif not cells:
            yield BLANK
        elif len(cells) > len(names):
            yield Unreadable("the row has too many cells: put a message with commas into quotes")
        else:
            at = names.index(column)
            yield cells[at] if at < len(cells) else Unreadable("the row is too short")
        stray = broken or (stray and not cells)


def jsonl_texts(stream, path: str, column: str) -> Iterator:
    """One key of every JSON line; a line that is broken or too long is a value of its own."""
    for line in held_lines(stream):
        if isinstance(line, str):
            line = message_of(line, column) if line.strip() else BLANK
        yield line


def message_of(line: str, column: str) -> object:
    """What one JSON line holds for a message, or why it cannot be read."""
    try:
        record = json_value(line)
    except ValueError as error:
        return Unreadable(str(error))
    return record.get(column, Unreadable("the key is missing")) if isinstance(record, dict) else record


READERS = {".csv": csv_texts, ".jsonl": jsonl_texts, ".ndjson": jsonl_texts}
