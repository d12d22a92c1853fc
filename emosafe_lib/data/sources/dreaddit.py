"""Dreaddit: five-sentence Reddit segments that a crowd judged as stressed or not.

The same segments as `depsev`. The files are Windows-1252 with a few bytes that it does not define, and their columns
stand in different orders.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All segments; the segments of one post stay together."""
    for part in ("train", "test"):
        table = read_table(files[f"dreaddit-{part}.csv"], encoding="cp1252-lenient")
        for row in table[["id", "post_id", "text", "label"]].itertuples():
            yield Record(f"{part}-{row.id}", row.text, f"stress {row.label}", link=row.post_id)


SOURCES = [
    public(
        "dreaddit",
        records=records,
        register="first-person",
        mental_health=True,
        labels={"stress 0": weak("safe"), "stress 1": weak("borderline")},
    )
]
