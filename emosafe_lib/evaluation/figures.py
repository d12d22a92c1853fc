"""The figures of notebook 05: scores against size, labels, sources and budgets, each drawn from a table of `readings`."""

from itertools import product

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.metrics import METRIC_TITLES
from emosafe_lib.study.style import (
    LABEL_COLUMNS,
    LINES,
    PALETTE,
    WIDTH,
    beside,
    joined,
    look,
    short_number,
    subplots,
    whiskers,
)


def score_by_size(table: pd.DataFrame, references: pd.DataFrame, curves: pd.DataFrame, x="parameters", label=""):
    """Score against size or cost on a logarithmic axis: a panel a metric and task, a line a setting and ladder, bars for
    intervals.

    `table` has the columns task, metric, setting, ladder, model, value, low, high and `x`; `references` has task, metric,
    model, setting and value and is drawn as horizontal lines. Points of one ladder are joined to guide the eye. A band is
    drawn only for `curves` (task, metric, setting, ladder, parameters, low, high), which hold the fits that are honest,
    within the fitted sizes.
    """
    tasks, metrics = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["metric"]))
    rows, columns = max(1, len(metrics)), max(1, len(tasks))
    size = (WIDTH + 3, 0.8 + 3.2 * rows)
    figure, panels = subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    looks = look(table["setting"])
    for row, metric in zip(panels, metrics, strict=False):
        for panel, task in zip(row, tasks, strict=False):
            here = [part[(part["task"] == task) & (part["metric"] == metric)] for part in (table, references, curves)]
            size_panel(panel, *here, looks, x)
            panel.set(title=f"{task}, {METRIC_TITLES.get(metric, metric)}", xlabel=f"{label or x} (log scale)")
        row[0].set_ylabel("macro-F1")
    beside(panels[0][-1])
    return figure


def size_panel(panel, table: pd.DataFrame, references: pd.DataFrame, curves: pd.DataFrame, looks: dict, x: str) -> None:
    """One panel of `score_by_size`: a task and metric."""
    ladders = list(dict.fromkeys(table["ladder"]))
    for (name, (colour, marker, line)), (place, ladder) in product(looks.items(), enumerate(ladders)):
        here = (part[(part["setting"] == name) & (part["ladder"] == ladder)] for part in (table, curves))
        part, fit = (rows.sort_values(axis) for rows, axis in zip(here, (x, "parameters"), strict=True))
        marks = {"color": colour, "marker": marker, "linestyle": joined(part, line), "capsize": 3}
        panel.errorbar(part[x], part["value"], yerr=whiskers(part), label="" if place else name, **marks)
        panel.fill_between(fit["parameters"], fit["low"], fit["high"], color=colour, alpha=0.15, linewidth=0)
    for number, row in enumerate(references.itertuples()):
        panel.axhline(
            row.value, color="#555555", linewidth=1, linestyle=LINES[number % 4], label=f"{row.model}, {row.setting}"
        )
    ticks = sorted(set(table[x]))
    panel.set(xscale="log")
    panel.set_xticks(ticks, [short_number(tick) for tick in ticks])
    panel.set_xticks([], minor=True)


def score_by_label(table: pd.DataFrame):
    """F1 of every level and category against size, one panel a label, one line a setting, on a common scale.

    `table` has the columns task, category, setting, ladder, parameters, value, low and high.
    """
    labels = list(dict.fromkeys(table["category"]))
    rows = max(1, -(-len(labels) // LABEL_COLUMNS))
    size = {"figsize": (WIDTH + 3, 0.6 + 2.3 * rows), "sharex": True, "sharey": True, "squeeze": False}
    figure, panels = subplots(rows, LABEL_COLUMNS, **size)
    looks, nothing = look(table["setting"]), table.iloc[:0]
    for panel, label in zip(panels.flat, labels, strict=False):
        size_panel(panel, table[table["category"] == label], nothing, nothing, looks, "parameters")
        panel.set_title(label.replace("_", " "), fontsize=9)
    for panel in panels.flat[len(labels) :]:
        panel.set_visible(False)
    figure.supxlabel("parameters (log scale)", fontsize=10)
    figure.supylabel("F1", fontsize=10)
    beside(panels[0][-1])
    return figure


def budget_curves(table: pd.DataFrame):
    """Macro-F1 after fine-tuning against the number of training rows, one panel a task, one line a model.

    `table` has the columns task, model, rows, value, low and high.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, max(1, len(tasks)), figsize=(WIDTH + 3, 3.8), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=False):
        for name, (colour, marker, line) in look(table["model"]).items():
            part = table[(table["task"] == task) & (table["model"] == name)].sort_values("rows")
            marks = {"color": colour, "marker": marker, "linestyle": joined(part, line), "capsize": 3, "label": name}
            panel.errorbar(part["rows"], part["value"], yerr=whiskers(part), **marks)
        ticks = sorted(set(table["rows"]))
        panel.set(title=task, xlabel="training rows (log scale)", xscale="log")
        panel.set_xticks(ticks, [f"{int(tick)}" for tick in ticks])
        panel.set_xticks([], minor=True)
    panels[0][0].set_ylabel("macro-F1, fine-tuned")
    beside(panels[0][-1])
    return figure


def pooled_and_within(table: pd.DataFrame):
    """Pooled macro-F1 beside macro-F1 within sources, one line a model and setting, one panel a task.

    `table` has the columns task, run, metric, value, low and high.
    """
    tasks = list(dict.fromkeys(table["task"]))
    height = 1.2 + 0.27 * table["run"].nunique()
    figure, panels = subplots(1, max(1, len(tasks)), figsize=(WIDTH + 2, height), sharey=True, squeeze=False)
    runs = list(dict.fromkeys(table["run"]))[::-1]
    for panel, task in zip(panels[0], tasks, strict=False):
        for shift, (name, (colour, marker, _)) in zip((0.15, -0.15), look(table["metric"]).items(), strict=False):
            part = table[(table["task"] == task) & (table["metric"] == name)]
            place = [runs.index(run) + shift for run in part["run"]]
            title = METRIC_TITLES.get(name, name)
            panel.errorbar(part["value"], place, xerr=whiskers(part), fmt=marker, color=colour, capsize=2, label=title)
        panel.set(title=task, xlabel="macro-F1", yticks=range(len(runs)), yticklabels=runs)
    panels[0][-1].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def differences(table: pd.DataFrame, meaning: str):
    """Paired differences with their intervals, zero marked; a filled point where Holm's test finds a difference, and grey
    bars at the smallest true difference on either side that would have been found with 80 % power.

    `table` has the columns label, value, low, high, detectable and clear (bool); `meaning` says what is subtracted from
    what.
    """
    figure, panel = subplots(figsize=(WIDTH + 1, 1.2 + 0.27 * len(table)))
    place = np.arange(len(table))[::-1]
    panel.axvline(0, color="black", linewidth=1)
    panel.errorbar(table["value"], place, xerr=whiskers(table), fmt="none", ecolor=PALETTE[0], capsize=2)
    for side, word in ((1, "detectable"), (-1, "_")):
        panel.scatter(side * table["detectable"], place, marker="|", color="#8C8C8C", label=word)
    for clear, face in ((True, PALETTE[0]), (False, "white")):
        here = (table["clear"] == clear).to_numpy()
        word = "clear after Holm" if clear else "not clear"
        panel.scatter(table["value"][here], place[here], color=face, edgecolor=PALETTE[0], zorder=3, label=word)
    panel.set(yticks=place, yticklabels=table["label"], xlabel=f"difference in macro-F1: {meaning}")
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return figure


def gains_by_label(table: pd.DataFrame):
    """What the largest model adds to the smallest, by label and setting, one panel a task.

    `table` has the columns task, setting, category, value, low and high; an empty category is the macro average.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, max(1, len(tasks)), figsize=(WIDTH + 3, 4.2), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=False):
        part = table[table["task"] == task].assign(category=lambda t: t["category"].replace("", "all (macro)"))
        labels = list(dict.fromkeys(part["category"]))[::-1]
        settings = look(table["setting"])
        for number, (name, (colour, marker, _)) in enumerate(settings.items()):
            here = part[part["setting"] == name]
            place = [labels.index(label) + 0.15 * (len(settings) / 2 - number) for label in here["category"]]
            panel.errorbar(here["value"], place, xerr=whiskers(here), fmt=marker, color=colour, capsize=2, label=name)
        panel.axvline(0, color="black", linewidth=1)
        panel.set(title=task, xlabel="F1, largest minus smallest", yticks=range(len(labels)), yticklabels=labels)
    beside(panels[0][-1])
    return figure


def spreads(table: pd.DataFrame):
    """How far macro-F1 moves with the prompt's wording, beside the sampling interval of the same number.

    `table` has the columns run, kind ("sampling", "wording" or "seed"), low and high.
    """
    runs = list(dict.fromkeys(table["run"]))[::-1]
    figure, panel = subplots(figsize=(WIDTH, 1.2 + 0.35 * len(runs)))
    for number, (name, (colour, _, line)) in enumerate(look(table["kind"]).items()):
        part = table[table["kind"] == name]
        place = [runs.index(run) + 0.2 * (1 - number) for run in part["run"]]
        panel.hlines(place, part["low"], part["high"], color=colour, linestyle=line, linewidth=4, label=name)
    panel.set(yticks=range(len(runs)), yticklabels=runs, xlabel="macro-F1")
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return figure


def sources_apart(table: pd.DataFrame):
    """Macro-F1 of each source, one marker a run.

    `table` has the columns source, run and value.
    """
    order = table.groupby("source")["value"].mean().sort_values().index.tolist()
    figure, panel = subplots(figsize=(WIDTH, 1.6 + 0.27 * len(order)))
    for name, (colour, marker, _) in look(table["run"]).items():
        part = table[table["run"] == name]
        panel.scatter(part["value"], [order.index(s) for s in part["source"]], color=colour, marker=marker, label=name)
    panel.set(yticks=range(len(order)), yticklabels=order, xlabel="macro-F1 in this source", xlim=(0, 1))
    panel.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return figure


def paper_beside_ours(table: pd.DataFrame):
    """The paper's accuracies (hollow) beside those of our runs with intervals (filled), a line a category or mean, a colour
    for a model of the paper and the run that stands in its place; each is called by its own name.

    `table` has the columns role, category, printed, model, setting, value, low and high.
    """
    names = list(dict.fromkeys(table["category"]))[::-1]
    figure, panel = subplots(figsize=(WIDTH + 1, 1.2 + 0.5 * len(names)))
    looks = look(table["role"])
    for number, (role, (colour, marker, _)) in enumerate(looks.items()):
        part = table[table["role"] == role]
        place = np.array([names.index(name) for name in part["category"]]) + 0.16 * (len(looks) / 2 - number - 0.5)
        runs = part.dropna(subset=["value"]).drop_duplicates("model")
        for run in runs.itertuples():
            ours = f"{run.model}, {run.setting}"
            panel.errorbar(part["value"], place, xerr=whiskers(part), fmt=marker, color=colour, capsize=2, label=ours)
        if part["printed"].notna().any():
            hollow = {"marker": marker, "facecolor": "none", "edgecolor": colour}
            panel.scatter(part["printed"], place, s=70, label=f"the paper's {role}", **hollow)
    panel.set(yticks=range(len(names)), yticklabels=names, xlabel="accuracy")
    beside(panel)
    return figure


def curves(panels: dict[tuple[str, str], pd.DataFrame]):
    """Curves of several runs with their intervals, one panel a table; keys are the labels of both axes.

    Each table has the columns run, x, value, low and high.
    """
    figure, axes = subplots(1, len(panels), figsize=(WIDTH + 3, 3.8), squeeze=False)
    looks = look(name for table in panels.values() for name in table["run"])
    for panel, ((x, y), table) in zip(axes[0], panels.items(), strict=True):
        for name, part in table.groupby("run", sort=False):
            colour, marker, line = looks[name]
            point = marker if len(part) == 1 else None
            panel.plot(part["x"], part["value"], color=colour, marker=point, linestyle=joined(part, line), label=name)
            panel.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
        panel.set(xlabel=x, ylabel=y)
    beside(axes[0][-1])
    return figure


def beside_people(table: pd.DataFrame, humans: pd.DataFrame):
    """Scores of runs in the sources that several people judged, with what one person scores as a line and a band.

    `table` has the columns source, run, value, low and high; `humans` has source, value, low and high.
    """
    humans = humans[humans["source"].isin(table["source"])]
    sources, runs = list(humans["source"]), list(dict.fromkeys(table["run"]))[::-1]
    height = 1.4 + 0.27 * len(runs)
    figure, panels = subplots(1, len(sources), figsize=(WIDTH + 1, height), sharey=True, squeeze=False)
    for panel, person in zip(panels[0], humans.itertuples(), strict=True):
        part = table[table["source"] == person.source]
        place = [runs.index(run) for run in part["run"]]
        panel.errorbar(part["value"], place, xerr=whiskers(part), fmt="o", color=PALETTE[0], capsize=2)
        if person.value == person.value:
            panel.axvline(person.value, color=PALETTE[1], label="one person")
            panel.axvspan(person.low, person.high, color=PALETTE[1], alpha=0.15, linewidth=0)
        panel.set(title=person.source, xlabel="macro-F1", yticks=range(len(runs)), yticklabels=runs)
    labelled = [found for panel in panels[0] if (found := panel.get_legend_handles_labels())[0]]
    if labelled:
        panels[0][-1].legend(*labelled[0], loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def rates(tables: dict[str, pd.DataFrame], xlabel: str):
    """Rates of groups with their intervals, a colour a run.

    Each table has the columns group, value, low and high.
    """
    names = sorted({name for table in tables.values() for name in table["group"]})[::-1]
    figure, panel = subplots(figsize=(WIDTH, 1.2 + 0.4 * len(names)))
    for number, (run, (colour, marker, _)) in enumerate(look(tables).items()):
        part = tables[run]
        place = np.array([names.index(name) for name in part["group"]]) + 0.2 * (len(tables) / 2 - number - 0.5)
        panel.errorbar(part["value"], place, xerr=whiskers(part), fmt=marker, color=colour, capsize=2, label=run)
    panel.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel)
    beside(panel)
    return figure
