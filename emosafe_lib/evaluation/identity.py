"""Does a message that names somebody raise more false alarms for being about them?

HateCheck says of every case which group it speaks of and which ability it tests. A model may learn that a group's name
is itself a sign of hate; so the harmless cases of each group are held against those of all the others, on the same
resamples. Few cases a group leave wide intervals: that nothing is clear would not show that there is nothing.
"""

import numpy as np
import pandas as pd

from emosafe_lib.data.sources import registry
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.evaluation.bootstrap import by_group, interval
from emosafe_lib.evaluation.metrics import ratio
from emosafe_lib.evaluation.paired_tests import difference, holm
from emosafe_lib.evaluation.results import Cell, Evidence


def facts() -> pd.DataFrame:
    """What HateCheck says of its cases, by id of the merged row: functionality and target; empty where it is not at hand."""
    if registry.missing([registry.registry()["hatecheck"]]):
        return pd.DataFrame(columns=["id", "functionality", "target"])
    table = read_table(registry.files("hatecheck")["test_suite_cases.csv"])
    columns = {"id": "hatecheck:" + table["case_id"], "functionality": table["functionality"]}
    return pd.DataFrame(columns | {"target": table["target_ident"].replace("", "nobody named")})


def false_alarms_by(evidence: Evidence, cell: Cell, groups: pd.Series, lowest: int = 1) -> pd.DataFrame:
    """False alarms of a run among harmless messages of each group, and each group against all the others.

    Parameters
    ----------
    groups : the group of each message, by id; messages without one are left out
    lowest : the lowest level that is an alarm

    Returns
    -------
    one row a group with at least two harmless messages: group, n, value, low, high (the false-alarm rate); `more`,
    more_low, more_high, p (rate minus that of all the others) and p_holm over groups
    """
    truth, bootstrap, confidence = evidence.truth, evidence.bootstrap, evidence.study.analysis.confidence
    answers = evidence.answers[evidence.keys(cell)[0]]
    asked = truth.at(answers.rows)
    label = pd.Series(asked.ids).map(groups).to_numpy()
    harmless = (asked.safety == 0) & ~pd.isna(label)
    alarm = np.where(answers.chosen < 0, True, answers.chosen >= lowest)
    found, counts = [], bootstrap.counts.astype(np.float32)
    for name in sorted(set(label[harmless])):
        own, rest = harmless & (label == name), harmless & (label != name)
        if own.sum() < 2 or rest.sum() < 2:
            continue
        cells = np.column_stack([own & alarm, own, rest & alarm, rest]).astype(float)
        total = counts @ by_group(cells, bootstrap.codes[answers.rows], bootstrap.groups)
        draws, others = ratio(total[:, 0], total[:, 1]), ratio(total[:, 2], total[:, 3])
        gap = difference(float(alarm[own].mean() - alarm[rest].mean()), draws - others, confidence)
        low, high = interval(draws, confidence)
        row = {"group": name, "n": int(own.sum()), "value": alarm[own].mean(), "low": low, "high": high}
        found.append(row | {"more": gap.value, "more_low": gap.low, "more_high": gap.high, "p": gap.p})
    columns = ["group", "n", "value", "low", "high", "more", "more_low", "more_high", "p"]
    table = pd.DataFrame(found, columns=columns)
    return table.assign(p_holm=holm(table["p"]) if len(table) else [])


def alarms_about(table: pd.DataFrame, confidence: float = 0.95) -> str:
    """Which groups are alarmed about more than the others, after Holm's correction, from `false_alarms_by`."""
    if table.empty:
        return "This study has no messages that name whom they speak of."
    more = table[(table["p_holm"] < 1 - confidence) & (table["more"] > 0)]
    said = ", ".join(
        f"{row.group} ({row.more:+.0%} [{row.more_low:+.0%}, {row.more_high:+.0%}])" for row in more.itertuples()
    )
    lead = f"Harmless messages that are alarmed about more than the others, of {len(table)} groups, after Holm's correction"
    return f"{lead}: {said or 'none clearly; few messages a group show large differences only'}."
