"""The exercises of notebook 05: right, wrong and missing answers."""

import numpy as np
import pytest
from analysis_world import evidence, made_up_rows

from emosafe_lib.evaluation import metrics, results
from emosafe_lib.teaching import analysis, check

SKILLS = {"nano-1": 0.3, "nano-2": 1.5, "minilm": 2.5}


@pytest.fixture(scope="module")
def world():
    return evidence(made_up_rows(300), SKILLS)


@pytest.fixture(scope="module")
def table(world):
    return results.results_table(world)


def test_the_model_that_misses_most_danger_is_found_in_the_table(table):
    rows = table.query("task == 'safety' and setting == 'fine-tuned' and variant == '' and category == ''")
    scores = rows.pivot(index="model", columns="metric", values="value")
    name = scores["unsafe_called_safe"].idxmax()
    lowest = bool(scores["macro_f1"].idxmin() == name)
    assert check("05.1", (name, lowest), table)
    assert not check("05.1", (name, not lowest), table)
    assert not check("05.1", (scores["unsafe_called_safe"].idxmin(), lowest), table)
    assert "called 'gpt'" in repr(check("05.1", ("gpt", True), table))


def test_a_table_whose_empty_cells_became_nan_counts_the_same(table):
    read = table.assign(
        **{name: table[name].astype(object).where(table[name] != "") for name in ("variant", "category")}
    )
    assert read["variant"].isna().any()
    scores = analysis.headline(read)
    assert scores.equals(analysis.headline(table)) and len(scores) == len(SKILLS)
    name = scores["unsafe_called_safe"].idxmax()
    assert check("05.1", (name, bool(scores["macro_f1"].idxmin() == name)), read)
    assert "no scores of fine-tuned models" in repr(check("05.1", (name, True), table.iloc[:0]))


@pytest.mark.parametrize("text", ["True", "False", "yes"])
def test_true_or_false_as_text_is_no_answer(table, text):
    assert "True or False, without quotes" in repr(check("05.1", ("nano-1", text), table))


def test_models_are_ordered_by_the_mirrored_costs(world):
    order = list(analysis.mean_costs(world, analysis.mirrored(metrics.COSTS)).sort_values().index)
    assert check("05.2", order, world)
    assert "turned round" in repr(check("05.2", order[::-1], world))
    assert "once" in repr(check("05.2", order[:2], world))
    assert check("05.2", None, world).says == "not answered yet"


def test_mirrored_costs_keep_the_dearer_of_two_mistakes():
    costs = analysis.mirrored(metrics.COSTS)
    assert (costs == costs.T).all() and costs[0, 2] == np.max(metrics.COSTS)


@pytest.mark.parametrize(("answer", "says"), [(0.5, "right"), (0.25, "not yet"), (1.0, "not yet"), (2.0, "not yet")])
def test_copies_halve_an_interval_of_rows(answer, says):
    assert check("05.3", answer).says == says
