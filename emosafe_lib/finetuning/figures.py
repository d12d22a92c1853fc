"""The figures of notebook 04: losses by epoch, padding saved, scores by label, and what more rows give."""

import pandas as pd

from emosafe_lib.study.style import PALETTE, WIDTH, beneath, beside, few_ticks, joined, look, subplots


def training_curves(table: pd.DataFrame):
    """Training and validation loss per epoch, one panel a task.

    `table` has the columns task, variant, seed, epoch, train_loss and validation_loss; hollow points and a dashed line
    are training, filled points and a solid one validation; the colour tells variants apart.
    """
    from matplotlib import ticker

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, len(tasks), figsize=(WIDTH, 3.6), squeeze=False)
    looks = look(table["variant"])
    for panel, task in zip(panels[0], tasks, strict=True):
        for (variant, seed), part in table[table["task"] == task].groupby(["variant", "seed"], sort=False):
            colour, marker, _ = looks[variant]
            name = variant or "all its rows"
            marks = {"color": colour, "marker": marker}
            solid, dashed = (joined(part, line) for line in ("-", "--"))
            panel.plot(part["epoch"], part["validation_loss"], linestyle=solid, label=f"{name}, seed {seed}", **marks)
            panel.plot(part["epoch"], part["train_loss"], linestyle=dashed, markerfacecolor="white", **marks)
        panel.set(title=task, xlabel="epoch", ylabel="loss")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        beneath(panel)
    figure.suptitle("filled, solid: validation; hollow, dashed: training", fontsize=10)
    return figure


def padding_comparison(table: pd.DataFrame):
    """Tokens per batch, text and padding stacked, for two ways to batch.

    `table` has the columns batching, batch, text and padding.
    """
    ways = list(dict.fromkeys(table["batching"]))
    figure, panels = subplots(1, len(ways), figsize=(WIDTH + 2, 2.8), sharey=True, squeeze=False)
    for panel, way in zip(panels[0], ways, strict=True):
        part = table[table["batching"] == way]
        panel.bar(part["batch"], part["text"], width=1.0, color=PALETTE[0], label="text")
        panel.bar(part["batch"], part["padding"], width=1.0, bottom=part["text"], color=PALETTE[4], label="padding")
        share = part["padding"].sum() / (part["padding"] + part["text"]).sum()
        panel.set(title=f"{way}: {share:.1%} padding", xlabel="batch")
    panels[0][0].set_ylabel("tokens")
    beside(panels[0][-1])
    return figure


def label_bars(table: pd.DataFrame):
    """F1 of every label, one panel a task, one bar a way of learning.

    `table` has the columns task, label, way and f1; undefined scores leave a gap.
    """
    import seaborn as sns

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(len(tasks), 1, figsize=(WIDTH + 2, 2.6 * len(tasks)), squeeze=False)
    for panel, task in zip(panels[:, 0], tasks, strict=True):
        part = table[table["task"] == task]
        sns.barplot(part, y="label", x="f1", hue="way", ax=panel, errorbar=None)
        panel.set(title=task, xlabel="F1 on test rows", ylabel="", xlim=(0, 1))
        beside(panel)
    return figure


def learning_curve(table: pd.DataFrame):
    """F1 of a label against the number of training rows that have it, on a logarithmic axis, one line a label.

    `table` has the columns task, label, positives and f1; rows with no positive are left out.
    """
    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = subplots(1, len(tasks), figsize=(WIDTH + 1, 4.4), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[(table["task"] == task) & (table["positives"] > 0)].sort_values("positives")
        for label, (colour, marker, line) in look(part["label"]).items():
            curve = part[part["label"] == label]
            marks = {"color": colour, "marker": marker, "linestyle": joined(curve, line)}
            panel.plot(curve["positives"], curve["f1"], label=label, **marks)
        panel.set(title=task, xlabel="training rows with the label (log scale)", xscale="log", ylim=(0, 1))
        few_ticks(panel, part["positives"])
        beneath(panel)
    panels[0][0].set_ylabel("F1 on test rows")
    return figure
