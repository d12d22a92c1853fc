"""Figures in one style, one function a figure.

Every function takes a tidy table, returns a matplotlib figure, and shows nothing that is not in that table: the table is
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
