"""HarmBench's behaviours: imperative requests, some with a context; those about copyright are left out.

`illegal` holds requests about drugs and weapons among other crimes, violent ones too; words add those two.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.keywords import SUBSTANCES, leave_open, open_beside, split
from emosafe_lib.data.sources.raw_tables import read_table

DRUG, WEAPON = "chemical_biological, drug", "chemical_biological, weapon"
SUBJECTS = {"illegal": "crime of any kind", DRUG: "drugs", WEAPON: "weapons"}


def records(files):
    """The behaviours; a chemical one that names a drug is about substances, else about weapons."""
    for row in read_table(files["harmbench_behaviors_text_all.csv"]).itertuples():
        label = row.SemanticCategory
        if label == "chemical_biological":
            label = DRUG if SUBSTANCES.search(row.Behavior) else WEAPON
        words = (split if label == "illegal" else leave_open)(row.Behavior)
        yield Record(row.BehaviorID, row.Behavior, label, **open_beside(SUBJECTS.get(label, ""), words))


SOURCES = [
    public(
        "harmbench",
        records=records,
        register="prompt",
        known=("violence_hate", "guns_illegal_weapons", "regulated_substances", "criminal_planning"),
        labels={
            "copyright": None,
            "illegal": direct("unsafe", "criminal_planning"),
            "cybercrime_intrusion": direct("unsafe", "criminal_planning"),
            "harassment_bullying": direct("unsafe", "violence_hate"),
            DRUG: weak("unsafe", "regulated_substances"),
            WEAPON: weak("unsafe", "guns_illegal_weapons"),
            "harmful": weak("unsafe", known=()),
            "misinformation_disinformation": weak("borderline"),
        },
    )
]
