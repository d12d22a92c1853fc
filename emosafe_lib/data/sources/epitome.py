"""EPITOME: replies in peer support, judged for three mechanisms of empathy.

A reply with at least some empathy is safe, weakly. The seekers' posts carry no label of risk and are left out.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table

MECHANISMS = ("emotional-reactions", "interpretations", "explorations")


def records(files):
    """Each reply once, with the highest level of any mechanism; replies to one seeker's post stay together."""
    tables = [read_table(files[f"{name}-reddit.csv"]) for name in MECHANISMS]
    levels: dict[tuple, int] = {}
    pairs: dict[tuple, tuple] = {}
    for table in tables:
        for row in table.itertuples():
            key = (row.sp_id, row.rp_id)
            levels[key] = max(levels.get(key, 0), int(row.level))
            pairs[key] = (row.seeker_post, row.response_post)
    for key, (seeker, reply) in pairs.items():
        yield Record("-".join(key), reply, "some empathy" if levels[key] else "no empathy", link=key[0])
        yield Record(f"seeker-{'-'.join(key)}", seeker, "seeker", link=key[0])


SOURCES = [
    public(
        "epitome",
        records=records,
        register="reply",
        mental_health=True,
        labels={"some empathy": weak("safe"), "no empathy": None, "seeker": None},
    )
]
