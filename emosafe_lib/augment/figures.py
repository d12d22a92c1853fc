"""The figures of notebook 02 that are more than one seaborn call: what became of the replies, how alike texts are."""

import itertools

import pandas as pd

from emosafe_lib.study.style import LINES, PALETTE, WIDTH, subplots


def augmentation_outcomes(table: pd.DataFrame):
    """What became of the requests of an augmentation; `table` has the columns outcome and requests."""
    figure, panel = subplots(figsize=(WIDTH, 1.0 + 0.3 * len(table)))
    colours = [PALETTE[2] if name == "accepted" else PALETTE[1] for name in table["outcome"]]
    bars = panel.barh(table["outcome"], table["requests"], color=colours)
    panel.bar_label(bars, padding=3, fontsize=8)
    panel.set(title="What became of the requests", xlabel="requests (log scale)", xscale="symlog")
    panel.invert_yaxis()
    return figure


def augmentation_similarity(table: pd.DataFrame):
    """Cosine similarities of text pairs, one curve a kind; `table` has the columns kind and similarity."""
    import seaborn as sns

    figure, panel = subplots(figsize=(WIDTH, 2.8))
    sns.ecdfplot(table, x="similarity", hue="kind", ax=panel)
    for line, style_of_line in zip(panel.get_lines()[::-1], itertools.cycle(LINES)):
        line.set_linestyle(style_of_line)
    panel.set(title="How alike two texts are", xlabel="cosine similarity of MiniLM vectors", ylabel="share of pairs")
    return figure
