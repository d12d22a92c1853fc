"""Notebook 00's checks accept what is right, whichever way it was found, and name the mistake that people make."""

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from emosafe_lib.teaching import check

LEVELS = pd.Series(["safe"] * 4 + ["borderline"] * 3 + ["unsafe"] * 3)


@pytest.fixture(scope="module")
def words():
    texts = ["kill him with the knife", "kill them all now", "the sun is out today", "bread and soup today", "so tired"]
    levels = ["unsafe", "unsafe", "safe", "safe", "borderline"]
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, levels)


def test_00_1_a_message_that_fools_is_right_and_the_words_that_did_it_are_named(words):
    verdict = check("00.1", "they kill the lights with a knife switch", words)
    assert verdict and "'kill'" in verdict.why
    assert "calls this message safe" in check("00.1", "soup in the sun today", words).why
    assert "whole message" in check("00.1", "kill", words).why
    assert "This is a list; write one sentence" in check("00.1", ["kill", "the", "lights", "now"], words).why
    assert check("00.1", None, words).says == "not answered yet"


@pytest.mark.parametrize("answer", [4 / 21, 0.19, 0.190])
def test_00_2_the_mean_over_three_labels_is_right(answer):
    assert check("00.2", answer, LEVELS)


@pytest.mark.parametrize(("answer", "said"), [(0.4, "accuracy"), (4 / 7, "F1 of the label safe"), (0.5, "each label")])
def test_00_2_the_usual_mistakes_are_named(answer, said):
    assert not check("00.2", answer, LEVELS) and said in check("00.2", answer, LEVELS).why


def commonest(train, test):
    return test["source"].map(train.groupby("source")["safety"].agg(lambda levels: levels.mode()[0]))


def test_00_3_a_function_is_judged_by_what_it_answers():
    assert check("00.3", lambda train, test: commonest(train, test).fillna(train["safety"].mode()[0]))
    assert "first time" in check("00.3", commonest).why
    assert "known source" in check("00.3", lambda train, test: ["safe"] * len(test)).why
    assert "1 levels for 4 rows" in check("00.3", lambda train, test: ["safe"]).why
    assert "KeyError" in check("00.3", lambda train, test: train["level"]).why
