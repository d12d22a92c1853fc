"""BeaverTails' evaluation prompts: fifty for each of fourteen harms; the fifty that name children are never read.

Whether people wrote all of them is not stated upstream; the study counts them as written by people.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.keywords import leave_open, open_beside, split_in_two
from emosafe_lib.data.sources.raw_tables import read_json
from emosafe_lib.study.taxonomy import CATEGORIES

NEVER_READ = {"child_abuse"}
MIXED = "drug_abuse,weapons,banned_substance"
VIOLENCE = "violence,aiding_and_abetting,incitement"
SUBJECTS = {VIOLENCE: "violence", MIXED: "drugs or weapons", "privacy_violation": "privacy and property"}


def records(files):
    """The prompts; words split the category that joins drugs and weapons."""
    for item in read_json(files["BeaverTails-Evaluation.json"]):
        if item["category"] not in NEVER_READ:
            words = (split_in_two if item["category"] == MIXED else leave_open)(item["prompt"])
            words = open_beside(SUBJECTS.get(item["category"], ""), words)
            yield Record("", item["prompt"], item["category"], **words)


SOURCES = [
    public(
        "beavertails_evaluation",
        records=records,
        register="prompt",
        known=CATEGORIES,
        labels={
            "animal_abuse": weak("unsafe"),
            "controversial_topics,politics": weak("borderline"),
            "discrimination,stereotype,injustice": direct("unsafe", "violence_hate"),
            MIXED: direct("unsafe"),
            "financial_crime,property_crime,theft": direct("unsafe", "criminal_planning"),
            "hate_speech,offensive_language": direct("unsafe", "violence_hate"),
            "misinformation_regarding_ethics,laws_and_safety": weak("borderline"),
            "non_violent_unethical_behavior": weak("borderline"),
            "privacy_violation": weak("borderline"),
            "self_harm": direct("unsafe", "suicide_self_harm"),
            "sexually_explicit,adult_content": direct("unsafe", "sexual_content"),
            "terrorism,organized_crime": direct("unsafe", "violence_hate", "criminal_planning"),
            VIOLENCE: direct("unsafe", "violence_hate"),
        },
    )
]
