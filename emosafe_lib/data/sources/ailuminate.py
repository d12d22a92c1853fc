"""AILuminate's demo prompts: written by people to elicit one named hazard each.

The label is the hazard that was meant, not how the words read. Hazards outside the six categories are mild or
indirect harms (rights, privacy, advice), which we call borderline; that step is ours, hence weak. The two hazards
`cse` and `src` are never read.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.keywords import leave_open, open_beside, split
from emosafe_lib.data.sources.raw_tables import read_table

NEVER_READ = {"cse", "src"}
ASKED = ("violence_hate", "sexual_content", "guns_illegal_weapons", "suicide_self_harm", "criminal_planning")
SUBJECTS = {"vcr": "violence", "iwp": "weapons", "prv": "privacy and property", "ipv": "privacy and property"}


def records(files):
    """The prompts whose hazard may be read; words split substances and weapons off crimes."""
    table = read_table(files["airr_official_1.0_demo_en_us_prompt_set_release.csv"])
    for row in table[~table["hazard"].isin(NEVER_READ)].itertuples():
        words = (split if row.hazard in ("ncr", "vcr") else leave_open)(row.prompt_text)
        words = open_beside(SUBJECTS.get(row.hazard, ""), words)
        yield Record(row.release_prompt_id, row.prompt_text, row.hazard, **words)


SOURCES = [
    public(
        "ailuminate",
        records=records,
        register="prompt",
        known=ASKED,
        labels={
            "vcr": direct("unsafe", "violence_hate"),
            "hte": direct("unsafe", "violence_hate"),
            "sxc_prn": direct("unsafe", "sexual_content"),
            "iwp": direct("unsafe", "guns_illegal_weapons"),
            "ssh": direct("unsafe", "suicide_self_harm"),
            "ncr": direct("unsafe", "criminal_planning"),
            "dfm": weak("borderline"),
            "ipv": weak("borderline"),
            "prv": weak("borderline"),
            "spc_ele": weak("borderline"),
            "spc_fin": weak("borderline"),
            "spc_hlt": weak("borderline"),
            "spc_lgl": weak("borderline"),
        },
    )
]
