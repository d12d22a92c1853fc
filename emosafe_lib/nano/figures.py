"""The figures of notebook A1: the ladder's learning curves, its losses and what it answers without an example."""

import pandas as pd

from emosafe_lib.study.style import MARKERS, PALETTE, WIDTH, look, short_number, subplots, whiskers

SIZE = "parameters outside the embedding (log scale)"
SCORES = {"macro_f1": "macro-F1", "macro_auprc": "macro average precision"}


def ladder_curves(table: pd.DataFrame):
    """Training loss against tokens read, one line a rung; `table` has the columns rung, tokens and loss."""
    figure, panel = subplots(figsize=(WIDTH, 3.8))
    for rung, (colour, _, line) in look(table["rung"]).items():
        part = table[table["rung"] == rung]
        panel.plot(part["tokens"], part["loss"], color=colour, linestyle=line, label=rung)
    panel.set(xlabel="tokens read", ylabel="training loss (nats a token)")
    panel.legend()
    return figure


def ladder_losses(table: pd.DataFrame):
    """Held-out loss against size on a logarithmic axis, one panel a text, one point a seed.

    `table` has the columns text, parameters and loss; a line joins the means of the seeds.
    """
    texts = list(dict.fromkeys(table["text"]))
    figure, panels = subplots(1, len(texts), figsize=(WIDTH + 1, 3.4), squeeze=False)
    for panel, text in zip(panels[0], texts, strict=True):
        part = table[table["text"] == text]
        panel.plot(part.groupby("parameters")["loss"].mean(), color=PALETTE[0])
        panel.scatter(part["parameters"], part["loss"], color=PALETTE[0], zorder=3)
        ticks = sorted(set(part["parameters"]))
        panel.set(xscale="log", title=text)
        panel.set_xticks(ticks, [short_number(tick) for tick in ticks])
        panel.set_xticks([], minor=True)
    panels[0][0].set_ylabel("held-out loss (nats a token)")
    figure.supxlabel(SIZE, fontsize=10)
    return figure


def ladder_zero_shot(table: pd.DataFrame):
    """Zero-shot score against size with intervals, one panel a task, chance as a dashed line.

    `table` has the columns task, metric, parameters, value, low, high and chance.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, len(tasks), figsize=(WIDTH + 1, 3.4), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[table["task"] == task].sort_values("parameters")
        marks = {"color": PALETTE[1], "marker": MARKERS[1], "capsize": 3}
        panel.errorbar(part["parameters"], part["value"], yerr=whiskers(part), **marks)
        panel.plot(part["parameters"], part["chance"], color="#555555", linestyle="--", label="chance")
        panel.set(xscale="log", title=task, ylabel=SCORES.get(part["metric"].iloc[0], ""))
        panel.set_xticks(list(part["parameters"]), [short_number(tick) for tick in part["parameters"]])
        panel.set_xticks([], minor=True)
    panels[0][0].legend()
    figure.supxlabel(SIZE, fontsize=10)
    return figure
