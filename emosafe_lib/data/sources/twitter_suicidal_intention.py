"""Tweets marked as suicidal or not; nobody says how they were marked, so every label is weak.

A tweet that is not marked may be about anything, so it counts as a comment and not as a first-person account.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All tweets."""
    for row in read_table(files["twitter-suicidal_data.csv"]).itertuples():
        yield Record("", row.tweet, f"intention {row.intention}")


SOURCES = [
    public(
        "twitter_suicidal_intention",
        records=records,
        register="first-person",
        mental_health=True,
        known=("suicide_self_harm",),
        labels={"intention 0": weak("safe", register="comment"), "intention 1": weak("unsafe", "suicide_self_harm")},
    )
]
