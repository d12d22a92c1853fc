"""The figures of notebook 06: memory by size and precision, and the time that a message takes."""

import pandas as pd

from emosafe_lib.study.style import WIDTH, beside, look, subplots

STEP = 0.07  # side by side, so that no point covers another


def memory_plan(table: pd.DataFrame, limit_gb: float = 2.0):
    """Gigabytes that inference needs by dtype, one panel row a model, the limit drawn as a line; logarithmic.

    `table` has the columns title, dtype, weights, cache and activations, in bytes.
    """
    import seaborn as sns

    part = table.assign(gb=(table["weights"] + table["cache"] + table["activations"]) / 1e9)
    figure, panel = subplots(figsize=(WIDTH, 0.9 + 0.42 * part["title"].nunique()))
    sns.barplot(part, y="title", x="gb", hue="dtype", ax=panel, errorbar=None)
    panel.axvline(limit_gb, color="black", linestyle="--", label=f"{limit_gb:g} GB")
    panel.set(xscale="log", xlabel="GB at inference, computed: weights, cache, activations (log scale)", ylabel="")
    panel.xaxis.set_major_formatter("{x:g}")
    beside(panel)
    return figure


def latency(table: pd.DataFrame):
    """Median milliseconds per message, with a line up to the 95th percentile, one panel a batch size; a colour is a dtype
    and a marker a length.

    `table` has the columns model, dtype, batch, length, p50_ms and p95_ms.
    """
    batches = list(dict.fromkeys(table["batch"]))
    figure, panels = subplots(1, len(batches), figsize=(WIDTH + 2, 3.6), squeeze=False, sharey=True)
    models = list(dict.fromkeys(table["model"]))
    colours, markers = look(table["dtype"]), look(table["length"])
    for panel, batch in zip(panels[0], batches, strict=True):
        part = table[table["batch"] == batch]
        for number, ((dtype, length), one) in enumerate(part.groupby(["dtype", "length"], sort=False)):
            colour, marker = colours[dtype][0], markers[length][1]
            places = [models.index(name) + STEP * number for name in one["model"]]
            middle, high = one["p50_ms"] / batch, one["p95_ms"] / batch
            above = [[0] * len(one), high - middle]
            panel.errorbar(places, middle, above, fmt=marker, color=colour, label=f"{dtype}, {length} tokens")
        panel.set(
            title=f"batch {batch}",
            yscale="log",
            xlabel="",
            ylabel="ms per message (log scale)" if batch == batches[0] else "",
        )
        panel.set_xticks(range(len(models)), models, rotation=30)
        panel.yaxis.set_major_formatter("{x:g}")
    beside(panels[0][-1])
    return figure
