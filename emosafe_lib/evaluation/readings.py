"""The table behind each figure of notebook 05, and the sentence beneath it, computed from that table.

A reading names the numbers it rests on, says so where the data allow none, and never speaks of models other than those
in the table: the nano ladder's numbers are the nano ladder's.
"""

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.intervals import each_with_interval, with_interval
from emosafe_lib.evaluation.metrics import METRIC_NAMES
from emosafe_lib.evaluation.results import FIRST_SEED
from emosafe_lib.evaluation.scaling import INSUFFICIENT, METRICS
from emosafe_lib.study.taxonomy import LEFT_OUT, TASKS

OVER_SOURCE = "over_source_name"
LADDER_NAMES = {
    "nano": "the nano ladder (teaching models of 0.5 to 8 million parameters, embeddings counted)",
    "smollm2": "the SmolLM2 ladder",
    "llama": "the LLaMA ladder",
}


def headline_rows(table: pd.DataFrame, metrics=METRICS) -> pd.DataFrame:
    """The headline rows of `results.csv` for some metrics: one wording-and-seed average a model, task and setting."""
    return table[(table["variant"] == "") & (table["category"] == "") & table["metric"].isin(metrics)]


def headline_metrics(table: pd.DataFrame) -> tuple[str, ...]:
    """Pooled macro-F1 and macro-F1 within sources; the pooled one alone where a single source makes both the same."""
    sources = table.loc[table["metric"] == "source_macro_f1", "category"].nunique()
    return METRICS if sources > 1 else METRICS[:1]


def headline_table(table: pd.DataFrame, compared: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """What a reader sees first: a line a model and setting, by task `value [low, high]` pooled and within sources.

    The last column of a task is the paired difference to the baseline that knows only the source's name, pooled, from
    `scaling.comparisons`; a star marks one that is clear after Holm's correction.
    """
    chosen = headline_rows(table).assign(text=each_with_interval, column=lambda t: t["metric"])
    family = compared[(compared["family"] == "source name") & (compared["metric"] == METRICS[0])]
    stars = np.where(family["p_holm"] < 1 - confidence, " *", "")
    over = family.assign(model=family["first"], setting=family["first_setting"], column=OVER_SOURCE)
    over = over.assign(text=[text + star for text, star in zip(each_with_interval(family, "+.3f"), stars, strict=True)])
    parts = pd.concat([chosen, over])
    wide = parts.pivot_table(
        index=["model", "setting"], columns=["task", "column"], values="text", aggfunc="first", sort=False
    )
    columns = [(task, name) for task in TASKS if (parts["task"] == task).any() for name in (*METRICS, OVER_SOURCE)]
    return wide.reindex(columns=pd.MultiIndex.from_tuples(columns, names=["task", "score"])).fillna("–")


def reference_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Rivals drawn as lines beside a ladder: TF-IDF, the source's name, and each fine-tuned encoder."""
    rows = headline_rows(table)
    baseline = rows[(rows["setting"] == "baseline") & rows["model"].isin(["source", "tfidf"])]
    encoder = rows[(rows["family"] == "encoder") & (rows["setting"] == "fine-tuned")]
    return pd.concat([baseline, encoder])[["task", "metric", "model", "setting", "value", "low", "high"]]


def labels_of(table: pd.DataFrame) -> pd.DataFrame:
    """The F1 rows of `results.csv` by level and category, headlines only."""
    return table[(table["variant"] == "") & (table["metric"] == "f1") & (table["category"] != "")]


def budget_table(table: pd.DataFrame, train_rows: dict[str, int]) -> pd.DataFrame:
    """Macro-F1 of fine-tuned models by training rows: each budget that was run, and the main run with its model's
    `train_rows`.

    All with the first seed, since budgets are run with no other. Columns: task, model, rows, value, low, high; empty
    where no budget was run.
    """
    runs = table[(table["setting"] == "fine-tuned") & (table["metric"] == METRICS[0]) & (table["category"] == "")]
    budgets = runs[runs["variant"].str.startswith("budget-")]
    budgets = budgets.assign(rows=budgets["variant"].str.removeprefix("budget-").astype(int))
    whole = runs[(runs["variant"] == FIRST_SEED) & runs["model"].isin(budgets["model"])]
    joined = pd.concat([budgets, whole.assign(rows=whole["model"].map(train_rows))]).drop_duplicates(
        ["task", "model", "rows"]
    )
    return joined[["task", "model", "rows", "value", "low", "high"]].reset_index(drop=True)


def runs_labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Headline rows with a column `run`, the model and its setting in words."""
    return headline_rows(table).assign(run=lambda t: t["model"] + ", " + t["setting"])


def family_of_tests(comparisons: pd.DataFrame, family: str, confidence: float) -> pd.DataFrame:
    """One family of paired comparisons of pooled macro-F1, with a `label` in words and whether Holm's correction leaves it
    `clear`.
    """
    part = comparisons[(comparisons["family"] == family) & (comparisons["metric"] == METRICS[0])]
    sides = {}
    for side in ("first", "second"):
        names = part[[side, f"{side}_setting", f"{side}_variant"]].astype(str)
        sides[side] = [" ".join(value for value in row if value) for row in names.itertuples(index=False)]
    pairs = zip(part["task"], sides["first"], sides["second"], strict=True)
    label = [f"{task}: {first} − {second}" for task, first, second in pairs]
    clear = part["p_holm"] < 1 - confidence
    return part.assign(label=label, clear=clear).reset_index(drop=True)


def spread_table(table: pd.DataFrame) -> pd.DataFrame:
    """Sampling interval and the ranges over wordings and seeds of each safety run that has more than one of either."""
    rows = table[(table["variant"] == "") & (table["task"] == "safety")]
    kinds = {"macro_f1": "sampling", "variant_spread_macro_f1": "wording", "seed_spread_macro_f1": "seed"}
    rows = rows[rows["metric"].isin(kinds)].assign(kind=lambda t: t["metric"].map(kinds))
    rows = rows.assign(run=rows["model"] + ", " + rows["setting"])
    several = rows.loc[rows["kind"] != "sampling", "run"]
    return rows.loc[rows["run"].isin(several), ["run", "kind", "value", "low", "high"]]


def source_table(table: pd.DataFrame, model: str | None) -> pd.DataFrame:
    """Macro-F1 on safety by source: TF-IDF, TF-IDF that never saw the source, and one fine-tuned model."""
    rows = table[(table["metric"] == "source_macro_f1") & (table["task"] == "safety")]
    wanted = {"tfidf": ("tfidf", "baseline", ""), "tfidf, source left out": ("tfidf", "baseline", LEFT_OUT)}
    wanted |= {f"{model}, fine-tuned": (model, "fine-tuned", "")} if model else {}
    parts = []
    for name, (who, setting, variant) in wanted.items():
        here = rows[(rows["model"] == who) & (rows["setting"] == setting) & (rows["variant"] == variant)]
        parts.append(here.assign(run=name, source=here["category"])[["source", "run", "value", "low", "high", "n"]])
    return pd.concat(parts, ignore_index=True)


def score_by_size(ranks: pd.DataFrame) -> str:
    """From `scaling.rank_table`, a ladder or several: in how many tasks and settings the score clearly rises with size,
    by metric; a ladder that is too short for a statement is left out beside one that is not.
    """
    if ranks.empty or (ranks["status"] == INSUFFICIENT).all():
        return (
            "Fewer than three sizes have runs here, or their scores are equal or undefined: insufficient for any statement "
            "on size."
        )
    usable = ranks[ranks["status"] == "ok"]
    return " ".join(one_ladder_by_size(name, part) for name, part in usable.groupby("ladder", sort=False))


def one_ladder_by_size(ladder: str, ranks: pd.DataFrame) -> str:
    """The sentence of one ladder in `score_by_size`."""
    parts = []
    for metric, part in ranks.groupby("metric", sort=False):
        rising, falling = (part["trend"] == 1).sum(), (part["trend"] == -1).sum()
        curves = (part["curve"] == "fitted").sum()
        parts.append(
            f"{METRIC_NAMES[metric]} clearly rises with size in {rising} of {len(part)} task and setting pairs, "
            f"falls in {falling}, and allows a saturating curve in {curves}"
        )
    named = LADDER_NAMES.get(ladder, f"the ladder {ladder}")
    return f"On {named}, " + "; ".join(parts) + " (each by its own interval, uncorrected)."


def score_by_label(points: pd.DataFrame) -> str:
    """From the F1 of every label by size: how often the largest model is also the best, and where size adds most."""
    by_size = points.sort_values("parameters").groupby(["category", "setting"])["value"]
    # The ends as they are: pandas' own `first` and `last` skip a size whose score is undefined.
    ends = {"first": lambda scores: scores.iloc[0], "last": lambda scores: scores.iloc[-1]}
    best = by_size.agg(**ends, max="max", size="size").dropna()
    best = best[best["size"] > 1]
    if best.empty:
        return "No label has scores of two sizes, so nothing can be said label by label."
    gain = best["last"] - best["first"]
    label, setting = most = gain.abs().idxmax()
    return (
        f"The largest model is the best one in {(best['last'] == best['max']).sum()} of {len(best)} label and setting "
        f"pairs; from the smallest to the largest, F1 moves by {gain.median():+.3f} in the median and most in {label}, "
        f"{setting} ({gain[most]:+.3f})."
    )


def budget_curves(table: pd.DataFrame) -> str:
    """What more training rows add, averaged over models, from `budget_table`; at numbers of rows that all of them met."""
    parts = []
    for task, part in table.groupby("task", sort=False):
        mean = part.pivot(index="rows", columns="model", values="value").dropna().mean(axis=1)
        if len(mean) > 1:
            few, many = mean.index.min(), mean.index.max()
            parts.append(f"{mean[few]:.3f} with {few} training rows and {mean[many]:.3f} with {many} on {task}")
    if not parts and len(table):
        return "The models share fewer than two numbers of training rows, so no average over them can be told."
    if not parts:
        return "No training budgets were run, so how scores grow with training rows is unknown here."
    return "Averaged over models, fine-tuned macro-F1 is " + "; ".join(parts) + "."


def pooled_and_within(table: pd.DataFrame, sources: int) -> str:
    """How much of the pooled score of the source-name baseline is left within sources, on safety.

    `table` is that of `runs_labelled`; `sources` is the number of sources among the test rows.
    """
    if sources == 1:
        return "There is a single source here, so its name gives nothing away."
    part = table[(table["model"] == "source") & (table["task"] == "safety")].set_index("metric")["value"]
    if len(part) < 2 or np.isnan(part["macro_f1"]):
        return "Without the source-name baseline nothing can be said on how much a source gives away."
    pooled, inside = part["macro_f1"], part["within_source_macro_f1"]
    if np.isnan(inside):
        return (
            f"The source's name alone reaches a pooled macro-F1 of {pooled:.3f} on safety; no source has rows enough of two "
            "levels for a score within it."
        )
    return (
        f"The source's name alone reaches a pooled macro-F1 of {pooled:.3f} on safety and {inside:.3f} within sources: "
        "what a model scores above that, within sources, is not owed to the source's name."
    )


def differences(table: pd.DataFrame, what: str) -> str:
    """How many of these paired differences are clear after Holm's correction, and which one is largest."""
    if table.empty:
        return f"No {what} comparison can be made: its runs are missing."
    clear = table[table["clear"]]
    things, verb = agreed(len(table), "comparison", "comparisons"), agreed(len(clear), "shows", "show")
    lead = f"{len(clear)} of {len(table)} {what} {things} {verb} a difference after Holm's correction"
    if clear.empty:
        return f"{lead}, which does not prove that there is none."
    most, which = clear.loc[clear["value"].abs().idxmax()], agreed(len(clear), "it is", "the largest is")
    return f"{lead}; {which} {most['label']}: {with_interval(most['value'], most['low'], most['high'], '+.3f')}."


def gains_by_label(gains: pd.DataFrame) -> str:
    """Where the largest model adds most to the smallest, and how often it clearly adds or takes away."""
    single = gains[gains["category"] != ""].dropna(subset=["value", "low"]) if len(gains) else gains
    if single.empty:
        return "The largest and the smallest model have no setting in common: where size helps cannot be said."
    better, worse = (single["low"] > 0).sum(), (single["high"] < 0).sum()
    most = single.loc[single["value"].idxmax()]
    gain = with_interval(most["value"], most["low"], most["high"], "+.3f")
    pair = f"{most['largest']} is better than {most['smallest']}"
    if single.groupby(["largest", "smallest"]).ngroups > 1:  # not every setting was run for the same models
        gain += f", {most['largest']} minus {most['smallest']}"
        pair = "the largest model with runs is better than the smallest"
    return (
        f"By intervals that are not corrected for their number, {pair} in {better} of {len(single)} label and setting pairs "
        f"and worse in {worse}; the highest difference is in {most['category']}, {most['setting']} ({gain})."
    )


def spreads(table: pd.DataFrame) -> str:
    """How the prompt's wording compares with sampling as a source of doubt, over the runs that have several wordings."""
    runs = table[table["run"].isin(table.loc[table["kind"] == "wording", "run"])]
    if runs.empty:
        return "No setting has more than one wording, so the prompt's influence is unknown."
    width = (runs["high"] - runs["low"]).groupby(runs["kind"]).median()
    several = (runs["kind"] == "wording").sum()
    return (
        f"Between wordings of the same question, macro-F1 on safety moves by {width['wording']:.3f} from the lowest to the "
        f"highest (median over {several} {agreed(several, 'run', 'runs')}), beside a sampling interval "
        f"{width['sampling']:.3f} wide."
    )


def verdicts(checked: pd.DataFrame) -> str:
    """How the paper's claims fare on the ladders of this study, from `claims.claims_table`: its words, then strictly."""
    if checked.empty:
        return "The study has no ladder of sizes, so no claim can be checked."
    both = [" / ".join(dict.fromkeys(pair)) for pair in zip(checked["in_its_words"], checked["verdict"], strict=True)]
    return " ".join(
        f"*{said}* ({row.ladder}): {row.claim}" for said, row in zip(both, checked.itertuples(), strict=True)
    )


def sources_apart(table: pd.DataFrame) -> str:
    """What TF-IDF loses on a source that it never saw."""
    wide = table.pivot_table(index="source", columns="run", values="value") if len(table) else pd.DataFrame()
    if not {"tfidf", "tfidf, source left out"} <= set(wide.columns):
        return "With a single source, nothing can be left out: how a model fares on a new source is unknown here."
    both = wide[["tfidf", "tfidf, source left out"]].dropna()
    loss = both["tfidf"] - both["tfidf, source left out"]
    way, things = "lower" if loss.mean() >= 0 else "higher", agreed(len(both), "source", "sources")
    return (
        f"On a source that it never saw, TF-IDF scores {abs(loss.mean()):.3f} {way} on average over {len(both)} {things}; "
        f"it is worse by 0.005 or more in {(loss >= 0.005).sum()}, with no row of that source to learn from."
    )


def cost(table: pd.DataFrame, axis: str = "inference_flops_per_token", what: str = "operations per token") -> str:
    """The dearest and the cheapest model's score and cost on one axis."""
    known = table.dropna(subset=[axis, "value"])
    if known["model"].nunique() < 2:
        return f"Fewer than two models have known {what}."
    low, high = (known.loc[pick] for pick in (known["parameters"].idxmin(), known["parameters"].idxmax()))
    scores = [with_interval(each["value"], each["low"], each["high"], ".3f") for each in (high, low)]
    return (
        f"{high['model']} costs {high[axis] / low[axis]:.0f} times the {what} of {low['model']}; fine-tuned on safety "
        f"they score {' and '.join(scores)}."
    )


def source_name(compared: pd.DataFrame, confidence: float = 0.95) -> str:
    """How many runs beat the baseline that knows only the source's name, or fall short, from `scaling.comparisons`."""
    part = compared[(compared["family"] == "source name") & (compared["metric"] == METRICS[0])]
    if part.empty:
        return "Without the source-name baseline no run can be held against it."
    clear = part.loc[part["p_holm"] < 1 - confidence, "value"]
    above, below = (clear > 0).sum(), (clear < 0).sum()
    return (
        f"{above} of {len(part)} {agreed(len(part), 'run', 'runs')} {agreed(above, 'beats', 'beat')} the baseline that "
        f"knows only the source's name, and {below} {agreed(below, 'falls', 'fall')} short of it, paired and after Holm's "
        "correction."
    )


def agreed(number: int, one: str, several: str) -> str:
    """The form of a word that goes with a number.

    >>> agreed(1, "run", "runs"), agreed(0, "run", "runs")
    ('run', 'runs')
    """
    return one if number == 1 else several
