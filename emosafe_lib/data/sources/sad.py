"""SAD: short sentences about everyday stressors, rated by five people each.

Calm or mildly stressed (below 4 of 10) is safe and the rest borderline; the threshold is ours, hence weak. The workbook
lies in an archive.
"""

import pandas as pd

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_member, read_workbook

STRESSED_FROM = 4.0


def records(files):
    """All sentences; a severity such as 8.1999999999999993 is read as a number."""
    header, *rows = next(iter(read_workbook(read_member(files["SAD_v1.zip"], "SAD_v1.xlsx")).values()))
    table = pd.DataFrame(rows, columns=header)
    for row in table[["sID", "sentence", "is_stressor", "avg_severity"]].itertuples():
        stressed = int(float(row.is_stressor)) == 1 and float(row.avg_severity) >= STRESSED_FROM
        yield Record(str(row.sID), str(row.sentence or ""), "stressor, severity >= 4" if stressed else "below")


SOURCES = [
    public(
        "sad",
        records=records,
        register="first-person",
        mental_health=True,
        labels={"stressor, severity >= 4": weak("borderline"), "below": weak("safe")},
    )
]
