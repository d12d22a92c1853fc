"""EDOS: comments judged for sexism in three steps of detail.

Threats and derogation are unsafe, animosity and prejudiced discussion borderline. A comment that is not sexist may
still hold other hate, so its safe label, and that it is free of hate, is weak.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All comments, labelled by the middle step."""
    for row in read_table(files["edos_labelled_aggregated.csv"]).itertuples():
        yield Record(row.rewire_id, row.text, row.label_category)


SOURCES = [
    public(
        "edos",
        records=records,
        register="comment",
        known=("violence_hate",),
        labels={
            "none": weak("safe"),
            "1. threats, plans to harm and incitement": direct("unsafe", "violence_hate"),
            "2. derogation": direct("unsafe", "violence_hate"),
            "3. animosity": direct("borderline", "violence_hate"),
            "4. prejudiced discussions": direct("borderline", "violence_hate"),
        },
    )
]
