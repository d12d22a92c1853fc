"""Hatemoji: texts in which emoji carry the hate, written in pairs that differ by little.

Animosity is borderline, as in `edos`; that step is ours, hence weak. A pair, and a group of test cases, stays together.
"""

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_table


def build_records(files):
    """The adversarial texts; two matched texts share the smaller of their numbers."""
    for part in ("train", "validation", "test"):
        for row in read_table(files[f"HatemojiBuild/{part}.csv"]).to_dict("records"):
            pair = min(
                (number for number in (row["entry_id"], row["matched_id"]) if number), key=lambda n: int(float(n))
            )
            yield Record(f"build-{part}-{row['entry_id']}", row["text"], row["type"], link=f"pair {int(float(pair))}")


def check_records(files):
    """The functional tests."""
    for row in read_table(files["HatemojiCheck/test.csv"]).itertuples():
        yield Record(f"check-{row.case_id}", row.text, f"check {row.label_gold}", link=f"test {row.test_group_id}")


def records(files):
    """Both parts."""
    yield from build_records(files)
    yield from check_records(files)


SOURCES = [
    public(
        "hatemoji",
        records=records,
        register="template",
        known=("violence_hate",),
        labels={
            "none": direct("safe"),
            "animosity": weak("borderline", "violence_hate"),
            "derogation": direct("unsafe", "violence_hate"),
            "dehumanizinglanguage": direct("unsafe", "violence_hate"),
            "threateninglanguage": direct("unsafe", "violence_hate"),
            "check 1": direct("unsafe", "violence_hate"),
            "check 0": direct("safe"),
        },
    )
]
