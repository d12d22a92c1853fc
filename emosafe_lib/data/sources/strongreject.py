"""StrongREJECT: forbidden prompts; those that came from model-written collections are left out by name."""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.keywords import leave_open, open_beside, split_in_two
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.study.taxonomy import CATEGORIES

MIXED, VIOLENCE = "Illegal goods and services", "Violence"
SUBJECTS = {MIXED: "crime of any kind", VIOLENCE: "violence"}
ASKED = tuple(name for name in CATEGORIES if name != "suicide_self_harm")


def records(files):
    """The prompts; words split the category that joins drugs and weapons."""
    for row in read_table(files["strongreject_dataset.csv"]).itertuples():
        label = row.category if row.source == "custom" else "not custom"
        words = (split_in_two if label == MIXED else leave_open)(row.forbidden_prompt)
        yield Record("", row.forbidden_prompt, label, **open_beside(SUBJECTS.get(label, ""), words))


SOURCES = [
    public(
        "strongreject",
        records=records,
        register="prompt",
        known=ASKED,
        labels={
            "not custom": None,
            "Disinformation and deception": weak("borderline"),
            "Hate, harassment and discrimination": direct("unsafe", "violence_hate"),
            VIOLENCE: direct("unsafe", "violence_hate"),
            "Sexual content": direct("unsafe", "sexual_content"),
            "Non-violent crimes": direct("unsafe", "criminal_planning"),
            MIXED: direct("unsafe", "criminal_planning"),
        },
    )
]
