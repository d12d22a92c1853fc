"""GoEmotions: short comments with the emotions that annotators saw.

Emotion is not risk. A comment without a negative emotion is safe, weakly; the others are left out, since nothing says
whether they are harmless. It has one level only, so it stays out of the default study.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table, read_text

NEGATIVE = {"anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief"}
NEGATIVE |= {"nervousness", "remorse", "sadness", "confusion"}


def records(files):
    """All comments, with their first emotion."""
    names = read_text(files["labels.txt"]).split()
    for part in ("train", "dev", "test"):
        table = read_table(files[f"{part}.tsv"], delimiter="\t", header=["text", "labels", "comment"])
        for row in table.itertuples():
            emotions = [names[int(code)] for code in row.labels.split(",")]
            label = "negative emotion" if NEGATIVE & set(emotions) else "no negative emotion"
            yield Record("", row.text, label, emotion=emotions[0])


SOURCES = [
    public(
        "goemotions",
        records=records,
        register="comment",
        labels={"no negative emotion": weak("safe"), "negative emotion": None},
    )
]
