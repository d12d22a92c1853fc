"""The checks of notebook 05's exercises: which way a model is wrong, other costs, and copies that fake certainty."""

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import metrics
from emosafe_lib.evaluation.bootstrap import Bootstrap, interval, scores
from emosafe_lib.evaluation.results import Cell, Evidence
from emosafe_lib.study.taxonomy import SAFETY_LEVELS
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

COPIES, MESSAGES, LARGEST_ERROR = 4, 300, 0.1


@exercise("05.1", expects='a pair of a name and True or False, such as ("nano-1", True)')
def calls_most_unsafe_safe(answer: tuple[str, bool], table: pd.DataFrame) -> Verdict:
    """`answer` names the fine-tuned model and says whether its macro-F1 is the lowest; `table` is `results.csv`."""
    name, lowest = answer
    if not isinstance(lowest, bool | np.bool_):
        return wrong("The second half of the answer is True or False, without quotes.")
    scores = headline(table)
    if scores.empty:
        return wrong(
            "This table has no scores of fine-tuned models on safety. Hand over `table`, or all of `results.csv`."
        )
    if name not in scores.index:
        return wrong(f"No fine-tuned model here is called {name!r}; there are {', '.join(scores.index)}.")
    share, score = scores["unsafe_called_safe"], scores["macro_f1"]
    if share[name] < share.max():
        return wrong(f"{name} calls {share[name]:.1%} of unsafe messages safe, and another model more of them.")
    if lowest != (score[name] == score.min()):
        return wrong(f"{name} it is; but look again at its macro-F1 of {score[name]:.3f} beside the others'.")
    same = "Here both point at the same model" if lowest else "Another model has the lowest macro-F1"
    return right(f"{name} calls {share[name]:.1%} of unsafe messages safe. {same}; a service would look at both.")


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The fine-tuned models' scores on safety, a line each; a cell that pandas read as NaN is an empty one."""
    empty = (table[["variant", "category"]].astype(object).fillna("") == "").all(axis=1)
    rows = table[empty & (table["task"] == "safety") & (table["setting"] == "fine-tuned")]
    rows = rows.assign(value=pd.to_numeric(rows["value"], errors="coerce"))  # a file says "undefined" of some
    return rows.pivot(index="model", columns="metric", values="value")


@exercise("05.2", expects='a list of names, such as ["minilm", "nano-1"]')
def order_by_mirrored_costs(answer: list[str], evidence: Evidence) -> Verdict:
    """`answer` lists the fine-tuned models from the lowest to the highest mean cost on safety."""
    before, after = (mean_costs(evidence, costs) for costs in (np.array(metrics.COSTS), mirrored(metrics.COSTS)))
    answer = list(answer)
    if sorted(answer) != sorted(after.index):
        return wrong(f"Name each of {', '.join(sorted(after.index))} once.")
    if after[answer].is_monotonic_increasing:
        moved = "does not change" if before[answer].is_monotonic_increasing else "changes"
        return right(f"The order {moved}: the mean cost now goes from {after.min():.2f} to {after.max():.2f}.")
    if before[answer].is_monotonic_increasing:
        return wrong("That is the order by the notebook's costs; mirror the matrix with np.maximum(costs, costs.T).")
    if after[answer].is_monotonic_decreasing:
        return wrong("That order is the right one turned round: the cheapest model comes first.")
    return wrong("Take the mean cost over each model's runs, on safety, under the mirrored matrix.")


def mirrored(costs) -> np.ndarray:
    """The costs with each alarm as dear as the miss that mirrors it."""
    return np.maximum(costs, np.transpose(costs))


def mean_costs(evidence: Evidence, costs: np.ndarray) -> pd.Series:
    """The mean cost of each fine-tuned model on safety, over its runs."""
    runs = {name: evidence.keys(Cell(name, "safety", "fine-tuned")) for name in evidence.models}
    return pd.Series(
        {
            name: np.mean([scores(evidence.truth, evidence.answers[key], costs)["cost", ""] for key in keys])
            for name, keys in runs.items()
            if keys
        }
    )


@exercise("05.3", expects="one number, such as 0.9")
def width_when_rows_are_drawn(answer: float) -> Verdict:
    """`answer` is the interval's width with rows drawn over its width with groups drawn, every row there four times."""
    truth = share_of_width()
    if abs(answer - truth) < LARGEST_ERROR:
        return right(
            f"About a half: an interval narrows with the square root of the number of rows, and {COPIES} copies "
            "look like four times the evidence. They are none."
        )
    if abs(answer - 1 / COPIES) < LARGEST_ERROR:
        return wrong("Four times the rows do not make an interval four times as narrow; think of a mean's error.")
    if answer > 1:
        return wrong("Which of the two is the wider one? The share asked for is rows over groups.")
    return wrong("Did every row, its copies included, have a group of its own in one bootstrap, and not in the other?")


def share_of_width() -> float:
    """The share, for made-up answers of which two thirds are right."""
    random = np.random.default_rng(0)
    level = np.tile(random.integers(0, 3, MESSAGES), COPIES)
    chosen = np.tile(np.where(random.random(MESSAGES) < 2 / 3, level[:MESSAGES], 0), COPIES)
    rows = pd.DataFrame({"id": np.arange(len(level)), "safety": np.array(SAFETY_LEVELS)[level]})
    rows = rows.assign(group="", source="", origin="", categories=[[False] * 6] * len(rows))
    truth = metrics.truth_of(rows.assign(category_known=rows["categories"]))
    answers = metrics.Answers("safety", np.arange(len(rows)), chosen, np.eye(3)[chosen], np.ones(len(rows), bool))
    widths = []
    for groups in (np.arange(len(rows)), np.tile(np.arange(MESSAGES), COPIES)):
        bootstrap = Bootstrap(groups, 500)
        low, high = interval(bootstrap.draws(bootstrap.measure(truth, answers))[:, 0])
        widths.append(high - low)
    return widths[0] / widths[1]
