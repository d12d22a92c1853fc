"""Your own labelled file, CSV or one JSON object a line, as a source: `params/README.md` says how, under "Your own data".

Rows are counted as they stand in the file, blank ones too, and an error tells the row and never what is in it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from emosafe_lib.data.cleaning import SURROGATE
from emosafe_lib.data.sources.base import File, Label, Record, Source
from emosafe_lib.data.sources.raw_tables import json_objects, label_of, table_rows
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.parameters import OwnSourceParams
from emosafe_lib.study.paths import project_root
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

COLUMNS = ("text", "safety", "id", "group", "emotion", *CATEGORIES)
FLAGS = (
    dict.fromkeys(("1", "1.0", "yes", "true"), True) | dict.fromkeys(("0", "0.0", "no", "false"), False) | {"": None}
)
NO_NAMES = ("nan", "inf", "-inf", "infinity", "-infinity")
# What people write for nothing would tie strangers into one group; as an emotion it may be one.
NO_LINKS = (*NO_NAMES, "na", "n/a", "<na>", "none", "null")


def source(params: OwnSourceParams) -> Source:
    """A registered source for one of your own files; its labels are read from the file itself."""
    path = project_root() / params.file
    return Source(
        name=params.name,
        title=params.name,
        repository="",
        commit="",
        licence=params.licence,
        citation="your own file",
        files=(File(path.name, params.file, ()),),
        labels=OwnLabels(params.quality),
        records=lambda files: records(files[path.name]),
        role=params.role,
        register=params.kind,
        mental_health=params.mental_health,
        folder=path.parent,
    )


class OwnLabels(dict):
    """Label names such as `unsafe; violence_hate=1; sexual_content=0`, decoded on demand."""

    def __init__(self, quality: str):
        super().__init__({level: Label(level, quality=quality) for level in SAFETY_LEVELS})
        self.mark = quality

    def __contains__(self, name: object) -> bool:
        return str(name).split("; ")[0] in SAFETY_LEVELS

    def __missing__(self, name: str) -> Label:
        level, *flags = name.split("; ")
        known = dict(flag.split("=") for flag in flags)
        return Label(level, tuple(key for key, on in known.items() if on == "1"), self.mark, tuple(known))


def numbered_rows(path: Path) -> Iterator[tuple[int, dict]]:
    """The file's rows as dicts, each with the number that it has there; SourceError where the header is none of ours."""
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, row in json_objects(path):
            check_columns(list(row), f"row {number}", path)
            yield number, row
    elif path.suffix.lower() == ".csv":
        (_, names), rows = next(table := table_rows(path)), table
        check_columns(names, "header", path)
        for number, cells in rows:
            yield number, dict(zip(names, cells, strict=True))
    else:
        raise SourceError(label_of(path), "is neither CSV nor JSONL by its name", "let it end in .csv or .jsonl")


def records(path: Path) -> Iterator[Record]:
    """The file's rows; an unknown column, level, flag or name is an error that tells its row and shows no cell."""
    rows: dict[str, int] = {}
    for number, row in numbered_rows(path):
        if not isinstance(row["text"], str) or row["safety"] not in SAFETY_LEVELS:
            what = f"row {number}: needs text, and safety out of {', '.join(SAFETY_LEVELS)}"
            raise SourceError(label_of(path), what, "correct the row")
        flags = [(key, flag(row.get(key, ""), key, number, path)) for key in CATEGORIES]
        label = "; ".join([row["safety"], *(f"{key}={int(on)}" for key, on in flags if on is not None)])
        identity, group, emotion = (named(row.get(key), key, number, path) for key in ("id", "group", "emotion"))
        if identity and rows.setdefault(identity, number) != number:
            raise SourceError(label_of(path), f"rows {rows[identity]} and {number} have the same id", "make ids unique")
        yield Record(identity, row["text"], label, link=group, emotion=emotion or None)


def check_columns(names: list[str], where: str, path: Path) -> None:
    """SourceError where `text` or `safety` is missing, or a name is unknown; a file without a header may hold a message
    in its place, so only a plain word beside known names is shown.
    """
    known = f"known: {', '.join(COLUMNS)}"
    if not {"text", "safety"} <= set(names):
        what = f"{where}: needs text, and safety out of {', '.join(SAFETY_LEVELS)}"
        raise SourceError(label_of(path), what, f"name the columns; {known}")
    for place, each in enumerate(names, start=1):
        if each not in COLUMNS:
            shown = repr(each) if re.fullmatch(r"[A-Za-z_]{1,40}", each) else f"number {place}"
            raise SourceError(label_of(path), f"{where}: unknown column {shown}", known)


def named(value: object, key: str, number: int, path: Path) -> str:
    """What names a row, a group or an emotion, as text; "" where nothing does. A zero is a name too, and NaN is none."""
    plain = "" if value is None else str(value).strip() if isinstance(value, str | int | float) else "nan"
    none = NO_NAMES if key == "emotion" else NO_LINKS
    if plain.lower() in none or isinstance(value, bool) or SURROGATE.search(plain):
        raise SourceError(label_of(path), f"row {number}: {key} must be text, a number or blank", "correct the row")
    return plain


def flag(value: object, key: str, number: int, path: Path) -> bool | None:
    """True, False, or None for not asked."""
    plain = str(value).strip().lower() if isinstance(value, str | int | float) else "" if value is None else "?"
    if plain not in FLAGS:
        raise SourceError(label_of(path), f"row {number}: {key} must be 1, 0, yes, no or blank", "correct the row")
    return FLAGS[plain]
