"""CAMS: Reddit posts about depression and suicide with the cause that the annotators found.

A cause is not a risk: a post with one is borderline, weakly; a post without one says nothing about safety and is left
out. The three files have two schemas, and the largest is Windows-1252. Nearly every post of `irf` stands here too; the
merge joins them.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table

FILES = (
    ("added_CAMS_data.csv", "cause", "cp1252-lenient"),
    ("IntentSDCNL_Training.csv", "ANNOTATIONS", "utf-8-sig"),
    ("IntentSDCNL_Testing.csv", "ANNOTATIONS", "utf-8-sig"),
)


def records(files):
    """All posts; a blank cause is its own label."""
    for name, column, encoding in FILES:
        table = read_table(files[name], encoding=encoding)
        for text, cause in zip(table["selftext"], table[column], strict=True):
            yield Record("", text, f"cause {cause.strip()}" if cause.strip() else "blank")


SOURCES = [
    public(
        "cams",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "cause 0": None,
            "blank": None,
            **{f"cause {code}": weak("borderline") for code in "12345"},
        },
    )
]
