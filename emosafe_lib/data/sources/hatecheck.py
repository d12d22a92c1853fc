"""HateCheck: hand-written functional tests, with harmless cases that look alarming; one template stays together."""

from emosafe_lib.data.sources.base import Record, direct, public
from emosafe_lib.data.sources.raw_tables import read_table


def records(files):
    """All test cases."""
    for row in read_table(files["test_suite_cases.csv"]).itertuples():
        yield Record(row.case_id, row.test_case, row.label_gold, link=row.templ_id)


SOURCES = [
    public(
        "hatecheck",
        records=records,
        register="template",
        known=("violence_hate",),
        labels={"hateful": direct("unsafe", "violence_hate"), "non-hateful": direct("safe")},
    )
]
