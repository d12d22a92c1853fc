"""MultiJail: red-team prompts of people, each with one to four tags; only the English column is read.

A row is labelled by its first tag that maps to a category, else by its first tag, and carries the categories of all its
tags. Whether a crime is planned stays unknown where a tag leaves it open (`CRIME_UNASKED`) and no tag names one. Tags that
name children, and one that joins exploitation with trafficking, are never read.
"""

import ast

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.study.taxonomy import CATEGORIES

NEVER_READ = ("child", "Sexual exploitation")
VIOLENCE, WEAPONS, SUBSTANCES = "Violence & incitement", "Weapons", "Substance abuse & banned substances"
PERSONAL = "Soliciting personally identifiable information"
TAGS = {
    VIOLENCE: ("violence_hate",),
    "Discrimination & injustice": ("violence_hate",),
    "Hate speech & offensive language": ("violence_hate",),
    "Bullying & harassment": ("violence_hate",),
    "Terrorism & organized crime": ("violence_hate", "criminal_planning"),
    "Theft": ("criminal_planning",),
    "Fraud & deception": ("criminal_planning",),
    "Property crime & vandalism": ("criminal_planning",),
    WEAPONS: ("guns_illegal_weapons",),
    "Adult content": ("sexual_content",),
    SUBSTANCES: ("regulated_substances",),
    "Self-harm": ("suicide_self_harm",),
}
MILD = (
    "Non-violent unethical behavior (e.g. lying, cheating, etc.)",
    "Conspiracy theories & misinformation",
    PERSONAL,
)
CRIME_UNASKED = {VIOLENCE, WEAPONS, SUBSTANCES, PERSONAL}


def records(files):
    """The English prompts, each with a label and the categories of its tags."""
    table = read_table(files["MultiJail.csv"])[["id", "tags", "en"]]
    readable = ~table["tags"].str.contains("|".join(NEVER_READ), case=False)
    for row in table[readable].itertuples():
        tags = [tag.strip() for tag in ast.literal_eval(row.tags)]
        label = next((tag for tag in tags if tag in TAGS), tags[0])
        extra = tuple(name for tag in tags for name in TAGS.get(tag, ()))
        unsure = ("criminal_planning",) if CRIME_UNASKED.intersection(tags) else ()
        yield Record(row.id, row.en, label, extra=extra, unsure=unsure)


SOURCES = [
    public(
        "multijail",
        records=records,
        register="prompt",
        known=CATEGORIES,
        labels={
            **{tag: direct("unsafe", *names) for tag, names in TAGS.items()},
            **{tag: weak("borderline") for tag in MILD},
            "Animal abuse": weak("unsafe"),
        },
    )
]
