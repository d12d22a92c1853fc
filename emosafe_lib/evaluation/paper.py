"""The paper's own numbers, in the one place where they are typed, and ours laid beside them.

The paper prints accuracies of three categories for three models, two means, no interval and no n. An accuracy of a rare
category is high for whoever always says no, so the filter that never alarms stands in the same table; and a mean over
other categories is another number, so `mean_over` refuses to average what is not there for all.
"""

from collections.abc import Sequence

import pandas as pd

from emosafe_lib.evaluation.bootstrap import interval
from emosafe_lib.evaluation.intervals import with_interval
from emosafe_lib.evaluation.results import Cell, Evidence
from emosafe_lib.study import csv_files
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.taxonomy import CATEGORIES, CATEGORY_TITLES, FIVE_SHOTS

WHERE = "arXiv 2509.04512, section 3.3, read in a public rendering of the page: a digit may be mistranscribed"
NAMED = ("regulated_substances", "suicide_self_harm", "violence_hate")
SETTINGS = ("zero-shot", "few-shot", "fine-tuned")
PRINTED = {
    "1B, LoRA": dict(zip(NAMED, (0.78, 0.81, 0.99), strict=True)),
    "70B, FS-5": dict(zip(NAMED, (0.68, 0.950, 0.849), strict=True)),
    "BERT": dict(zip(NAMED, (0.77, 0.79, 0.955), strict=True)),
}
STATED_MEANS = {"1B, LoRA": 0.86, "70B, FS-5": 0.835}
NEVER = "no alarm at all"
MEANS = {"mean of the three": NAMED, "mean of all six": CATEGORIES}


def mean_over(values: dict[str, float], categories: Sequence[str] = NAMED) -> float:
    """The mean of values by category over exactly these categories.

    Raises
    ------
    PredictionError : one of them is absent or undefined, so that the mean would stand beside one of another set
    """
    lacking = [name for name in categories if pd.isna(values.get(name, float("nan")))]
    if lacking:
        what = f"has no value for {', '.join(lacking)}"
        raise PredictionError("mean of categories", what, "average over categories that all have")
    return sum(values[name] for name in categories) / len(categories)


def shown_examples(evidence: Evidence, model: str, task: str) -> Cell:
    """A model's run with five exemplars a class; where there is none, with as many as its context held."""
    five = Cell(model, task, FIVE_SHOTS)
    return five if evidence.keys(five) else five._replace(setting="few-shot")


def counterparts(evidence: Evidence, ladder: str) -> dict[str, Cell]:
    """Who stands for whom, complete runs only: the ladder's ends for 1B and 70B, the study's own encoder for BERT."""
    models, encoders, task = evidence.sized(ladder), evidence.encoders, "categories"
    cells = {"1B, LoRA": [Cell(name, task, "fine-tuned") for name in models[:1]]}
    cells |= {"70B, FS-5": [shown_examples(evidence, name, task) for name in models[1:][-1:]]}
    cells |= {"BERT": [Cell(name, task, "fine-tuned") for name in encoders[:1]]}
    cells |= {NEVER: [Cell("always-safe", task, "baseline")]}
    return {role: cell for role, found in cells.items() for cell in found if evidence.keys(cell)}


def beside_ours(evidence: Evidence, ladder: str) -> pd.DataFrame:
    """The paper's table rebuilt: one row a category or mean and model.

    Columns: role, category, printed, model, setting, value, low, high (accuracy over the rows that were asked), f1, n.
    All rest on the rows that all of these runs answered. A mean that one category is missing from is not shown.
    """
    cells = counterparts(evidence, ladder)
    mask, rows = evidence.answered(*cells.values()), []
    asked = evidence.truth.known[mask].sum(axis=0)
    for role in [*PRINTED, NEVER]:
        score = evidence.score(cells[role], mask) if role in cells and mask.any() else None
        ours = {name: score.values["accuracy", name] for name in CATEGORIES} if score else {}
        for name, members in {**{name: (name,) for name in CATEGORIES}, **MEANS}.items():
            row = {"role": role, "category": name, "printed": printed(role, members)}
            if ours and not any(pd.isna(ours[part]) for part in members):
                draws = sum(score.draws["accuracy", part] for part in members) / len(members)
                row |= {"model": cells[role].model, "setting": cells[role].setting, "value": mean_over(ours, members)}
                row |= dict(zip(("low", "high"), interval(draws, evidence.study.analysis.confidence), strict=True))
                row |= {"f1": sum(score.values["f1", part] for part in members) / len(members)}
                row |= {"n": int(min(asked[CATEGORIES.index(part)] for part in members))}
            rows.append(row)
    columns = ["role", "category", "printed", "model", "setting", "value", "low", "high", "f1", "n"]
    return pd.DataFrame(rows, columns=columns).dropna(subset=["printed", "value"], how="all").reset_index(drop=True)


def printed(role: str, members: tuple[str, ...]) -> float:
    """What the paper prints for these categories, or what follows from it; NaN where it prints too little."""
    values = PRINTED.get(role, {})
    return mean_over(values, members) if set(members) <= set(values) else float("nan")


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """`beside_ours` as a wide table of text: a row a category, two columns a role, the paper's value and that of our run."""
    f1 = table["f1"].map(lambda value: "undefined" if pd.isna(value) else f"{value:.3f}")
    ours = [
        "not run" if pd.isna(row.value) else f"{with_interval(row.value, row.low, row.high)}, F1 {told}"
        for row, told in zip(table.itertuples(), f1, strict=True)
    ]
    paper = table["printed"].map(lambda value: "–" if pd.isna(value) else f"{value:.3f}")
    told = table.assign(paper=paper, ours=ours, category=table["category"].replace(CATEGORY_TITLES))
    wide = told.pivot(index="category", columns="role", values=["paper", "ours"]).swaplevel(axis=1)
    roles = [
        (role, side) for role in (*PRINTED, NEVER) for side in ("paper", "ours") if (role, side) != (NEVER, "paper")
    ]
    runs = table.dropna(subset=["model"]).drop_duplicates("role").set_index("role")
    named = {role: f"ours: {run.model}, {run.setting}" for role, run in runs.iterrows() if role != NEVER}
    titles = [(role, named.get(role, side) if side == "ours" else side) for role, side in roles]
    wide = wide.reindex(index=told["category"].unique(), columns=roles).fillna("–")
    return wide.set_axis(pd.MultiIndex.from_tuples(titles, names=wide.columns.names), axis=1)


def not_run(base, models) -> pd.DataFrame:
    """Why models were not shown five exemplars a class, as notebook 03 noted it: model, task, setting, reason."""
    tables = []
    for model in models:
        path = base / model / "03_prompting_baselines" / "not_run.csv"
        tables += [csv_files.read_csv(path).assign(model=model)] if path.is_file() else []
    columns = ["model", "task", "setting", "reason"]
    return pd.concat([pd.DataFrame(columns=columns), *tables])[columns].reset_index(drop=True)


def reading() -> str:
    """The means of the paper's three categories beside those that it states, in one sentence."""
    same = {role: mean_over(PRINTED[role]) for role in PRINTED}
    said = {role: f" (stated: {value:g})" for role, value in STATED_MEANS.items()}
    parts = [f"{role} {value:.3f}{said.get(role, '')}" for role, value in same.items()]
    odd = ", ".join(role for role, stated in STATED_MEANS.items() if abs(same[role] - stated) >= 0.0005)
    return (
        f"The paper prints three categories, whose means are {'; '.join(parts)}: the stated mean of {odd} is not that of "
        "these three."
    )


def in_figure(table: pd.DataFrame) -> str:
    """`reading`, and which of our runs are drawn in whose place, from `beside_ours`."""
    runs = table[table["role"].isin(PRINTED)].dropna(subset=["value"]).drop_duplicates("role")
    places = ", ".join(f"{run.model} {run.setting} for {run.role.replace(', ', ' ')}" for run in runs.itertuples())
    ours = f"filled are our runs ({places or 'none was run'}) and the filter that never alarms"
    return f"{reading().removesuffix('.')}; {ours}."


def note() -> str:
    """What the paper's two stated means seem to compare, worked out from its own numbers."""
    return (
        f"{reading()} So its two stated means seem to cover different sets of categories, and their difference is not a "
        "difference between models. Here a mean is taken over one set for everybody, or not at all."
    )
