"""Does a message that names somebody raise more false alarms for being about them?

HateCheck says of every case which group it speaks of. A model may learn that a group's name
is itself a sign of hate; so the harmless cases of each group are held against those of all the others. A group has a
handful of cases, all of which may be alarmed about: a bootstrap would call that certain, so intervals are Wilson's and
the test is Fisher's exact one. That nothing is clear would not show that there is nothing.
"""

import numpy as np
import pandas as pd

from emosafe_lib.data.sources import registry
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.evaluation.intervals import wilson
from emosafe_lib.evaluation.paired_tests import holm
from emosafe_lib.evaluation.results import Cell, Evidence

NOBODY = "nobody named"


def named_groups() -> pd.Series:
    """The group that each of HateCheck's cases speaks of, or `NOBODY`, by id of the merged row; empty where it is not at
    hand.
    """
    if registry.missing([registry.registry()["hatecheck"]]):
        return pd.Series(dtype=object)
    table = read_table(registry.files("hatecheck")["test_suite_cases.csv"])
    return table.set_index("hatecheck:" + table["case_id"])["target_ident"].replace("", NOBODY)


def false_alarms_by(evidence: Evidence, cell: Cell, groups: pd.Series) -> pd.DataFrame:
    """False alarms of a run among harmless messages of each group, and each group against all the others.

    Parameters
    ----------
    groups : the group of each message, by id; messages without one are left out

    Returns
    -------
    one row a group with at least two harmless messages: group, n, value, low, high (the false-alarm rate, averaged over
    seeds); `more`, more_low, more_high, p (rate minus that of all the others) and p_holm over groups
    """
    confidence, alarm = evidence.study.analysis.confidence, alarming_share(evidence, cell)
    named, asked = pd.Series(evidence.truth.ids).map(groups), evidence.truth.safety == 0
    harmless = np.flatnonzero(asked & named.notna().to_numpy() & ~np.isnan(alarm))
    label, codes, found = named.to_numpy()[harmless], evidence.bootstrap.codes[harmless], []
    for name in sorted(set(label)):
        own = label == name
        if own.sum() < 2 or (~own).sum() < 2:
            continue
        sides = [(alarm[harmless][side].mean(), len(np.unique(codes[side]))) for side in (own, ~own)]
        limits = [wilson(share, many, confidence) for share, many in sides]
        row = {"group": name, "n": int(own.sum()), "value": sides[0][0], "low": limits[0][0], "high": limits[0][1]}
        found.append(row | more_than_others(sides, limits))
    columns = ["group", "n", "value", "low", "high", "more", "more_low", "more_high", "p"]
    table = pd.DataFrame(found, columns=columns)
    return table.assign(p_holm=holm(table["p"]) if len(table) else [])


def alarming_share(evidence: Evidence, cell: Cell) -> np.ndarray:
    """The share of a run's seeds that alarm about each row of the truth, NaN where none was asked; any level but safe is an
    alarm, and so is no answer.
    """
    told = np.full((len(evidence.keys(cell)), len(evidence.truth)), np.nan)
    for seed, key in enumerate(evidence.keys(cell)):
        answers = evidence.answers[key]
        told[seed, answers.rows] = answers.chosen != 0
    return told.mean(axis=0)


def more_than_others(sides: list[tuple[float, int]], limits: list[tuple[float, float]]) -> dict:
    """The first of two rates less the second, each (share, independent groups of rows), from their Wilson limits.

    The interval is Newcombe's (1998, doi 10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10), p
    Fisher's, on shares as counts of groups.
    """
    from scipy.stats import fisher_exact

    own, other = (share for share, _ in sides)
    (low, high), (other_low, other_high) = limits
    below, above = np.hypot(own - low, other_high - other), np.hypot(high - own, other - other_low)
    counts = [[round(share * size), size - round(share * size)] for share, size in sides]
    return {
        "more": own - other,
        "more_low": own - other - below,
        "more_high": own - other + above,
        "p": float(fisher_exact(counts).pvalue),
    }


def alarms_about(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """Which groups are alarmed about more than the others, after Holm's correction, from `false_alarms_by`."""
    if table.empty:
        return "HateCheck, whose cases say whom they name, has no test rows here."
    groups = table[table["group"] != NOBODY]
    more = groups[(groups["p_holm"] < 1 - confidence) & (groups["more"] > 0)]
    said = ", ".join(
        f"{row.group} ({row.more:+.0%} [{row.more_low:+.0%}, {row.more_high:+.0%}])" for row in more.itertuples()
    )
    lead = f"Harmless messages that are alarmed about more than the others, of {len(groups)} groups, after Holm's correction"
    return f"{lead}: {said or 'none clearly; few messages a group show large differences only'}."
