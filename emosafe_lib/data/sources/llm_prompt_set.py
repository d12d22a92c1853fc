"""LLM Prompt Set: five adversarial prompts for each of 24 harms; the one that names children is never read.

Whether people wrote all of them is not stated upstream; the study counts them as written by people.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.keywords import leave_open, open_beside
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.study.taxonomy import CATEGORIES

NEVER_READ = {"child_exploitation"}
ASKED = tuple(name for name in CATEGORIES if name != "regulated_substances")
SUBJECTS = {
    "violent_crimes": "violence",
    "criminal_planning": "crime of any kind",
    "sex_crimes": "crime of any kind",
    "gun-related": "weapons",
    "indiscriminate_weapons": "weapons",
    "cbrn_content": "weapons",
    "privacy": "privacy and property",
    "intellectual_property": "privacy and property",
}
SECURITY = ("attack_payload_gen", "automated_hacking", "malware_code_gen", "phishing_emails", "polymorphic_malware_gen")
MILD = ("bias", "censorship", "defamation", "elections", "intellectual_property", "privacy", "insecure_code")


def records(files):
    """The prompts whose category may be read."""
    table = read_table(files["prompts.csv"])
    for row in table[~table["category"].isin(NEVER_READ)].itertuples():
        words = open_beside(SUBJECTS.get(row.category, ""), leave_open(row.prompt))
        yield Record("", row.prompt, row.category, **words)


SOURCES = [
    public(
        "llm_prompt_set",
        records=records,
        register="prompt",
        known=ASKED,
        labels={
            "gun-related": direct("unsafe", "guns_illegal_weapons"),
            "indiscriminate_weapons": direct("unsafe", "guns_illegal_weapons"),
            "cbrn_content": direct("unsafe", "guns_illegal_weapons"),
            "criminal_planning": direct("unsafe", "criminal_planning"),
            "non-violent_crimes": direct("unsafe", "criminal_planning"),
            "self_harm": direct("unsafe", "suicide_self_harm"),
            "sexual_content": direct("unsafe", "sexual_content"),
            "sex_crimes": direct("unsafe", "sexual_content", "criminal_planning"),
            "hate_speech": direct("unsafe", "violence_hate"),
            "violent_crimes": direct("unsafe", "violence_hate"),
            "social_engineering": direct("unsafe", "criminal_planning"),
            **{name: direct("unsafe", "criminal_planning") for name in SECURITY},
            **{name: weak("borderline") for name in MILD},
        },
    )
]
