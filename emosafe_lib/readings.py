"""The table behind each figure of notebook 05, and the sentence beneath it, computed from that table.

A reading names the numbers it rests on, says so where the data allow none, and never speaks of models other than those
in the table: the nano ladder's numbers are the nano ladder's.
"""

import pandas as pd

from emosafe_lib.scaling import INSUFFICIENT

LADDER_NAMES = {"nano": "the nano ladder (teaching models of a few million parameters)", "llama": "the LLaMA ladder"}


def headline(table: pd.DataFrame, metrics=("macro_f1", "within_source_macro_f1")) -> pd.DataFrame:
    """The headline rows of `results.csv` for some metrics: one wording-and-seed average a model, task and setting."""
    return table[(table["variant"] == "") & (table["category"] == "") & table["metric"].isin(metrics)]


def headline_table(table: pd.DataFrame) -> pd.DataFrame:
    """What a reader sees first: a line a model and setting, `value [low, high]` pooled and within sources, by task."""
    text = headline(table).assign(
        text=lambda t: [
            "undefined" if pd.isna(v) else f"{v:.3f} [{low:.3f}, {high:.3f}]"
            for v, low, high in zip(t["value"], t["low"], t["high"], strict=True)
        ]
    )
    wide = text.pivot_table(
        index=["model", "setting"], columns=["task", "metric"], values="text", aggfunc="first", sort=False
    )
    return wide.fillna("no run")


def reference_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Rivals drawn as lines beside a ladder: TF-IDF, the source's name, and each fine-tuned encoder."""
    rows = headline(table, ("macro_f1",))
    baseline = rows[(rows["setting"] == "baseline") & rows["model"].isin(["source", "tfidf"])]
    encoder = rows[(rows["family"] == "encoder") & (rows["setting"] == "fine-tuned")]
    return pd.concat([baseline, encoder])[["task", "model", "setting", "value", "low", "high"]]


def runs_labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Headline rows with a column `run`, the model and its setting in words."""
    return headline(table).assign(run=lambda t: t["model"] + ", " + t["setting"])


def family_of_tests(comparisons: pd.DataFrame, family: str, confidence: float, metric="macro_f1") -> pd.DataFrame:
    """One family of paired comparisons with a `label` in words and whether Holm's correction leaves it `clear`."""
    part = comparisons[(comparisons["family"] == family) & (comparisons["metric"] == metric)]
    sides = {}
    for side in ("first", "second"):
        names = part[[side, f"{side}_setting", f"{side}_variant"]].astype(str)
        sides[side] = names.apply(lambda row: " ".join(value for value in row if value), axis=1)
    label = part["task"] + ": " + sides["first"].astype(str) + " − " + sides["second"].astype(str)
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
    wanted = {"tfidf": ("tfidf", "baseline", ""), "tfidf, source left out": ("tfidf", "baseline", "left-out-source")}
    wanted |= {f"{model}, fine-tuned": (model, "fine-tuned", "")} if model else {}
    parts = []
    for name, (who, setting, variant) in wanted.items():
        here = rows[(rows["model"] == who) & (rows["setting"] == setting) & (rows["variant"] == variant)]
        parts.append(here.assign(run=name, source=here["category"])[["source", "run", "value", "low", "high", "n"]])
    return pd.concat(parts, ignore_index=True)


def score_by_size(ranks: pd.DataFrame) -> str:
    """From `scaling.rank_table`: in how many tasks and settings the score rises with size beyond doubt."""
    if ranks.empty or (ranks["status"] == INSUFFICIENT).all():
        return (
            "Fewer than three sizes have runs here, or their scores are equal: insufficient for any statement on size."
        )
    usable = ranks[ranks["status"] == "ok"]
    rising, falling = (usable["low"] > 0).sum(), (usable["high"] < 0).sum()
    curves = (usable["curve"] == "fitted").sum()
    name = LADDER_NAMES.get(ranks["ladder"].iloc[0], ranks["ladder"].iloc[0])
    return (
        f"On {name}, the score rises with size beyond doubt in {rising} of {len(usable)} task and setting pairs and "
        f"falls in {falling}; a saturating curve is honest in {curves}."
    )


def pooled_and_within(table: pd.DataFrame) -> str:
    """How much of the pooled score of the source-name baseline is left within sources, on safety."""
    part = table[(table["model"] == "source") & (table["task"] == "safety")].set_index("metric")["value"]
    if len(part) < 2 or part.isna().any():
        return "Without the source-name baseline nothing can be said on how much a source gives away."
    pooled, inside = part["macro_f1"], part["within_source_macro_f1"]
    if pooled == inside:
        return "There is a single source here, so the pooled score and the score within sources are one and the same."
    return (
        f"The source's name alone reaches a pooled macro-F1 of {pooled:.3f} on safety and {inside:.3f} within sources: "
        "what a model scores above that, within sources, is its own."
    )


def differences(table: pd.DataFrame, what: str) -> str:
    """How many of these paired differences are clear after Holm's correction, and which one is largest."""
    if table.empty:
        return f"No {what} can be compared: its runs are missing."
    clear = table[table["clear"]]
    lead = f"{len(clear)} of {len(table)} {what} comparisons show a difference after Holm's correction"
    if clear.empty:
        return f"{lead}."
    most = clear.loc[clear["value"].abs().idxmax()]
    return f"{lead}; the largest is {most['label']}: {most['value']:+.3f} [{most['low']:.3f}, {most['high']:.3f}]."


def gains_by_label(gains: pd.DataFrame) -> str:
    """Where the largest model adds most to the smallest."""
    single = gains[gains["category"] != ""].dropna(subset=["value", "low"]) if len(gains) else gains
    if single.empty:
        return "The largest and the smallest model have no setting in common: where size helps cannot be said."
    clear, most = (single["low"] > 0).sum(), single.loc[single["value"].idxmax()]
    return (
        f"{most['largest']} beats {most['smallest']} clearly in {clear} of {len(single)} label and setting pairs, "
        f"most in {most['category']}, {most['setting']} ({most['value']:+.3f} [{most['low']:.3f}, {most['high']:.3f}])."
    )


def spreads(table: pd.DataFrame) -> str:
    """How the prompt's wording compares with sampling as a source of doubt."""
    width = (table["high"] - table["low"]).groupby(table["kind"]).median() if len(table) else {}
    if "wording" not in width:
        return "No setting has more than one wording, so the prompt's influence is unknown."
    return (
        f"Between wordings of the same question, macro-F1 moves by {width['wording']:.3f} (median over models), "
        f"against a sampling interval {width['sampling']:.3f} wide."
    )


def verdicts(checked: pd.DataFrame) -> str:
    """How the paper's claims fare on the ladders of this study, from `claims.claims_table`."""
    if checked.empty:
        return "The study has no ladder of sizes, so no claim can be checked."
    return " ".join(f"*{row.verdict}* ({row.ladder}): {row.claim}" for row in checked.itertuples())


def sources_apart(table: pd.DataFrame) -> str:
    """What TF-IDF loses on a source that it never saw."""
    wide = table.pivot_table(index="source", columns="run", values="value") if len(table) else pd.DataFrame()
    if not {"tfidf", "tfidf, source left out"} <= set(wide.columns):
        return "With a single source, nothing can be left out: how a model fares on a new source is unknown here."
    both = wide[["tfidf", "tfidf, source left out"]].dropna()
    loss = both["tfidf"] - both["tfidf, source left out"]
    return (
        f"On a source that it never saw, TF-IDF scores {loss.mean():.3f} lower on average over {len(both)} sources, "
        f"and worse in {(loss > 0).sum()} of them."
    )


def cost(table: pd.DataFrame) -> str:
    """The dearest and the cheapest model's score and inference cost."""
    known = table.dropna(subset=["inference_flops_per_token", "value"])
    if known["model"].nunique() < 2:
        return "Fewer than two models have a known cost."
    low, high = (known.loc[pick] for pick in (known["parameters"].idxmin(), known["parameters"].idxmax()))
    ratio = high["inference_flops_per_token"] / low["inference_flops_per_token"]
    return (
        f"{high['model']} costs {ratio:.0f} times the operations of {low['model']} per token; fine-tuned on safety "
        f"they score {high['value']:.3f} and {low['value']:.3f}."
    )
