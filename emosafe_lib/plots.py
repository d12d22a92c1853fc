"""Figures in one style, one function a figure.

Every function takes a tidy table, returns a matplotlib figure, and shows nothing that is not in that table, which is
saved as CSV beside the picture. Colours are Okabe and Ito's, which stay apart for the colour-blind; markers and line
styles repeat what colour says, so that a grey print is still readable.
"""

import itertools
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.pictures import shrink_png
from emosafe_lib.tables import write_csv

# Okabe & Ito (2008), "Color universal design": black last, because text and axes use it already.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
WIDTH = 7.0
LABEL_COLUMNS = 3
METRIC_TITLES = {"macro_f1": "pooled", "within_source_macro_f1": "within sources"}
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


def save(figure, table: pd.DataFrame, path, reading: str = "") -> None:
    """Write a figure as PNG, the numbers behind it as CSV and, if given, its reading as text, side by side.

    None of the files holds a time stamp, so that equal runs give equal files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    path.with_suffix(".png").write_bytes(shrink_png(drawn.getvalue()))
    write_csv(table, path.with_suffix(".csv"))
    if reading:
        path.with_suffix(".txt").write_text(reading + "\n", encoding="utf-8")


def show(figure, table: pd.DataFrame, path, reading: str) -> None:
    """Save a figure, then display it with its one-sentence reading beneath it.

    A notebook draws open figures at the end of a cell, which would put the sentence above its figure; so the figure is
    displayed here and closed.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Markdown, display

    save(figure, table, path, reading)
    display(figure)
    plt.close(figure)
    display(Markdown(reading))


def training_curves(table: pd.DataFrame):
    """Training and validation loss per epoch, one panel a task.

    `table` has the columns task, variant, seed, epoch, train_loss and validation_loss; hollow points and a dashed line
    are training, filled points and a solid one validation; the colour tells variants apart.
    """
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH, 3.6), squeeze=False)
    looks = look(table["variant"])
    for panel, task in zip(panels[0], tasks, strict=True):
        for (variant, seed), part in table[table["task"] == task].groupby(["variant", "seed"], sort=False):
            colour, marker, _ = looks[variant]
            name = variant or "all rows"
            name = f"{name}, seed {seed}"
            panel.plot(part["epoch"], part["validation_loss"], color=colour, marker=marker, label=name)
            hollow = {"color": colour, "marker": marker, "markerfacecolor": "white", "linestyle": "--"}
            panel.plot(part["epoch"], part["train_loss"], **hollow)
        panel.set(title=task, xlabel="epoch", ylabel="loss per known label")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        beneath(panel)
    figure.suptitle("filled, solid: validation; hollow, dashed: training", fontsize=10)
    return figure


def padding_comparison(table: pd.DataFrame):
    """Tokens per batch, text and padding stacked, for two ways to batch.

    `table` has the columns batching, batch, text and padding.
    """
    import matplotlib.pyplot as plt

    ways = list(dict.fromkeys(table["batching"]))
    figure, panels = plt.subplots(1, len(ways), figsize=(WIDTH + 2, 2.8), sharey=True, squeeze=False)
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
    import matplotlib.pyplot as plt
    import seaborn as sns

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(len(tasks), 1, figsize=(WIDTH + 2, 2.6 * len(tasks)), squeeze=False)
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
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH + 1, 4.4), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[(table["task"] == task) & (table["positives"] > 0)].sort_values("positives")
        for label, (colour, marker, line) in look(part["label"]).items():
            curve = part[part["label"] == label]
            panel.plot(curve["positives"], curve["f1"], color=colour, marker=marker, linestyle=line, label=label)
        panel.set(title=task, xlabel="training rows with the label", xscale="log", ylim=(0, 1))
        few_ticks(panel, part["positives"])
        beneath(panel)
    panels[0][0].set_ylabel("F1 on test rows")
    return figure


def memory_plan(table: pd.DataFrame, limit_gb: float = 2.0):
    """Gigabytes that inference needs by dtype, one panel row a model, the limit drawn as a line; logarithmic.

    `table` has the columns title, dtype, weights, cache and activations, in bytes.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    part = table.assign(gb=(table["weights"] + table["cache"] + table["activations"]) / 1e9)
    figure, panel = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * part["title"].nunique()))
    sns.barplot(part, y="title", x="gb", hue="dtype", ax=panel, errorbar=None)
    panel.axvline(limit_gb, color="black", linestyle="--", label=f"{limit_gb:g} GB")
    panel.set(xscale="log", xlabel="GB at inference, computed (weights, cache, activations)", ylabel="")
    beside(panel)
    return figure


def latency(table: pd.DataFrame):
    """Median milliseconds per message, with a line up to the 95th percentile, one panel a batch size.

    `table` has the columns model, dtype, batch, length, p50_ms and p95_ms.
    """
    import matplotlib.pyplot as plt

    batches = list(dict.fromkeys(table["batch"]))
    figure, panels = plt.subplots(1, len(batches), figsize=(WIDTH + 2, 3.6), squeeze=False, sharey=True)
    models = list(dict.fromkeys(table["model"]))
    for panel, batch in zip(panels[0], batches, strict=True):
        part = table[table["batch"] == batch]
        ways = look(f"{dtype}, {length} tokens" for dtype, length in zip(part["dtype"], part["length"], strict=True))
        for (dtype, length), one in part.groupby(["dtype", "length"], sort=False):
            colour, marker, _ = ways[f"{dtype}, {length} tokens"]
            places = [models.index(name) for name in one["model"]]
            middle, high = one["p50_ms"] / batch, one["p95_ms"] / batch
            above = [[0] * len(one), high - middle]
            panel.errorbar(places, middle, yerr=above, color=colour, marker=marker, label=f"{dtype}, {length} tokens")
        panel.set(
            title=f"batch {batch}", yscale="log", xlabel="", ylabel="ms per message" if batch == batches[0] else ""
        )
        panel.set_xticks(range(len(models)), models, rotation=30)
    beside(panels[0][-1])
    return figure


def beside(panel) -> None:
    """The legend to the right of a panel, where it can cover nothing."""
    panel.legend(title="", fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def beneath(panel) -> None:
    """The legend below a panel, for panels that differ in what they show."""
    panel.legend(title="", fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def few_ticks(panel, values) -> None:
    """At most four ticks in plain numbers on a logarithmic axis: by itself it crowds them where the range is narrow."""
    if len(values):
        ticks = sorted({int(float(f"{tick:.2g}")) for tick in np.geomspace(min(values), max(values), 4)})
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.set_xticks([], minor=True)


def slant(panel) -> None:
    """Turn long names below a panel, so that they do not run into each other."""
    panel.set_xticks(
        panel.get_xticks(), panel.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor", fontsize=8
    )


def data_sources(table: pd.DataFrame):
    """Rows of every source (index) under every label (columns), coloured by the share of the source's rows.

    A cell whose category was never asked of the source is NaN and stays white.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    shares = table.div(table["rows"], axis=0).drop(columns="rows")
    counts = table.drop(columns="rows").map(lambda n: "" if pd.isna(n) else f"{int(n)}")
    figure, panel = plt.subplots(figsize=(WIDTH + 2, 2.4 + 0.32 * len(table)))
    sns.heatmap(shares, annot=counts, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, annot_kws={"size": 7}, ax=panel)
    panel.set(title="Rows of every source under every label (colour: share of the source)", xlabel="", ylabel="")
    panel.grid(False)  # a line through a white cell would look like a value
    panel.set_yticklabels(panel.get_yticklabels(), rotation=0)
    slant(panel)
    return figure


def data_cooccurrence(table: pd.DataFrame):
    """How many rows carry two categories at once; `table` is square, its diagonal counts the category itself."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, panel = plt.subplots(figsize=(WIDTH, 4.6))
    sns.heatmap(table, annot=True, fmt="d", cmap="Blues", cbar=False, annot_kws={"size": 8}, ax=panel)
    panel.set(title="Rows with both categories", xlabel="", ylabel="")
    slant(panel)
    return figure


def data_lengths(table: pd.DataFrame):
    """Distribution of words a row, one box a level; `table` has the columns safety and words."""
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib import ticker

    figure, panel = plt.subplots(figsize=(WIDTH, 2.8))
    style = {"dodge": False, "legend": False, "fliersize": 1, "linewidth": 0.8}
    sns.boxplot(table, x="words", y="safety", hue="safety", ax=panel, **style)
    panel.set(title="Length by level", xscale="log", xlabel="words", ylabel="")
    panel.xaxis.set_major_locator(ticker.FixedLocator([1, 3, 10, 30, 100, 300, 1000, 3000]))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.xaxis.set_major_formatter(ticker.ScalarFormatter())
    return figure


def data_duplicates(table: pd.DataFrame):
    """Texts that two sources share; `table` has the columns pair and texts."""
    import matplotlib.pyplot as plt

    largest = table.sort_values("texts").tail(12)
    figure, panel = plt.subplots(figsize=(WIDTH, 1.2 + 0.26 * max(len(largest), 1)))
    bars = panel.barh(largest["pair"], largest["texts"], color=PALETTE[0])
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.set(title="Texts that two sources share", xlabel="texts", xscale="symlog")
    return figure


def data_splits(table: pd.DataFrame):
    """Share of each label's rows in each split; `table` has the columns label, split and share."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, panel = plt.subplots(figsize=(WIDTH, 3.6))
    order = ["train", "validation", "test"]
    sns.barplot(table, y="label", x="share", hue="split", hue_order=order, errorbar=None, ax=panel)
    panel.set(title="Where the rows of each label lie", xlabel="share of the label's rows", ylabel="", xlim=(0, 1))
    beside(panel)
    return figure


def data_shortcuts(table: pd.DataFrame):
    """What the source's name, the length and the words predict; one panel a metric, one bar a merge and reader.

    `table` has the columns merge, reader, metric, label and value; undefined scores leave a gap.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    table = table.assign(bar=table["reader"].str.replace("_", " ") + ", " + table["merge"])
    parts = [part for _, part in table.groupby("metric", sort=False)]
    heights = [1 + part["label"].nunique() for part in parts]
    figure, panels = plt.subplots(
        len(parts), 1, figsize=(WIDTH + 1, 0.75 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for panel, part in zip(panels[:, 0], parts, strict=True):
        sns.barplot(part, y="label", x="value", hue="bar", errorbar=None, ax=panel, legend=panel is panels[0, 0])
        panel.set(title=part["metric"].iloc[0], xlim=(0, 1), xlabel="", ylabel="")
    panels[0, 0].legend(title="", fontsize=7, loc="lower right")
    return figure


def whiskers(table: pd.DataFrame):
    """Lengths of error bars below and above `value`, array (2, n); zero where an interval is undefined."""
    below, above = table["value"] - table["low"], table["high"] - table["value"]
    return np.nan_to_num(np.clip([below, above], 0, None))


def short_number(value: float) -> str:
    """A count for an axis: 463k, 8.2M, 70.6B, or a power of ten beyond.

    >>> short_number(8_158_304)
    '8.2M'
    """
    for unit, word in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if unit <= value < 1000 * unit:
            return f"{value / unit:.3g}{word}" if value >= 100 * unit else f"{value / unit:.2g}{word}"
    return f"{value:.2g}"


def score_by_size(table: pd.DataFrame, references: pd.DataFrame, curves: pd.DataFrame, x="parameters", label=""):
    """Score against size or cost on a logarithmic axis: a panel a metric and task, a line a setting, bars for intervals.

    `table` has the columns task, metric, setting, model, value, low, high and `x`; `references` has task, metric, model
    and value and is drawn as horizontal lines. Points are joined to guide the eye. A band is drawn only for `curves`
    (task, metric, setting, parameters, low, high), which hold the fits that are honest, within the fitted sizes.
    """
    import matplotlib.pyplot as plt

    tasks, metrics = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["metric"]))
    shape = {"nrows": max(1, len(metrics)), "ncols": max(1, len(tasks)), "sharey": True, "squeeze": False}
    figure, panels = plt.subplots(figsize=(WIDTH + 3, 0.8 + 3.2 * shape["nrows"]), **shape)
    looks = look(table["setting"])
    for row, metric in zip(panels, metrics, strict=False):
        for panel, task in zip(row, tasks, strict=False):
            here = [part[(part["task"] == task) & (part["metric"] == metric)] for part in (table, references, curves)]
            size_panel(panel, *here, looks, x)
            panel.set(title=f"{task}, {METRIC_TITLES.get(metric, metric)}", xlabel=label or x)
        row[0].set_ylabel("macro-F1")
    beside(panels[0][-1])
    return figure


def size_panel(panel, table: pd.DataFrame, references: pd.DataFrame, curves: pd.DataFrame, looks: dict, x: str) -> None:
    """One panel of `score_by_size`: a task and metric."""
    for name, (colour, marker, line) in looks.items():
        part = table[table["setting"] == name].sort_values(x)
        marks = {"color": colour, "marker": marker, "linestyle": line, "capsize": 3, "label": name}
        panel.errorbar(part[x], part["value"], yerr=whiskers(part), **marks)
        fit = curves[curves["setting"] == name]
        panel.fill_between(fit["parameters"], fit["low"], fit["high"], color=colour, alpha=0.15, linewidth=0)
    for number, row in enumerate(references.itertuples()):
        panel.axhline(row.value, color="#555555", linewidth=1, linestyle=LINES[number % 4], label=row.model)
    ticks = sorted(set(table[x]))
    panel.set(xscale="log")
    panel.set_xticks(ticks, [short_number(tick) for tick in ticks])
    panel.set_xticks([], minor=True)


def score_by_label(table: pd.DataFrame):
    """F1 of every level and category against size, one panel a label, one line a setting, on a common scale.

    `table` has the columns task, category, setting, parameters, value, low and high.
    """
    import matplotlib.pyplot as plt

    labels = list(dict.fromkeys(table["category"]))
    rows = max(1, -(-len(labels) // LABEL_COLUMNS))
    size = {"figsize": (WIDTH + 3, 0.6 + 2.3 * rows), "sharex": True, "sharey": True, "squeeze": False}
    figure, panels = plt.subplots(rows, LABEL_COLUMNS, **size)
    looks, nothing = look(table["setting"]), table.iloc[:0]
    for panel, label in zip(panels.flat, labels, strict=False):
        size_panel(panel, table[table["category"] == label], nothing, nothing, looks, "parameters")
        panel.set_title(label.replace("_", " "), fontsize=9)
    for panel in panels.flat[len(labels) :]:
        panel.set_visible(False)
    figure.supxlabel("parameters", fontsize=10)
    figure.supylabel("F1", fontsize=10)
    beside(panels[0][-1])
    return figure


def budget_curves(table: pd.DataFrame):
    """Macro-F1 after fine-tuning against the number of training rows, one panel a task, one line a model.

    `table` has the columns task, model, rows, value, low and high.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, max(1, len(tasks)), figsize=(WIDTH + 3, 3.8), sharey=True, squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=False):
        for name, (colour, marker, line) in look(table["model"]).items():
            part = table[(table["task"] == task) & (table["model"] == name)].sort_values("rows")
            marks = {"color": colour, "marker": marker, "linestyle": line, "capsize": 3, "label": name}
            panel.errorbar(part["rows"], part["value"], yerr=whiskers(part), **marks)
        ticks = sorted(set(table["rows"]))
        panel.set(title=task, xlabel="training rows", xscale="log")
        panel.set_xticks(ticks, [f"{int(tick)}" for tick in ticks])
        panel.set_xticks([], minor=True)
    panels[0][0].set_ylabel("macro-F1, fine-tuned")
    beside(panels[0][-1])
    return figure


def pooled_and_within(table: pd.DataFrame):
    """Pooled macro-F1 beside macro-F1 within sources, one line a model and setting, one panel a task.

    `table` has the columns task, run, metric, value, low and high.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    height = 1.2 + 0.27 * table["run"].nunique()
    figure, panels = plt.subplots(1, max(1, len(tasks)), figsize=(WIDTH + 2, height), sharey=True, squeeze=False)
    runs = list(dict.fromkeys(table["run"]))[::-1]
    for panel, task in zip(panels[0], tasks, strict=False):
        for shift, (name, (colour, marker, _)) in zip((0.15, -0.15), look(table["metric"]).items(), strict=False):
            part = table[(table["task"] == task) & (table["metric"] == name)]
            place = [runs.index(run) + shift for run in part["run"]]
            title = METRIC_TITLES.get(name, name)
            panel.errorbar(part["value"], place, xerr=whiskers(part), fmt=marker, color=colour, capsize=2, label=title)
        panel.set(title=task, xlabel="macro-F1", yticks=range(len(runs)), yticklabels=runs)
    panels[0][-1].legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return figure


def differences(table: pd.DataFrame, meaning: str):
    """Paired differences with their intervals, zero marked; a filled point where Holm's test finds a difference.

    `table` has the columns label, value, low, high and clear (bool); `meaning` says what is subtracted from what.
    """
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(WIDTH + 1, 1.2 + 0.27 * len(table)))
    place = np.arange(len(table))[::-1]
    panel.axvline(0, color="black", linewidth=1)
    panel.errorbar(table["value"], place, xerr=whiskers(table), fmt="none", ecolor=PALETTE[0], capsize=2)
    for clear, face in ((True, PALETTE[0]), (False, "white")):
        here = (table["clear"] == clear).to_numpy()
        word = "clear after Holm" if clear else "not clear"
        panel.scatter(table["value"][here], place[here], color=face, edgecolor=PALETTE[0], zorder=3, label=word)
    panel.set(yticks=place, yticklabels=table["label"], xlabel=f"difference in macro-F1: {meaning}")
    panel.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


def gains_by_label(table: pd.DataFrame):
    """What the largest model adds to the smallest, by label and setting, one panel a task.

    `table` has the columns task, setting, category, value, low and high; an empty category is the macro average.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, max(1, len(tasks)), figsize=(WIDTH + 3, 4.2), squeeze=False)
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
    import matplotlib.pyplot as plt

    runs = list(dict.fromkeys(table["run"]))[::-1]
    figure, panel = plt.subplots(figsize=(WIDTH, 1.2 + 0.35 * len(runs)))
    for number, (name, (colour, _, line)) in enumerate(look(table["kind"]).items()):
        part = table[table["kind"] == name]
        place = [runs.index(run) + 0.2 * (1 - number) for run in part["run"]]
        panel.hlines(place, part["low"], part["high"], color=colour, linestyle=line, linewidth=4, label=name)
    panel.set(yticks=range(len(runs)), yticklabels=runs, xlabel="macro-F1")
    panel.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return figure


def sources_apart(table: pd.DataFrame):
    """Macro-F1 of each source, one marker a run.

    `table` has the columns source, run and value.
    """
    import matplotlib.pyplot as plt

    order = table.groupby("source")["value"].mean().sort_values().index.tolist()
    figure, panel = plt.subplots(figsize=(WIDTH, 1.6 + 0.27 * len(order)))
    for name, (colour, marker, _) in look(table["run"]).items():
        part = table[table["run"] == name]
        panel.scatter(part["value"], [order.index(s) for s in part["source"]], color=colour, marker=marker, label=name)
    panel.set(yticks=range(len(order)), yticklabels=order, xlabel="macro-F1 in this source", xlim=(0, 1))
    panel.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return figure


def reliability_diagram(table: pd.DataFrame):
    """How often an answer of some confidence is right, one panel a task, the diagonal being perfect calibration.

    `table` has the columns task, way, confidence, accuracy and rows; a point's size grows with its rows.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH, 3.6), sharey=True, squeeze=False)
    looks = look(table["way"])
    for panel, task in zip(panels[0], tasks, strict=True):
        panel.plot([0, 1], [0, 1], color=PALETTE[-1], linewidth=1)
        for way, part in table[table["task"] == task].groupby("way", sort=False):
            colour, marker, line = looks[way]
            panel.plot(part["confidence"], part["accuracy"], color=colour, linestyle=line, label=way)
            sizes = 15 + 120 * part["rows"] / part["rows"].sum()
            panel.scatter(part["confidence"], part["accuracy"], s=sizes, color=colour, marker=marker, clip_on=False)
        panel.set(title=task, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        panel.legend()
    panels[0][0].set_ylabel("share that is right")
    return figure


def prompt_spread(table: pd.DataFrame):
    """Macro-F1 of every wording, one row a setting, one panel a task; the bar spans lowest to highest wording.

    `table` has the columns task, setting, variant and macro_f1.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH, 2.4), sharey=True, squeeze=False)
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
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(WIDTH, 3.2))
    for way, (colour, marker, line) in look(table["way"]).items():
        part = table[table["way"] == way]
        panel.plot(part["prefix_tokens"], part["seconds"], color=colour, marker=marker, linestyle=line, label=way)
    panel.set(xlabel="tokens in the constant prefix", ylabel="seconds per message", ylim=(0, None))
    panel.legend()
    return figure


def augmentation_outcomes(table: pd.DataFrame):
    """What became of the requests of an augmentation; `table` has the columns outcome and requests."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(WIDTH, 1.0 + 0.3 * len(table)))
    colours = [PALETTE[2] if name == "accepted" else PALETTE[1] for name in table["outcome"]]
    bars = panel.barh(table["outcome"], table["requests"], color=colours)
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.set(title="What became of the requests", xlabel="requests", xscale="symlog")
    panel.invert_yaxis()
    return figure


def augmentation_shift(table: pd.DataFrame):
    """Rows by level of the parent (index) and of the re-interpretation (columns)."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, panel = plt.subplots(figsize=(WIDTH * 0.7, 2.6))
    sns.heatmap(table, annot=True, fmt="d", cmap="Blues", cbar=False, ax=panel)
    panel.set(title="Where re-interpretation moves a message", xlabel="its level", ylabel="the parent's level")
    return figure


def augmentation_similarity(table: pd.DataFrame):
    """Cosine similarities of text pairs, one curve a kind; `table` has the columns kind and similarity."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    figure, panel = plt.subplots(figsize=(WIDTH, 2.8))
    sns.ecdfplot(table, x="similarity", hue="kind", ax=panel)
    for line, style_of_line in zip(panel.get_lines()[::-1], itertools.cycle(LINES)):
        line.set_linestyle(style_of_line)
    panel.set(title="How alike two texts are", xlabel="cosine similarity of MiniLM vectors", ylabel="share of pairs")
    return figure


def ladder_curves(table: pd.DataFrame):
    """Training loss against tokens read, one line a rung; `table` has the columns rung, tokens and loss."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(WIDTH, 3.8))
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
    import matplotlib.pyplot as plt

    texts = list(dict.fromkeys(table["text"]))
    figure, panels = plt.subplots(1, len(texts), figsize=(WIDTH + 1, 3.4), squeeze=False)
    for panel, text in zip(panels[0], texts, strict=True):
        part = table[table["text"] == text]
        panel.plot(part.groupby("parameters")["loss"].mean(), color=PALETTE[0])
        panel.scatter(part["parameters"], part["loss"], color=PALETTE[0], zorder=3)
        ticks = sorted(set(part["parameters"]))
        panel.set(xscale="log", xlabel="parameters outside the embedding", title=text)
        panel.set_xticks(ticks, [short_number(tick) for tick in ticks])
        panel.set_xticks([], minor=True)
    panels[0][0].set_ylabel("held-out loss (nats a token)")
    return figure


def ladder_zero_shot(table: pd.DataFrame):
    """Zero-shot score against size with intervals, one panel a task, chance as a dashed line.

    `table` has the columns task, metric, parameters, value, low, high and chance.
    """
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(table["task"]))
    figure, panels = plt.subplots(1, len(tasks), figsize=(WIDTH + 1, 3.4), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        part = table[table["task"] == task].sort_values("parameters")
        marks = {"color": PALETTE[1], "marker": MARKERS[1], "capsize": 3}
        panel.errorbar(part["parameters"], part["value"], yerr=whiskers(part), **marks)
        panel.plot(part["parameters"], part["chance"], color="#555555", linestyle="--", label="chance")
        panel.set(xscale="log", xlabel="parameters outside the embedding", title=task, ylabel=part["metric"].iloc[0])
        panel.set_xticks(list(part["parameters"]), [short_number(tick) for tick in part["parameters"]])
        panel.set_xticks([], minor=True)
    panels[0][0].legend()
    return figure
