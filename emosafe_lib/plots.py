"""Figures in one style, one function a figure.

Every function takes a tidy table, returns a matplotlib figure, and shows nothing that is not in that table, which is
saved as CSV beside the picture. Colours are Okabe and Ito's, which stay apart for the colour-blind; markers and line
styles repeat what colour says, so that a grey print is still readable.
"""

import itertools
from pathlib import Path

import pandas as pd

# Okabe & Ito (2008), "Color universal design": black last, because text and axes use it already.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
WIDTH = 7.0
DPI = 120


def style() -> None:
    """Set the package's one style for matplotlib and seaborn; call it once at the top of a notebook."""
    import seaborn as sns

    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=PALETTE,
        rc={
            "figure.figsize": (WIDTH, 4.0),
            "figure.dpi": DPI,
            "savefig.dpi": DPI,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "grid.color": "#DDDDDD",
            "legend.frameon": False,
            "legend.fontsize": 9,
            "font.size": 10,
        },
    )


def look(names) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line style per name, in order: what stands for a model in one figure does so in the next.

    >>> look(["nano-1", "nano-2"])["nano-1"][1]
    'o'
    """
    cycles = zip(itertools.cycle(PALETTE), itertools.cycle(MARKERS), itertools.cycle(LINES), strict=True)
    return dict(zip(dict.fromkeys(names), cycles, strict=False))


def save(figure, table: pd.DataFrame, path) -> None:
    """Write a figure as PNG and the numbers behind it as CSV beside it, without a time stamp in either."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), metadata={"Software": None})
    table.to_csv(path.with_suffix(".csv"), index=False, lineterminator="\n")


def training_curves(table: pd.DataFrame):
    """Training and validation loss per epoch, one panel a task.

    `table` has the columns task, variant, seed, epoch, train_loss and validation_loss; the line style tells training
    (dashed) from validation (solid), the colour tells variants apart.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH, 3.2), squeeze=False)
    looks = look(table["variant"])
    for panel, task in zip(panels[0], tasks, strict=True):
        for (variant, seed), part in table[table["task"] == task].groupby(["variant", "seed"], sort=False):
            colour, marker, _ = looks[variant]
            name = variant or "all rows"
            name = f"{name}, seed {seed}"
            panel.plot(part["epoch"], part["validation_loss"], color=colour, marker=marker, label=name)
            panel.plot(part["epoch"], part["train_loss"], color=colour, linestyle="--")
        panel.set(title=task, xlabel="epoch", ylabel="loss per known label")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.legend()
    figure.suptitle("solid: validation, dashed: training")
    return figure


def padding_comparison(table: pd.DataFrame):
    """Tokens per batch, text and padding stacked, for two ways to batch.

    `table` has the columns batching, batch, text and padding.
    """
    import matplotlib.pyplot as plt

    ways = list(dict.fromkeys(table["batching"]))
    figure, panels = plt.subplots(1, len(ways), figsize=(WIDTH, 2.8), sharey=True, squeeze=False)
    for panel, way in zip(panels[0], ways, strict=True):
        part = table[table["batching"] == way]
        panel.bar(part["batch"], part["text"], width=1.0, color=PALETTE[0], label="text")
        panel.bar(part["batch"], part["padding"], width=1.0, bottom=part["text"], color=PALETTE[4], label="padding")
        share = part["padding"].sum() / (part["padding"] + part["text"]).sum()
        panel.set(title=f"{way}: {share:.1%} padding", xlabel="batch")
    panels[0][0].set_ylabel("tokens")
    panels[0][-1].legend()
    return figure


def label_bars(table: pd.DataFrame):
    """F1 of every label, one panel a task, one bar a way of learning.

    `table` has the columns task, label, way and f1; undefined scores leave a gap.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(len(tasks), 1, figsize=(WIDTH, 2.6 * len(tasks)), squeeze=False)
    for panel, task in zip(panels[:, 0], tasks, strict=True):
        part = table[table["task"] == task]
        sns.barplot(part, y="label", x="f1", hue="way", ax=panel, errorbar=None)
        panel.set(title=task, xlabel="F1 on test rows", ylabel="", xlim=(0, 1))
        panel.legend(loc="lower right", title="")
    return figure


def learning_curve(table: pd.DataFrame):
    """F1 of a label against the number of training rows that have it, on a logarithmic axis, one line a label.

    `table` has the columns task, label, positives and f1; rows with no positive are left out.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH + 1, 3.8), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[(table["task"] == task) & (table["positives"] > 0)].sort_values("positives")
        for label, (colour, marker, line) in look(part["label"]).items():
            curve = part[part["label"] == label]
            panel.plot(curve["positives"], curve["f1"], color=colour, marker=marker, linestyle=line, label=label)
        panel.set(title=task, xlabel="training rows with the label", xscale="log", ylim=(0, 1))
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("F1 on test rows")
    return figure
