"""ConvAbuse: what real users wrote to two chatbots, judged for abuse by several annotators each.

Every annotator chose one of five severities from 1 (none) to -3; blank means not asked, and a cell such as `0, 1` holds
a repeated judgement, of which the last counts. The mean decides the level, half of the annotators decide a type.
"""

from statistics import mean

from emosafe_lib.data.sources.base import Record, direct, public
from emosafe_lib.data.sources.raw_tables import read_table

SEVERITIES = ("1", "0", "-1", "-2", "-3")
HATE = ("ableist", "homophobic", "racist", "sexist", "transphobic")
ANNOTATORS = range(1, 9)


def ticked(row: dict, column: str) -> bool:
    """Whether an annotator ticked a box; the last of repeated judgements."""
    return row.get(column, "").split(",")[-1].strip() in ("1", "1.0")


def severity(row: dict) -> list[tuple[int, int]]:
    """The annotators who judged this row, each with the severity chosen."""
    return [(who, int(s)) for who in ANNOTATORS for s in SEVERITIES if ticked(row, f"Annotator{who}_is_abuse.{s}")]


def share(row: dict, judges: set[int], kinds: tuple[str, ...]) -> float:
    """The share of judges who named one of the given types."""
    return mean(any(ticked(row, f"Annotator{who}_{kind}") for kind in kinds) for who in judges)


def label(row: dict) -> str:
    """Level by mean severity, then the types that half of the annotators named."""
    judged = severity(row)
    if not judged:
        return "nobody judged"
    level = mean(s for _, s in judged)
    name = "not abusive" if level > 0.5 else "ambiguous or mild" if level > -1.5 else "abusive"
    if name != "not abusive":
        judges = {who for who, _ in judged}
        name += ", hate" * (share(row, judges, HATE) >= 0.5) + ", sexual" * (
            share(row, judges, ("sex_harassment",)) >= 0.5
        )
    return name


def records(files):
    """The user's last message of every example; a conversation stays together."""
    for part in ("train", "valid", "test"):
        for row in read_table(files[f"ConvAbuseEMNLP{part}.csv"], repeated_names=True).to_dict("records"):
            yield Record(f"{part}-{row['example_id']}", row["user"], label(row), link=f"{row['bot']} {row['conv_id']}")


# Nobody was asked about threats: abuse that is no hate may be violent all the same, so what it does not touch is unknown.
ASKED = {"known": ("sexual_content",)}
KINDS = {"": (), ", hate": ("violence_hate",), ", sexual": ("sexual_content",)}
KINDS[", hate, sexual"] = KINDS[", hate"] + KINDS[", sexual"]
SOURCES = [
    public(
        "convabuse",
        records=records,
        register="comment",
        known=("violence_hate", "sexual_content"),
        labels={
            "not abusive": direct("safe"),
            "nobody judged": None,
            **{f"ambiguous or mild{kind}": direct("borderline", *names, **ASKED) for kind, names in KINDS.items()},
            **{f"abusive{kind}": direct("unsafe", *names, **ASKED) for kind, names in KINDS.items()},
        },
    )
]
