"""Your own labelled file as a source, by a parameter file alone.

The format, CSV with a header or one JSON object a line:

| column | meaning |
|---|---|
| `text` | the message |
| `safety` | safe, borderline or unsafe |
| a category's key, such as `violence_hate` | 1, yes, true: touched; 0, no, false: not touched; blank, no column: not asked |
| `id` | optional, unique; made from the content where absent |
| `group` | optional, what must stay in one split: a user, a dialogue, a template |
| `emotion` | optional |

In `params/study/<name>.yaml`, under `data`:

    sources: [emosafe_sample, my_notes]
    own_sources:
      - {name: my_notes, file: data/my_notes.csv, licence: CC BY 4.0}

With `role: external` the file is registered for evaluation only: leave it out of `sources`, since the merge refuses to
train on it. Notebook 01 cleans it, takes out what the study has read elsewhere, scores it with the words' baseline, and
writes it to `external.parquet`.
"""

from pathlib import Path

from emosafe_lib.data.sources.base import File, Label, Record, Source
from emosafe_lib.data.sources.raw_tables import label_of, read_jsonl, read_table
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.parameters import OwnSourceParams
from emosafe_lib.study.paths import project_root
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

COLUMNS = ("text", "safety", "id", "group", "emotion", *CATEGORIES)
FLAGS = (
    dict.fromkeys(("1", "1.0", "yes", "true"), True) | dict.fromkeys(("0", "0.0", "no", "false"), False) | {"": None}
)


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


def records(path: Path):
    """The file's rows; an unknown column, level or flag is an error that names its row."""
    rows = read_jsonl(path) if path.suffix in (".jsonl", ".ndjson") else read_table(path).to_dict("records")
    for number, row in enumerate(rows, start=1):
        check_row(row, number, path)
        flags = [(key, flag(row.get(key, ""), key, number, path)) for key in CATEGORIES]
        name = "; ".join([row["safety"], *(f"{key}={int(on)}" for key, on in flags if on is not None)])
        given = (row.get(key) for key in ("id", "group", "emotion"))
        identity, link, emotion = ("" if value is None else str(value) for value in given)  # 0 is a name too
        yield Record(identity, row["text"], name, link=link, emotion=emotion or None)


def check_row(row: dict, number: int, path: Path) -> None:
    """SourceError where a row lacks `text` or `safety`, has a column that nobody knows, or a level that does not exist."""
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise SourceError(label_of(path), f"unknown column {unknown[0][:40]!r}", f"known: {', '.join(COLUMNS)}")
    if not isinstance(row.get("text"), str) or row.get("safety") not in SAFETY_LEVELS:
        what = f"row {number}: needs text, and safety out of {', '.join(SAFETY_LEVELS)}"
        raise SourceError(label_of(path), what, "correct the row")


def flag(value: object, key: str, number: int, path: Path) -> bool | None:
    """True, False, or None for not asked."""
    plain = str(value if value is not None else "").strip().lower()
    if plain not in FLAGS:
        raise SourceError(label_of(path), f"row {number}: {key} must be 1, 0, yes, no or blank", "correct the row")
    return FLAGS[plain]
