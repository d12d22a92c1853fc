"""What this package carries itself: the sample, and harmless requests in the form of alarming prompts.

Both were written for the package, are marked synthetic everywhere, and need no download.
"""

from emosafe_lib.data.sources.base import File, Record, Source, direct
from emosafe_lib.data.sources.raw_tables import read_jsonl
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.paths import ASSETS
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS


def records_of(name: str):
    """A reader for one embedded JSONL file; a contrast pair stays together."""

    def records(files):
        for number, item in enumerate(read_jsonl(files[name]), start=1):
            unknown = set(item["categories"]) - set(CATEGORIES)
            if unknown:
                raise SourceError(name, f"line {number}: unknown category {min(unknown)[:40]!r}", "see taxonomy.py")
            link, emotion = item.get("pair") or "", item.get("emotion") or None
            yield Record(
                item["id"],
                item["text"],
                f"{item['safety']}, {item['register']}",
                link=link,
                emotion=emotion,
                extra=tuple(item["categories"]),
            )

    return records


REGISTERS = (
    "first-person",
    "third-person",
    "question",
    "advice-reply",
    "figurative",
    "imperative",
    "prompt",
    "comment",
)


def embedded(name: str, title: str, file: str, as_register: str | None = None, **options) -> Source:
    """A source out of `assets/sample/`; levels are the file's own, and so are registers unless one is named for all."""
    kinds = {kind: as_register or kind for kind in REGISTERS}
    labels = {f"{level}, {kind}": direct(level, register=kinds[kind]) for level in SAFETY_LEVELS for kind in kinds}
    return Source(
        name,
        title,
        repository="",
        commit="",
        licence="CC0-1.0",
        citation="written for this package",
        files=(File(file, file, ()),),
        labels=labels,
        records=records_of(file),
        known=CATEGORIES,
        origin="synthetic",
        folder=ASSETS / "sample",
        **options,
    )


SOURCES = [
    embedded("emosafe_sample", "Embedded sample", "sample.jsonl", register="first-person", mental_health=True),
    embedded("emosafe_contrast", "Harmless requests in an alarming form", "contrast.jsonl", as_register="prompt"),
]
