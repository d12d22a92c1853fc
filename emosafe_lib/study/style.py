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

from emosafe_lib.study import tables
from emosafe_lib.study.csv_files import write_csv
from emosafe_lib.study.optional import optional
from emosafe_lib.study.pictures import shrink_png

# Okabe & Ito (2008), "Color universal design": black last, because text and axes use it already.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
WIDTH = 7.0
LABEL_COLUMNS = 3
DPI = 120
RC = {
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
}


def apply() -> None:
    """Set the package's one style for matplotlib and seaborn; call it once at the top of a notebook.

    Figures are optional to a stage, and their style too: where there is no matplotlib that works, it says so and ends.
    """
    tables.show_whole_cells()
    with optional("figure", "style of all figures"):
        import seaborn as sns

        sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=RC)
        tell_what_figures_show()


def tell_what_figures_show() -> None:
    """Let the kernel send a description with every figure, for those who cannot see it on the page."""
    import matplotlib.pyplot as plt
    from IPython import get_ipython
    from matplotlib.figure import Figure

    shell = get_ipython()
    if shell is None:
        return
    plt.switch_backend(plt.get_backend())  # loads the backend, which sets its own way to draw a figure
    pictures = shell.display_formatter.formatters["image/png"]
    draw = pictures.lookup_by_type(Figure)
    if not hasattr(draw, "describes"):

        def described(figure):
            return draw(figure), {"alt": describe(figure)}

        described.describes = True
        pictures.for_type(Figure, described)


def describe(figure) -> str:
    """What a figure shows, in words: its axes, its panels and its legend, as they stand in it."""
    panels = [panel for panel in figure.axes if panel.get_visible()]
    titles = [panel.get_title(side) for panel in panels for side in ("left", "center")]
    across = [figure.get_supxlabel(), *(panel.get_xlabel() for panel in panels)]
    upwards = [figure.get_supylabel(), *(panel.get_ylabel() for panel in panels)]
    named = [text.get_text() for panel in panels if panel.get_legend() for text in panel.get_legend().get_texts()]
    words = (" and ".join(distinct(upwards)), " and ".join(distinct(across)))
    said = [" against ".join(filter(None, words)), "; ".join(distinct(titles)), ", ".join(distinct(named))]
    heads = ("", "panels: ", "legend: ")
    return "; ".join(head + text for head, text in zip(heads, said, strict=True) if text)


def distinct(texts) -> list[str]:
    """Texts without empty and repeated ones, on one line each."""
    return list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))


def subplots(rows: int = 1, columns: int = 1, **options):
    """A figure and its panels, by `matplotlib.pyplot.subplots`: loaded by whoever draws, since figures are optional."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, **options)


def look(names) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line style per name, in order: what stands for a model in one figure does so in the next.

    >>> look(["nano-1", "nano-2"])["nano-1"][1]
    'o'
    """
    cycles = zip(itertools.cycle(PALETTE), itertools.cycle(MARKERS), itertools.cycle(LINES), strict=True)
    return dict(zip(dict.fromkeys(names), cycles, strict=False))


def save_figure(figure, table: pd.DataFrame, path, reading: str = "") -> None:
    """Write a figure as PNG, the numbers behind it as CSV and, if given, its reading as text, side by side.

    None of the files holds a time stamp, so that equal runs give equal files. The picture comes last: a font or a
    backend that fails must not cost the numbers.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(table, path.with_suffix(".csv"))
    if reading:
        path.with_suffix(".txt").write_text(reading + "\n", encoding="utf-8")
    drawn = BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    path.with_suffix(".png").write_bytes(shrink_png(drawn.getvalue()))


def show(figure, table: pd.DataFrame, path, reading: str) -> None:
    """Save a figure, then display it with its one-sentence reading beneath it.

    A notebook draws open figures at the end of a cell, which would put the sentence above its figure; so the figure is
    displayed here and closed.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Markdown, display

    save_figure(figure, table, path, reading)
    display(figure)
    plt.close(figure)
    display(Markdown(reading))


def beside(panel) -> None:
    """The legend to the right of a panel, where it can cover nothing."""
    panel.legend(title="", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def beneath(panel) -> None:
    """The legend below a panel, for panels that differ in what they show."""
    panel.legend(title="", loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


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


def joined(table: pd.DataFrame, line: str) -> str:
    """The line style of a curve: none for a single point, which would promise a curve in the legend."""
    return line if len(table) > 1 else "none"


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
