"""HateCheck: hand-written functional tests, with harmless cases that look alarming; one template stays together.

Abuse of persons who stand for no protected group is no hate by its gold label and is not harmless either; how bad it is
was not asked, so it is left out.
"""

from emosafe_lib.data.sources.base import Record, direct, public
from emosafe_lib.data.sources.raw_tables import read_table

ABUSE = {"target_indiv_nh", "target_group_nh"}  # of an individual, and of a group that is not protected
OTHER_ABUSE = "non-hateful, abuse of persons"


def records(files):
    """All test cases."""
    for row in read_table(files["test_suite_cases.csv"]).itertuples():
        label = OTHER_ABUSE if row.functionality in ABUSE else row.label_gold
        yield Record(row.case_id, row.test_case, label, link=row.templ_id)


SOURCES = [
    public(
        "hatecheck",
        records=records,
        register="template",
        known=("violence_hate",),
        labels={
            "hateful": direct("unsafe", "violence_hate"),
            "non-hateful": direct("safe"),
            OTHER_ABUSE: None,
        },
    )
]
