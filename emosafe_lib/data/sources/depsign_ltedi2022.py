"""DepSign (LT-EDI 2022): Reddit posts judged for signs of depression on three steps.

The guideline, as remembered, puts suicidal statements into `severe`, but not only those, and the label does not carry
over to other corpora; so `severe` is unsafe weakly, and the self-harm category counts as not asked.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All posts; the two files name their columns differently but order them alike."""
    for name in ("dev.tsv", "test.tsv"):
        for post, text, label in read_table(files[name], delimiter="\t").itertuples(index=False, name=None):
            yield Record(post, text, label)


SOURCES = [
    public(
        "depsign_ltedi2022",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "not depression": direct("safe"),
            "moderate": direct("borderline"),
            "severe": weak("unsafe"),
        },
    )
]
