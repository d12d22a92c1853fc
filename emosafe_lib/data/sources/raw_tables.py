"""Strict readers of raw tables: text stays text, and a malformed file is refused with its row, line or byte.

pandas' defaults would turn the text `None` into a missing value, the id `007` into a number, and an unclosed quote into
one enormous cell; none of that may happen to data that somebody labelled by hand.
"""

import csv
import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pandas as pd

from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.strict_reading import (
    MOST_LINE_CHARACTERS,
    Lines,
    LineTooLong,
    delimiter_of,
    fault_of_bytes,
    fault_of_names,
    json_value,
)

MAX_MEMBER_BYTES = 200_000_000
MAX_RATIO = 200  # unpacked to packed; office files reach about 20


def label_of(path: Path) -> str:
    """How errors name a file: its folder and name, never the whole path of somebody's machine."""
    return f"{Path(path).parent.name}/{Path(path).name}"


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """The file's text; a byte that the declared encoding does not know is an error that gives its offset."""
    try:
        return Path(path).read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        offset = error.start
        raise SourceError(
            label_of(path),
            f"not {encoding} at byte {offset}",
            "declare its encoding in the reader, or save it as UTF-8",
        ) from None


@contextmanager
def lines_of(path: Path, encoding: str = "utf-8-sig") -> Iterator[Lines]:
    """The file's lines, read as they are needed.

    `cp1252-lenient` is for files that declare themselves Windows-1252 but hold its five undefined bytes; those become
    the replacement character.

    Raises
    ------
    SourceError : the file is empty or UTF-16; a line is too long to be held; or a byte is none of the encoding
    """
    name, errors = ("cp1252", "replace") if encoding == "cp1252-lenient" else (encoding, "strict")
    with open(path, "rb") as stream:
        fault = fault_of_bytes(stream.read(4096))
    if fault:
        raise SourceError(label_of(path), fault, "save it as UTF-8")
    with open(path, encoding=name, errors=errors, newline="") as stream:
        try:
            yield Lines(stream)
        except UnicodeDecodeError:
            read_text(path, encoding)  # says where
            raise
        except LineTooLong as error:
            raise SourceError(label_of(path), str(error), "look for a quote that never closes") from None


def table_rows(
    path: Path,
    delimiter: str = "",
    encoding: str = "utf-8-sig",
    header: list[str] | None = None,
    repeated_names: bool = False,
) -> Iterator[tuple[int, list[str]]]:
    """The names of a delimited file's columns with the number 0, then its rows with the numbers that they have there.

    Rows are counted behind the header; blank lines count, and are left out. `header` names the columns of a file without
    a header line. Without a `delimiter`, the header line tells it.

    Raises
    ------
    SourceError : what `lines_of` refuses; names given twice, unless `repeated_names`; a row with more or fewer cells than
        the header, or that ends otherwise; a quote that never closes; no row at all
    """

    def refusal(what: str, remedy: str) -> SourceError:
        return SourceError(label_of(path), what, remedy)

    quoting = csv.QUOTE_NONE if header and delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(MOST_LINE_CHARACTERS)
    names, number, held = header or [], 0, False
    with lines_of(path, encoding) as lines:
        first = next(lines, "")
        mark = delimiter or delimiter_of(first)
        sheet = csv.reader(chain([first], lines), delimiter=mark, quoting=quoting, strict=True)
        try:
            names = names or next(filter(None, sheet), [])
            if not repeated_names and (fault := fault_of_names(names)):
                raise refusal(f"header: {fault}", "rename or remove one of them")
            yield 0, names
            for number, cells in enumerate(sheet, start=1):
                if lines.ends_otherwise:
                    what = f"row {number}: a carriage return ends some lines and not others"
                    raise refusal(what, "save it with one kind of line end")
                if cells and len(cells) != len(names):
                    what = f"row {number} has {len(cells)} cells, the header {len(names)}"
                    raise refusal(what, "quote the cell or remove the extra column")
                if cells:
                    held = True
                    yield number, cells
        except csv.Error as error:
            where = f"row {number + 1}" if names else "header"
            raise refusal(f"{where}: {error}", "close the quote or fetch the file again") from None
    if not held:
        raise refusal("holds no row", "add rows below the header")


def read_table(path: Path, delimiter: str = ",", **options) -> pd.DataFrame:
    """A delimited file as a DataFrame of strings; nothing is read as missing or as a number. See `table_rows`.

    Of columns with one name, where they are allowed, the first is kept.
    """
    (_, names), *rows = table_rows(path, delimiter, **options)
    table = pd.DataFrame([cells for _, cells in rows], columns=names, dtype=str)
    return table.loc[:, ~table.columns.duplicated()]


def read_json(path: Path):
    """One JSON document; a syntax error is reported by line."""
    try:
        return json_value(read_text(path))
    except ValueError as error:
        raise SourceError(label_of(path), str(error), "fetch the file again") from None


def json_objects(path: Path) -> Iterator[tuple[int, dict]]:
    """One JSON object a line, each with the number of its line; blank lines count, and are left out.

    Raises
    ------
    SourceError : what `lines_of` refuses, a line that is something else, or no line at all
    """
    held = False
    with lines_of(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json_value(line)
            except ValueError as error:
                raise SourceError(label_of(path), f"line {number}: {error}", "write one object a line") from None
            if not isinstance(value, dict):
                raise SourceError(label_of(path), f"line {number}: not a JSON object", "write one object a line")
            held = True
            yield number, value
    if not held:
        raise SourceError(label_of(path), "holds no row", "write one object a line")


def read_jsonl(path: Path) -> list[dict]:
    """One JSON object a line; a bad line is reported by its number, and no partial table is returned."""
    return [value for _, value in json_objects(path)]


def read_member(path: Path, name: str) -> bytes:
    """One member of a ZIP archive, in memory; the archive is checked first and nothing is unpacked to disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, label_of(path))
            return archive.read(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(label_of(path), f"cannot read {name!r}: {error}", "fetch the archive again") from None


def check_archive(archive: zipfile.ZipFile, where: str) -> None:
    """Refuse members that climb out of a folder, are links, or unpack to far more than an office file would."""
    total = 0
    for member in archive.infolist():
        name, total = member.filename.replace("\\", "/"), total + member.file_size
        if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
            raise SourceError(where, f"member {name[:60]!r} leaves its folder", "do not use this archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise SourceError(where, f"member {name[:60]!r} is a link", "do not use this archive")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1) + 1_000_000 or total > MAX_MEMBER_BYTES:
            raise SourceError(where, f"member {name[:60]!r} unpacks to too much", "do not use this archive")


def read_workbook(data: bytes) -> dict[str, list[tuple]]:
    """All sheets of an .xlsx workbook as lists of rows of cell values; it is an archive, and checked as one."""
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_archive(archive, "workbook")
    except zipfile.BadZipFile as error:
        raise SourceError("workbook", str(error), "fetch the archive again") from None
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    return {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
