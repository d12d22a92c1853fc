"""The checks of notebook 00: what a word counter goes by, what macro-F1 rewards, and how far a source's name gets."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score

from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

FEWEST_WORDS = 4
# Two sources that lean to different levels, and one that is met for the first time.
TRAIN = pd.DataFrame(
    [("forum", "unsafe")] * 3 + [("forum", "safe")] + [("letters", "safe")] * 5 + [("letters", "borderline")] * 2,
    columns=["source", "safety"],
)
TEST = pd.DataFrame({"source": ["letters", "forum", "diary", "forum"]})


def weighty_words(pipeline, message: str, level: str) -> list[str]:
    """The words of a message that speak most for a level, by a fitted TF-IDF and logistic regression, at most three."""
    vectorizer, classifier = pipeline[0], pipeline[-1]
    row = list(classifier.classes_).index(level)
    weights = vectorizer.transform([message]).toarray()[0] * classifier.coef_[row]
    best = np.argsort(-weights)[:3]
    return [str(vectorizer.get_feature_names_out()[place]) for place in best if weights[place] > 0]


@exercise("00.1", expects="one message, a text in quotes")
def a_harmless_message_called_unsafe(answer: str, words) -> Verdict:
    """`words` is the notebook's pipeline of TF-IDF and logistic regression."""
    if isinstance(answer, list | tuple):
        return wrong(
            f"This is a {type(answer).__name__}; write one sentence between quotes, without brackets or commas."
        )
    if len(answer.split()) < FEWEST_WORDS:
        return wrong(f"Write a whole message, of {FEWEST_WORDS} words or more.")
    level = words.predict([answer])[0]
    if level != "unsafe":
        return wrong(f"It calls this message {level}; try words that mostly stand in unsafe messages.")
    went_by = ", ".join(map(repr, weighty_words(words, answer, "unsafe"))) or "no word in particular"
    return right(f"It went by {went_by}, and never asked what is meant. (That it is harmless, you have to judge.)")


@exercise("00.2", expects="one number, such as 0.25")
def macro_f1_of_always_safe(answer: float, levels: pd.Series) -> Verdict:
    """`levels` are the labels of the ten messages."""
    always = ["safe"] * len(levels)
    each = f1_score(levels, always, average=None, labels=sorted(set(levels)), zero_division=0)
    truth, of_safe = float(each.mean()), float(each.max())
    if abs(answer - truth) < 0.0051:
        return right("Two of three labels count 0, whatever the third has: macro-F1 punishes what is never answered.")
    if abs(answer - accuracy_score(levels, always)) < 0.0051:
        return wrong("This is the accuracy, the share of right answers; macro-F1 is a mean over labels.")
    if abs(answer - of_safe) < 0.0051:
        return wrong("This is F1 of the label safe; the mean is over all three labels.")
    return wrong("Take F1 of each label: what are precision and recall of safe, and what of a label never answered?")


@exercise("00.3", expects="a function of two tables that returns a level for each row of the second")
def level_by_source_alone(answer: Callable) -> Verdict:
    """`answer` takes a training table and a test table and returns a level for each test row."""
    given = [str(level) for level in answer(TRAIN.copy(), TEST.copy())]
    if len(given) != len(TEST):
        return wrong(f"It returns {len(given)} levels for {len(TEST)} rows; give one for each row of the second table.")
    commonest, overall = (
        TRAIN.groupby("source")["safety"].agg(lambda levels: levels.mode()[0]),
        TRAIN["safety"].mode()[0],
    )
    known = TEST["source"].isin(commonest.index)
    expected = TEST["source"].map(commonest).where(known, overall)
    hits = expected.eq(given)
    if hits.all():
        return right(
            "It has read no message, and in a merged corpus it is a rival to be taken seriously: see notebook 01."
        )
    if hits[known].all():
        return wrong(
            "Right for sources that it knows; one that it meets for the first time gets the commonest level of all."
        )
    return wrong(
        "A row of a known source should get that source's commonest level in the first table, in the rows' order."
    )
