"""What this package carries itself: the sample of two sources, and prompts that alarm by their words or their form.

All were written for the package, are marked synthetic everywhere, and need no download. The lines of an invented
helpline are what the sample needs a second source for: they speak otherwise, were labelled otherwise, and hold what a
merge has to find (`assets/sample/README.md` says what was planted).
"""

from emosafe_lib.data.sources.base import File, Record, Source, direct, weak
from emosafe_lib.data.sources.raw_tables import read_jsonl
from emosafe_lib.study.paths import ASSETS
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS


def records_of(name: str):
    """A reader for one embedded JSONL file; a contrast pair stays together."""

    def records(files):
        for item in read_jsonl(files[name]):
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


REGISTERS = tuple("first-person third-person question advice-reply figurative imperative prompt comment".split())


def embedded(name: str, title: str, file: str, labels: dict, **options) -> Source:
    """A source out of `assets/sample/`; `labels` are what its labels mean, `options` those of a `Source`."""
    own = {"licence": "CC0-1.0", "citation": "written for this package", "origin": "synthetic"}
    return Source(
        name, title, "", "", files=(File(file, file, ()),), labels=labels, folder=ASSETS / "sample", **own | options
    )


def levels(as_register: str | None = None) -> dict:
    """Labels such as `unsafe, question`: the level is the file's own, and so is the register unless one is named for all."""
    kinds = {kind: as_register or kind for kind in REGISTERS}
    return {f"{level}, {kind}": direct(level, register=kinds[kind]) for level in SAFETY_LEVELS for kind in kinds}


# What the helpline's desk wrote behind each line. It hands over earlier than our definitions ask, and nobody judged its
# own replies. Its form has boxes for four of the six categories, so of the other two a row says nothing.
TRIAGE = {
    "closed": direct("safe"),
    "call back": direct("borderline"),
    "hand over now": direct("unsafe"),
    "counsellor": weak("safe", register="reply"),
    "test": None,
    "wrong number": None,
}
BOXES = {
    "violence": "violence_hate",
    "sexual": "sexual_content",
    "substances": "regulated_substances",
    "self-harm": "suicide_self_harm",
}


def helpline_lines(files):
    """The helpline's lines; a chat stays together."""
    for line in read_jsonl(files["helpline.jsonl"]):
        ticked = tuple(BOXES[box] for box in line["boxes"])
        yield Record(line["line"], line["said"], line["triage"], link=line["chat"], extra=ticked)


def prompts(name: str, title: str, file: str) -> Source:
    """A source of prompts to an assistant, whatever register each of them has."""
    return embedded(name, title, file, levels(as_register="prompt"), records=records_of(file), known=CATEGORIES)


TOLD = {"register": "first-person", "mental_health": True}
SOURCES = [
    embedded(
        "emosafe_sample",
        "Embedded sample",
        "sample.jsonl",
        levels(),
        records=records_of("sample.jsonl"),
        known=CATEGORIES,
        **TOLD,
    ),
    prompts("emosafe_contrast", "Harmless requests in an alarming form", "contrast.jsonl"),
    prompts("emosafe_contrast_pairs", "Harmless words in alarming clothes", "contrast_pairs.jsonl"),
    embedded(
        "emosafe_helpline_sample",
        "Lines of an invented helpline",
        "helpline.jsonl",
        TRIAGE,
        records=helpline_lines,
        known=tuple(BOXES.values()),
        **TOLD,
    ),
]
