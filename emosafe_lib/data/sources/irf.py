"""IRF: Reddit posts judged for two interpersonal risk factors of suicide.

A post with a factor is borderline. A post without one comes from the same forums, so its safe label is weak; where CAMS
found a cause in the same post, the merge settles on borderline.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All posts, with both factors."""
    for part in ("train", "val", "test"):
        for row in read_table(files[f"{part}_data.csv"]).itertuples():
            yield Record("", row.text, f"belong {row.belong}, burden {row.burden}")


SOURCES = [
    public(
        "irf",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "belong 0, burden 0": weak("safe"),
            "belong 1, burden 0": direct("borderline"),
            "belong 0, burden 1": direct("borderline"),
            "belong 1, burden 1": direct("borderline"),
        },
    )
]
