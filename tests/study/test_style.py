"""A figure is described in words for those who cannot see it, and a notebook's kernel sends the words along."""

import IPython
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from emosafe_lib.evaluation import figures
from emosafe_lib.study import style

POINTS = {"task": "safety", "metric": "macro_f1", "ladder": "nano", "low": 0.2, "high": 0.4}
RUNS = [("zero-shot", 100, 0.3), ("zero-shot", 1000, 0.4), ("fine-tuned", 100, 0.5)]
REFERENCE = {"task": "safety", "metric": "macro_f1", "model": "minilm", "setting": "fine-tuned", "value": 0.6}


@pytest.fixture
def figure():
    table = pd.DataFrame([POINTS | {"setting": s, "parameters": n, "value": v} for s, n, v in RUNS])
    no_fits = pd.DataFrame(columns=["task", "metric", "setting", "ladder", "parameters", "low", "high"], dtype=float)
    yield figures.score_by_size(table, pd.DataFrame([REFERENCE]), no_fits)
    plt.close("all")


def test_a_figure_is_described_by_its_axes_panels_and_legend(figure):
    words = "macro-F1 against parameters (log scale); panels: safety, pooled; legend: "
    assert style.describe(figure) == words + "minilm, fine-tuned, zero-shot, fine-tuned"
    assert style.describe(Figure()) == ""


def test_a_curve_of_a_single_point_is_a_point():
    table = pd.DataFrame({"run": ["a"], "x": [1], "value": [2], "low": [1], "high": [3]})
    (line,) = figures.curves({("x", "y"): table}).axes[0].lines
    assert line.get_linestyle() == "None" and line.get_marker() not in ("None", None, "")


def test_rates_and_people_are_drawn_from_their_tables():
    part = pd.DataFrame({"group": ["a (3)", "b (2)"], "value": [0.2, 0.4], "low": [0.1, 0.3], "high": [0.5, 0.6]})
    drawn = figures.rates({"minilm": part, "tfidf": part.iloc[:1]}, "false alarms").axes[0]
    assert drawn.get_xlabel() == "false alarms" and {text.get_text() for text in drawn.get_yticklabels()} == set(
        part["group"]
    )
    humans = pd.DataFrame({"source": ["convabuse"], "value": [0.7], "low": [0.6], "high": [0.8]})
    runs = part.assign(source="convabuse", run=["minilm, fine-tuned", "tfidf"])
    panel = figures.beside_people(runs, humans).axes[0]
    assert panel.get_legend_handles_labels()[1] or panel.figure.legends
    plt.close("all")


def test_a_kernel_sends_the_description_with_the_figure_and_once(monkeypatch, figure):
    shell = type("Shell", (), {"display_formatter": DisplayFormatter()})
    shell.display_formatter.formatters["image/png"].for_type(Figure, lambda drawn: b"png")
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(plt, "switch_backend", lambda name: None)
    for _ in range(2):
        style.tell_what_figures_show()
    data, metadata = shell.display_formatter.format(figure, include={"image/png"})
    assert data == {"image/png": b"png"} and metadata == {"image/png": {"alt": style.describe(figure)}}
