"""Strict readers of raw tables: text stays text, and a malformed file is refused with its row, line or byte.

pandas' defaults would turn the text `None` into a missing value, the id `007` into a number, and an unclosed quote into
one enormous cell; none of that may happen to data that somebody labelled by hand.
"""

import csv
import io
import json
import stat
import zipfile
from pathlib import Path

import pandas as pd

from emosafe_lib.study.errors import SourceError

MAX_MEMBER_BYTES = 200_000_000
MAX_RATIO = 200  # unpacked to packed; office files reach about 20


def label_of(path: Path) -> str:
    """How errors name a file: its folder and name, never the whole path of somebody's machine."""
    return f"{Path(path).parent.name}/{Path(path).name}"


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """The file's text; a byte that the declared encoding does not know is an error that gives its offset.

    `cp1252-lenient` is for files that declare themselves Windows-1252 but hold its five undefined bytes; those become
    the replacement character.
    """
    raw = Path(path).read_bytes()
    if encoding == "cp1252-lenient":
        return raw.decode("cp1252", errors="replace")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        offset = error.start
        raise SourceError(
            label_of(path),
            f"not {encoding} at byte {offset}",
            "declare its encoding in the reader, or save it as UTF-8",
        ) from None


def read_table(path: Path, delimiter: str = ",", encoding: str = "utf-8-sig", header: list[str] | None = None):
    """A delimited file as a DataFrame of strings; nothing is read as missing or as a number.

    `header` names the columns of a file without a header line. A header name that appears twice keeps its first column.

    Raises
    ------
    SourceError : a row with more or fewer cells than the header, or a quote that never closes, by row number
    """
    text = read_text(path, encoding)
    quoting = csv.QUOTE_NONE if header and delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(10_000_000)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    columns = header or []
    try:
        for number, cells in enumerate(reader):
            if not columns:
                columns = cells
            elif cells and len(cells) != len(columns):
                what = f"row {number} has {len(cells)} cells, the header {len(columns)}"
                raise SourceError(label_of(path), what, "quote the cell or remove the extra column")
            elif cells:
                rows.append(cells)
    except csv.Error as error:
        where = f"row {len(rows) + 1}: {error}"
        raise SourceError(label_of(path), where, "close the quote or fetch the file again") from None
    table = pd.DataFrame(rows, columns=columns, dtype=str)
    return table.loc[:, ~table.columns.duplicated()]


def read_json(path: Path):
    """One JSON document; a syntax error is reported by line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise SourceError(label_of(path), f"line {error.lineno}: not JSON", "fetch the file again") from None


def read_jsonl(path: Path) -> list[dict]:
    """One JSON object a line; a bad line is reported by its number, and no partial table is returned."""
    objects = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise SourceError(label_of(path), f"line {number}: not a JSON object", "write one object a line")
        objects.append(value)
    return objects


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
