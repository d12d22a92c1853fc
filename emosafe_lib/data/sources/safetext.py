"""SafeText: everyday situations with safe and unsafe advice; the advice to one situation stays together."""

from emosafe_lib.data.sources.base import Record, direct, public
from emosafe_lib.data.sources.raw_tables import read_json


def records(files):
    """Situation and advice as one text."""
    for prompt, advice in read_json(files["SafeText.json"]).items():
        for label in ("safe", "unsafe"):
            for text in advice[label]:
                yield Record("", f"{prompt} {text}", label, link=prompt)


SOURCES = [
    public(
        "safetext",
        records=records,
        register="advice",
        labels={"safe": direct("safe"), "unsafe": direct("unsafe")},
    )
]
