"""What a source is: where its raw files come from, what their labels mean here, and how much those labels are worth.

A source's mapping stands in one table (`labels`), so that a reviewer can check it without reading any code. The reader
beside it only turns raw records into `Record`s; this module turns those into rows, and leaves out, by name and counted,
every upstream label that maps to None.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pandas as pd

from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.paths import ASSETS
from emosafe_lib.study.taxonomy import CATEGORIES

RAW_COLUMNS = tuple(
    "id text source source_label emotion safety categories category_known link origin quality register".split()
)
HASH_PREFIX = 16  # shortest accepted beginning of a SHA-256, where upstream's full hash was never recorded


@dataclass(frozen=True)
class File:
    """One raw file: its name below the source's folder, its path upstream, and the SHA-256 values that are accepted.

    Several hashes are accepted where a privacy-edited copy exists; one that is shorter than 64 digits is a prefix.
    """

    name: str
    path: str
    sha256: tuple[str, ...]
    repository: str = ""
    commit: str = ""


@dataclass(frozen=True)
class Label:
    """What one upstream label means here.

    Parameters
    ----------
    safety : one of `SAFETY_LEVELS`
    categories : the risk categories it names
    quality : "direct" where people judged what we ask, "weak" where we infer it
    known : the categories that this label decides, positive or negative; the source's `known` where None
    register : the kind of text, where it differs from the source's
    """

    safety: str
    categories: tuple[str, ...] = ()
    quality: str = "direct"
    known: tuple[str, ...] | None = None
    register: str | None = None


def direct(safety: str, *categories: str, **options) -> Label:
    """A label that people gave to just this question."""
    return Label(safety, categories, "direct", **options)


def weak(safety: str, *categories: str, **options) -> Label:
    """A label that we infer from something else that people annotated."""
    return Label(safety, categories, "weak", **options)


@dataclass(frozen=True)
class Record:
    """One upstream row as its reader hands it over.

    `label` is a key of the source's `labels`; `extra` adds categories that people marked beside it; `inferred` adds those
    that a documented keyword rule found, which makes the row weak; `unsure` names categories that the label would deny
    but the words leave open, so that they count as unknown. `link` names what must stay in one split (user, dialogue,
    question, template); `id` may be empty, then it is made from the content.
    """

    id: str
    text: str
    label: str
    link: str = ""
    emotion: str | None = None
    extra: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A registered source; see the field comments."""

    name: str
    title: str
    repository: str  # owner/name on GitHub, or "" for what this package carries itself
    commit: str
    licence: str
    citation: str
    files: tuple[File, ...]
    labels: dict[str, Label | None] = field(default_factory=dict)  # None: left out, by name
    known: tuple[str, ...] = ()  # categories that this source's labels could have given
    records: Callable[[dict[str, Path]], Iterable[Record]] | None = None
    role: str = "train"  # train, external (evaluation only) or pretrain (unlabelled text)
    register: str = "comment"
    mental_health: bool = False  # holds first-person mental-health text
    restricted: str = ""  # how the licence restricts use, "" where it does not
    origin: str = "human"
    copy_only: str = ""  # why it cannot be downloaded here, "" where it can
    base: str = "https://raw.githubusercontent.com"  # where `repository` is served from
    folder: Path | None = None  # overrides the data folder, for what the package carries itself

    def url(self, file: File) -> str:
        """The pinned address of a raw file."""
        repository, commit = file.repository or self.repository, file.commit or self.commit
        return f"{self.base}/{repository}/{commit}/{file.path.replace(' ', '%20')}"


@cache
def provenance() -> dict[str, dict]:
    """Title, repository, commit, licence, citation and file hashes of every public source: `assets/sources.json`."""
    return json.loads((ASSETS / "sources.json").read_text(encoding="utf-8"))


def public(name: str, **options) -> Source:
    """A public source: its provenance out of `assets/sources.json`, its meaning out of `options`."""
    facts = dict(provenance()[name])
    files = [File(file, **{**entry, "sha256": tuple(entry["sha256"])}) for file, entry in facts.pop("files").items()]
    return Source(name=name, files=tuple(files), **facts, **options)


def to_rows(source: Source, records: Iterable[Record]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Map records to rows (columns `RAW_COLUMNS`), and count what was left out by name.

    Raises
    ------
    SourceError : label values that the mapping does not know (all of them listed), or an id given twice
    """
    records = list(records)
    unknown = Counter(record.label for record in records if record.label not in source.labels)
    if unknown:
        listed = ", ".join(f"{label[:40]!r} ({count} rows)" for label, count in sorted(unknown.items())[:12])
        raise SourceError(source.name, f"label values outside the mapping: {listed}", "add them to its `labels` table")
    kept = [record for record in records if source.labels[record.label] is not None]
    left_out = Counter(record.label for record in records if source.labels[record.label] is None)
    table = pd.DataFrame([to_row(source, record) for record in kept], columns=list(RAW_COLUMNS), dtype=object)
    return with_ids(table, source.name), dict(sorted(left_out.items()))


def to_row(source: Source, record: Record) -> tuple:
    """One row in the order of `RAW_COLUMNS`."""
    label = source.labels[record.label]
    on = {*label.categories, *record.extra, *record.inferred}
    known = on | (set(source.known if label.known is None else label.known) - set(record.unsure))
    return (
        record.id,
        record.text,
        source.name,
        record.label,
        record.emotion,
        label.safety,
        tuple(name in on for name in CATEGORIES),
        tuple(name in known for name in CATEGORIES),
        f"{source.name}:{record.link}" if record.link else "",
        source.origin,
        "weak" if record.inferred else label.quality,
        label.register or source.register,
    )


def with_ids(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Prefix ids with the source's name, and make an id out of the content where upstream gives none.

    A made id does not depend on the row's position, so a reordered file keeps its ids; identical rows are numbered.
    """
    given = table["id"] != ""
    twice = table.loc[given, "id"][table.loc[given, "id"].duplicated()]
    if len(twice):
        raise SourceError(name, f"id {twice.iloc[0][:40]!r} appears twice", "ids must be unique within a source")
    content = (table["text"] + "\x00" + table["source_label"] + "\x00" + table["link"]).map(content_id)
    nth = content.groupby(content).cumcount() if len(content) else content
    made = content + nth.map(lambda number: f"-{number + 1}" if number else "")
    return table.assign(id=name + ":" + table["id"].where(given, made))


def content_id(text: str) -> str:
    """Twelve hexadecimal digits that depend on the content alone."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def check_file(source: Source, file: File, path: Path) -> None:
    """Refuse a file whose SHA-256 is not accepted, and a Git-LFS pointer in the place of a file; both hashes are shown."""
    if not file.sha256:
        return
    with open(path, "rb") as stream:
        start = stream.read(64)
        stream.seek(0)
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if any(len(known) >= HASH_PREFIX and found.startswith(known) for known in file.sha256):
        return
    what = "is a Git-LFS pointer, not the file" if start.startswith(b"version https://git-lfs") else "has changed"
    expected = " or ".join(file.sha256)
    raise SourceError(
        f"{source.name}/{file.name}", f"{what}: SHA-256 {found}, expected {expected}", "remove it and fetch it again"
    )
