"""The figure of notebook 01 that is more than one seaborn call: what source, length and words predict."""

import pandas as pd

from emosafe_lib.study.style import WIDTH, subplots


def data_shortcuts(table: pd.DataFrame):
    """What the source's name, the length and the words predict; one panel a metric, one bar a merge and reader.

    `table` has the columns merge, reader, metric, label and value; undefined scores leave a gap.
    """
    import seaborn as sns

    table = table.assign(bar=table["reader"].str.replace("_", " ") + ", " + table["merge"])
    parts = [part for _, part in table.groupby("metric", sort=False)]
    heights = [1 + part["label"].nunique() for part in parts]
    figure, panels = subplots(
        len(parts), 1, figsize=(WIDTH + 1, 0.75 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for panel, part in zip(panels[:, 0], parts, strict=True):
        sns.barplot(part, y="label", x="value", hue="bar", errorbar=None, ax=panel, legend=panel is panels[0, 0])
        panel.set(title=part["metric"].iloc[0], xlim=(0, 1), xlabel="", ylabel="")
    panels[0, 0].legend(title="", loc="lower right")
    return figure
