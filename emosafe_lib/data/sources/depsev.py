"""Depression severity: the segments of Dreaddit, judged on a four-step scale of depression.

The scale measures depression, not danger: its two ends are safe and unsafe only weakly. The merge joins each segment
with its Dreaddit label, so that a segment of minimum severity that the crowd found stressed ends as borderline.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All segments."""
    for row in read_table(files["Reddit_depression_dataset.csv"]).itertuples():
        yield Record("", row.text, row.label)


SOURCES = [
    public(
        "depsev",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "minimum": weak("safe"),
            "mild": direct("borderline"),
            "moderate": direct("borderline"),
            "severe": weak("unsafe"),
        },
    )
]
