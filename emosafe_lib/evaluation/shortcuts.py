"""What a merged corpus gives away: how much of a score needs no understanding of the text at all.

The name of a row's source is the plainest shortcut. If it predicts the label about as well as the words do, a pooled
score mostly says where a text comes from. This report puts the name of the source, the length and the words side by
side, on the test rows, and adds what is left of the words' score inside each source and on sources never trained on.
"""

import math

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import bootstrap, metrics, predictions
from emosafe_lib.evaluation.baselines import BASELINES, MOST_WORDS, fit_tfidf, tuned, words_pipeline
from emosafe_lib.study.rows import category_matrix, held_by, known_matrix, take
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, TASKS

READERS = {"source": "source_only", "length": "length_only", "tfidf": "text"}
TRAIN_ROWS = 12_000  # enough for a bag of words, and a bound on the report's time
SMALL_TRAIN_ROWS = 4_000  # for the fits that are repeated once a source


def plain(value: float) -> float | None:
    """A number that JSON can hold: four digits, or None where the score is undefined."""
    return None if value is None or math.isnan(value) else round(float(value), 4)


def task_scores(name: str, rows: pd.DataFrame, task: str, test: pd.DataFrame | None = None) -> dict:
    """Scores of a baseline on one task, on the test rows or on others, as `bootstrap.scores` gives them."""
    train, test = take(rows, "train", TRAIN_ROWS), take(rows, "test") if test is None else test
    predictor = BASELINES[name][0](train, task)
    table = predictions.make(
        test["id"], task, "baseline", predictor(test), thresholds=tuned(name, predictor, rows, task)
    )
    truth = metrics.truth_of(test)
    return bootstrap.scores(truth, metrics.align(table, truth))


def baseline_report(name: str, rows: pd.DataFrame) -> dict:
    """Trinary macro-F1 overall and within sources, and average precision of every category."""
    safety, categories = (task_scores(name, rows, task) for task in TASKS)
    return {
        "safety_macro_f1": plain(safety["macro_f1", ""]),
        "within_source_macro_f1": plain(safety["within_source_macro_f1", ""]),
        "category_auprc": {key: plain(categories["auprc", key]) for key in CATEGORIES},
    }


def source_from_text(rows: pd.DataFrame) -> dict:
    """How often the words name the source, beside always guessing the largest one."""
    from sklearn.linear_model import SGDClassifier

    train, test = take(rows, "train", TRAIN_ROWS), take(rows, "test")
    classifier = SGDClassifier(random_state=0, max_iter=30, tol=1e-3)
    model = words_pipeline(train["text"], classifier, max_features=MOST_WORDS, dtype=np.float32)
    found = model.fit(train["text"], train["source"]).predict(test["text"])
    largest = train["source"].mode().min()
    return {
        "accuracy": plain((found == test["source"]).mean()),
        "largest_source_accuracy": plain((test["source"] == largest).mean()),
    }


def left_out_sources(rows: pd.DataFrame) -> dict[str, float | None]:
    """Trinary macro-F1 of the words on each source that training never saw, over the levels that the source has."""
    from sklearn.metrics import f1_score

    found = {}
    for source in sorted(set(rows["source"])):
        train, test = take(rows[~held_by(rows, source)], "train", SMALL_TRAIN_ROWS), take(rows, "test")
        test = test[test["source"] == source]
        if train.empty or len(test) < metrics.MIN_SOURCE_ROWS or test["safety"].nunique() < 2:
            continue
        guess = fit_tfidf(train, "safety")(test).argmax(axis=1)
        real = metrics.safety_levels(test)
        found[source] = plain(f1_score(real, guess, labels=sorted(set(real.tolist())), average="macro"))
    return found


def external_report(rows: pd.DataFrame, external: pd.DataFrame) -> dict[str, dict]:
    """What the words, learnt from the merged training rows, score on each evaluation-only set; None where undefined."""
    found = {}
    for name, part in external.groupby("source"):
        safety, categories = (task_scores("tfidf", rows, task, part) for task in TASKS)
        found[str(name)] = {
            "rows": len(part),
            "safety": {level: int((part["safety"] == level).sum()) for level in SAFETY_LEVELS},
            "safety_macro_f1": plain(safety["macro_f1", ""]),
            "category_auprc": {key: plain(categories["auprc", key]) for key in CATEGORIES},
        }
    return found


def words_per_level(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Quartiles of the number of words, by level."""
    words = rows["text"].str.split().str.len()
    quartiles = {level: words[rows["safety"] == level].quantile([0.25, 0.5, 0.75]) for level in SAFETY_LEVELS}
    return {
        level: dict(zip(("q1", "median", "q3"), map(plain, values), strict=True)) for level, values in quartiles.items()
    }


def counts(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Test rows that each category's score rests on: known, and positive."""
    test = take(rows, "test")
    known, on = known_matrix(test), category_matrix(test)
    return {
        key: {"known": int(known[:, c].sum()), "positive": int((on & known)[:, c].sum())}
        for c, key in enumerate(CATEGORIES)
    }


def report(rows: pd.DataFrame, *, slow: bool = True) -> dict:
    """The shortcut report of merged rows.

    `slow=False` leaves out what needs a fit per source. With one source in training, its name says nothing: the scores
    stand, at the majority's level, and nothing can be left out.
    """
    found = {title: baseline_report(name, rows) for name, title in READERS.items()}
    found |= {"test_rows": counts(rows), "words_per_level": words_per_level(rows)}
    if rows.loc[rows["split"] == "train", "source"].nunique() > 1:
        found["source_from_text"] = source_from_text(rows)
        found["left_out_source"] = left_out_sources(rows) if slow else {}
    return found


def table(named: dict[str, dict]) -> pd.DataFrame:
    """Reports by the name of their merge as a tidy table: merge, reader, metric, label, value."""
    lines = []
    for merge, found in named.items():
        for reader in READERS.values():
            part = found[reader]
            lines.append((merge, reader, "macro-F1", "safety", part["safety_macro_f1"]))
            lines.append((merge, reader, "macro-F1 within sources", "safety", part["within_source_macro_f1"]))
            lines += [(merge, reader, "average precision", key, part["category_auprc"][key]) for key in CATEGORIES]
    return pd.DataFrame(lines, columns=["merge", "reader", "metric", "label", "value"])
