"""The figures of notebook 01: sources and levels, categories that meet, lengths, duplicates, splits and shortcuts."""

import pandas as pd

from emosafe_lib.study.style import PALETTE, WIDTH, beside, slant


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
