"""ETHOS: comments with the share of annotators who called them hateful; the shares in between are borderline."""

from emosafe_lib.data.sources.base import Record, direct, public
from emosafe_lib.data.sources.raw_tables import read_table


def level(share: float) -> str:
    """Three steps of agreement on hate."""
    return "hate < 0.25" if share < 0.25 else "hate 0.25 to 0.5" if share < 0.5 else "hate >= 0.5"


def records(files):
    """All comments of the graded file."""
    table = read_table(files["Ethos_Dataset_Binary.csv"], delimiter=";")
    for text, share in table[["comment", "isHate"]].itertuples(index=False, name=None):
        yield Record("", text, level(float(share)))


SOURCES = [
    public(
        "ethos",
        records=records,
        register="comment",
        known=("violence_hate",),
        labels={
            "hate < 0.25": direct("safe"),
            "hate 0.25 to 0.5": direct("borderline", known=()),
            "hate >= 0.5": direct("unsafe", "violence_hate"),
        },
    )
]
