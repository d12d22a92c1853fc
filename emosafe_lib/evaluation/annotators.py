"""How good could anyone be: how far people who labelled the same messages agree, and what one of them would score.

A model cannot agree with a label more than people agree about it. Two sources publish single judgements or their shares:
ConvAbuse up to eight annotators a message, ETHOS the share who called a comment hateful. The raw files are read where
they lie, as notebook 01 reads them; no text leaves this module.
"""

import numpy as np
import pandas as pd

from emosafe_lib.data.sources import convabuse, registry
from emosafe_lib.data.sources.raw_tables import read_table
from emosafe_lib.evaluation.bootstrap import average, interval
from emosafe_lib.evaluation.metrics import UNDEFINED

FEWEST_ROWS = 50  # an annotator who judged fewer says little
RESAMPLES = 200
COLUMNS = ["source", "rows", "annotators", "alpha", "alpha_low", "alpha_high", "value", "low", "high", "note"]


def alpha(levels: np.ndarray) -> float:
    """Krippendorff's alpha of ordinal judgements (annotators, rows), NaN where somebody did not judge."""
    import krippendorff

    if len(np.unique(levels[~np.isnan(levels)])) < 2:
        return UNDEFINED
    return float(krippendorff.alpha(reliability_data=levels, level_of_measurement="ordinal"))


def alpha_interval(levels: np.ndarray, confidence: float) -> tuple[float, float]:
    """The bootstrap interval of alpha, messages drawn with replacement."""
    random, rows = np.random.default_rng(0), levels.shape[1]
    return interval(np.array([alpha(levels[:, random.integers(0, rows, rows)]) for _ in range(RESAMPLES)]), confidence)


def one_against_the_rest(severities: np.ndarray, level_of) -> list[float]:
    """Macro-F1 of each annotator against the level that the others' mean gives, by annotator.

    `severities` is (annotators, rows) with NaN; `level_of` turns severities into levels 0, 1, 2.
    """
    from sklearn.metrics import f1_score

    found = []
    for own in range(len(severities)):
        others = np.delete(severities, own, axis=0)
        both = ~np.isnan(severities[own]) & (~np.isnan(others)).any(axis=0)
        if both.sum() >= FEWEST_ROWS:
            real, given = level_of(np.nanmean(others[:, both], axis=0)), level_of(severities[own, both])
            f1 = f1_score(real, given, labels=sorted(set(real)), average=None, zero_division=np.nan)
            found.append(float(average(f1)))
    return found


def severity_level(mean: np.ndarray) -> np.ndarray:
    """ConvAbuse's severities as levels, by the bounds of `convabuse.label`: above 0.5 safe, below -1.5 unsafe."""
    return np.where(mean > 0.5, 0, np.where(mean > -1.5, 1, 2))


def convabuse_severities() -> np.ndarray:
    """Every annotator's severity from 1 to -3 of every message, (8, rows), NaN where not asked."""
    files = registry.files("convabuse")
    rows = [
        dict(convabuse.severity(row))
        for part in ("train", "valid", "test")
        for row in read_table(files[f"ConvAbuseEMNLP{part}.csv"], repeated_names=True).to_dict("records")
    ]
    return np.array([[row.get(who, np.nan) for row in rows] for who in convabuse.ANNOTATORS], float)


def convabuse_people(confidence: float) -> dict:
    """Agreement on ConvAbuse and what one annotator scores against the others; the band is the range over annotators."""
    severities = convabuse_severities()
    levels = np.where(np.isnan(severities), np.nan, severity_level(severities))
    scores = one_against_the_rest(severities, severity_level)
    low, high = alpha_interval(levels, confidence)
    row = {"rows": severities.shape[1], "annotators": len(scores), "alpha": alpha(levels), "alpha_low": low}
    row |= {"alpha_high": high, "value": np.mean(scores), "low": min(scores), "high": max(scores)}
    return row | {"note": "each annotator against the mean of the others"}


def ethos_people(_confidence: float) -> dict:
    """What ETHOS' shares allow: alpha at most. Nobody says how many judged a comment; with few, alpha is lower than this.

    What one of them would score is not told: they answered yes or no, and a share between becomes our borderline.
    """
    shares = read_table(registry.files("ethos")["Ethos_Dataset_Binary.csv"], delimiter=";")["isHate"].astype(float)
    shares = shares.to_numpy()
    row = {"rows": len(shares), "alpha": alpha_at_most(shares), "value": UNDEFINED}
    return row | {"note": "at most: only shares are published, and of yes and no"}


def alpha_at_most(shares: np.ndarray) -> float:
    """Krippendorff's alpha of yes and no from the share of yes a row, as if very many had judged each."""
    overall = shares.mean()
    return float(1 - (shares * (1 - shares)).mean() / (overall * (1 - overall)))


PEOPLE = {"convabuse": convabuse_people, "ethos": ethos_people}


def people(sources, confidence: float = 0.95) -> pd.DataFrame:
    """One row a source of the study that carries several judgements and whose files are at hand; columns `COLUMNS`.

    `value` is what one person scores (macro-F1 over levels), `low` and `high` the range over annotators; NaN where that
    cannot be told.
    """
    known = registry.registry()
    here = [name for name in PEOPLE if name in set(sources) and not registry.missing([known[name]])]
    return pd.DataFrame([{"source": name} | PEOPLE[name](confidence) for name in here], columns=COLUMNS)


def beside_people(table: pd.DataFrame, humans: pd.DataFrame) -> pd.DataFrame:
    """The runs of `results.csv` in the sources that people were measured on; columns source, run, value, low, high, n."""
    rows = table[(table["metric"] == "source_macro_f1") & (table["task"] == "safety") & (table["variant"] == "")]
    rows = rows[rows["category"].isin(humans["source"]) & rows["setting"].isin(["fine-tuned", "baseline"])]
    run = np.where(rows["setting"] == "baseline", rows["model"], rows["model"] + ", " + rows["setting"])
    return rows.assign(source=rows["category"], run=run)[["source", "run", "value", "low", "high", "n"]]


def in_words(beside: pd.DataFrame, humans: pd.DataFrame) -> str:
    """How many runs reach what one person scores, by source."""
    if humans.empty:
        return "No source of this study carries several people's judgements, or its files are not at hand."
    parts = []
    for row in humans.itertuples():
        if np.isnan(row.value):
            parts.append(f"{row.source}: alpha at most {row.alpha:.2f}")
            continue
        part = beside[beside["source"] == row.source]
        reached = int((part["high"] >= row.value).sum())
        runs = f"reached within its interval by {reached} of {len(part)} runs" if len(part) else "no run to compare"
        parts.append(f"{row.source}: alpha {row.alpha:.2f}, one person {row.value:.2f}, {runs}")
    return "; ".join(parts) + "."
