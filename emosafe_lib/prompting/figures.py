"""The figures of notebook 03: reliability, the spread between wordings, and what a longer prefix costs."""

import pandas as pd

from emosafe_lib.study.style import PALETTE, WIDTH, look, subplots

CALIBRATION_AXES = {
    "safety": ("confidence in the answer", "share that is right"),
    "categories": ("chance of yes", "share that is yes"),
}


def reliability_diagram(table: pd.DataFrame):
    """How often an answer of some confidence is right, and a category of some chance there; the diagonal is perfect.

    One panel a task. `table` has the columns task, way, confidence, accuracy and rows; a point's size grows with its rows.
    """
    tasks = list(dict.fromkeys(table["task"])) or ["no row was answered"]
    figure, panels = subplots(1, len(tasks), figsize=(WIDTH, 3.6), sharey=True, squeeze=False)
    looks = look(table["way"])
    for panel, task in zip(panels[0], tasks, strict=True):
        panel.plot([0, 1], [0, 1], color=PALETTE[-1], linewidth=1)
        for way, part in table[table["task"] == task].groupby("way", sort=False):
            colour, marker, line = looks[way]
            panel.plot(part["confidence"], part["accuracy"], color=colour, linestyle=line, label=way)
            sizes = 15 + 120 * part["rows"] / part["rows"].sum()
            panel.scatter(part["confidence"], part["accuracy"], s=sizes, color=colour, marker=marker, clip_on=False)
        across, up = CALIBRATION_AXES.get(task, ("", ""))
        panel.set(title=task, xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1))
        if looks:
            panel.legend()
    return figure


def prompt_spread(table: pd.DataFrame):
    """Macro-F1 of every wording, one row a setting, one panel a task; the bar spans lowest to highest wording.

    `table` has the columns task, setting, variant and macro_f1.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, len(tasks), figsize=(WIDTH, 2.4), sharey=True, squeeze=False)
    looks = look(table["variant"])
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[table["task"] == task]
        for setting, group in part.groupby("setting", sort=False):
            panel.plot([group["macro_f1"].min(), group["macro_f1"].max()], [setting] * 2, color=PALETTE[-1], zorder=1)
        for variant, group in part.groupby("variant", sort=False):
            colour, marker, _ = looks[variant]
            panel.scatter(group["macro_f1"], group["setting"], color=colour, marker=marker, label=variant, zorder=2)
        panel.set(title=task, xlabel="macro-F1", xlim=(0, 1))
        panel.margins(y=0.4)
    panels[0][0].legend()
    return figure


def prefix_growth(table: pd.DataFrame):
    """Seconds per message against the length of the constant prefix, one line a way of scoring.

    `table` has the columns prefix_tokens, way and seconds.
    """
    figure, panel = subplots(figsize=(WIDTH, 3.2))
    for way, (colour, marker, line) in look(table["way"]).items():
        part = table[table["way"] == way]
        panel.plot(part["prefix_tokens"], part["seconds"], color=colour, marker=marker, linestyle=line, label=way)
    panel.set(xlabel="tokens in the constant prefix", ylabel="seconds per message", ylim=(0, None))
    panel.legend()
    return figure
