"""Baselines know what they may know, and nothing of the test rows."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import made_up_rows, with_other_test_labels

from emosafe_lib.augment import acceptance
from emosafe_lib.evaluation import baselines, bootstrap, metrics, predictions, shortcuts
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

ROWS = made_up_rows(400, sources=2)


def macro_f1(name, task="safety", rows=ROWS, **options):
    table = baselines.predict(name, rows, **options)
    truth = metrics.truth_of(take(rows, "test", originals_only=True))
    return bootstrap.scores(truth, metrics.align(table[table["task"] == task], truth))["macro_f1", ""]


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_answers_every_test_row_in_the_schema(name):
    table = baselines.predict(name, ROWS)
    predictions.check(table)
    assert set(table["task"]) == {"safety", "categories"}
    assert set(table["id"]) == set(ROWS["id"][ROWS["split"] == "test"])
    safety = np.stack(table.loc[table["task"] == "safety", "probabilities"])
    assert safety.sum(axis=1) == pytest.approx(1) and set(table["setting"]) == {"baseline"}


def test_words_that_tell_the_level_are_used_by_tfidf_alone():
    assert macro_f1("tfidf") > 0.7
    assert max(macro_f1(name) for name in ("majority", "source", "keyword")) < 0.45


def test_the_source_baseline_sees_nothing_but_the_source():
    level = ROWS["source"].map({"source0": "safe", "source1": "unsafe"})
    rows = ROWS.assign(safety=level, text="same")
    table = baselines.predict("source", rows)
    right = table[table["task"] == "safety"].merge(rows[["id", "safety"]])
    assert (right["label"].str[0] == right["safety"]).all()


def test_a_source_that_training_never_saw_gets_the_shares_of_all_rows():
    predictor = baselines.fit_source(ROWS[ROWS["split"] == "train"], "safety")
    found = predictor(ROWS.head(1).assign(source="new"))
    assert found.sum() == pytest.approx(1) and np.allclose(
        found[0], baselines.label_shares(ROWS[ROWS["split"] == "train"], "safety")
    )


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_labels_of_test_rows_change_no_prediction(name):
    turned = with_other_test_labels(ROWS, "unsafe")
    pd.testing.assert_frame_equal(baselines.predict(name, ROWS), baselines.predict(name, turned))


def test_a_category_that_was_never_asked_is_not_a_negative():
    known = np.array(ROWS["category_known"].to_list())
    labels = np.array(ROWS["categories"].to_list())
    share = baselines.label_shares(ROWS, "categories")
    assert share[5] == pytest.approx(labels[known[:, 5], 5].mean())
    assert share[5] > 1.5 * labels[:, 5].mean()


def test_a_training_set_with_one_level_still_gives_three_probabilities():
    rows = ROWS.assign(safety="safe")
    table = baselines.predict("tfidf", rows)
    assert {tuple(label) for label in table.loc[table["task"] == "safety", "label"]} == {("safe",)}


def test_a_category_that_no_training_row_knows_is_never_predicted():
    known = [[True] * 5 + [False]] * len(ROWS)
    table = baselines.predict("tfidf", ROWS.assign(category_known=known))
    last = np.stack(table.loc[table["task"] == "categories", "probabilities"])[:, 5]
    assert (last == 0).all()


def test_keywords_are_whole_words_and_pairs():
    texts = pd.Series(["he is skilled and begun", "kill", "I want to end my shift", "end my", "better off"])
    assert baselines.keyword_hits(texts, "kill gun end_my better_off").tolist() == [0, 1, 1, 1, 1]


def test_the_ablation_trains_without_reinterpretations():
    rows = ROWS.assign(origin=np.where((ROWS["split"] == "train") & (ROWS.index % 2 == 0), "reinterpretation", "human"))
    turned = rows.assign(safety=np.where(rows["origin"] == "reinterpretation", "unsafe", rows["safety"]))
    options = {"variant": "no-augmentation"}
    pd.testing.assert_frame_equal(
        baselines.predict("majority", rows, **options), baselines.predict("majority", turned, **options)
    )
    assert not baselines.predict("majority", rows)["probabilities"].equals(
        baselines.predict("majority", turned)["probabilities"]
    )


def test_a_left_out_source_is_predicted_without_its_labels():
    turned = ROWS.assign(safety=np.where(ROWS["source"] == "source0", "unsafe", ROWS["safety"]))
    first, second = (baselines.leave_one_source_out("tfidf", rows) for rows in (ROWS, turned))
    here = first["id"].isin(ROWS["id"][ROWS["source"] == "source0"])
    assert np.array_equal(np.stack(first["probabilities"][here]), np.stack(second["probabilities"][here]))
    assert set(first["id"]) == set(take(ROWS, "test")["id"])
    assert baselines.leave_one_source_out("tfidf", ROWS.assign(source="one")) is None


def test_a_text_that_a_left_out_source_shares_with_another_is_no_training_row(monkeypatch):
    seen = []
    fit = lambda train, task: seen.append(set(train["id"])) or baselines.fit_majority(train, task)  # noqa: E731
    monkeypatch.setitem(baselines.BASELINES, "tfidf", (fit, True))
    rows = ROWS.assign(source=np.where(ROWS.index % 2, "one", "two"))
    shared = rows.index[(rows["source"] == "two") & (rows["split"] == "train")][0]
    rows.loc[shared, "source_label"] = "one=x | two=x"
    baselines.leave_one_source_out("tfidf", rows)
    assert [rows.loc[shared, "id"] in trained for trained in seen] == [False, False]
    every = rows.assign(source_label="one=x | two=x")
    assert baselines.leave_one_source_out("tfidf", every) is None and shortcuts.left_out_sources(every) == {}


def test_a_source_of_a_few_rows_beside_a_large_one_stops_nothing():
    small = ROWS.head(3).assign(
        id=["s0", "s1", "s2"], source="small", split=["train", "train", "test"], text=["alpha", "beta", "gamma"]
    )
    rows = pd.concat([ROWS.assign(source="large"), small], ignore_index=True)
    assert set(baselines.leave_one_source_out("tfidf", rows)["id"]) == set(take(rows, "test")["id"])
    assert "left_out_source" in shortcuts.report(rows)
    report = shortcuts.report(rows[(rows["source"] == "large") | (rows["split"] == "test")], slow=False)
    assert "source_from_text" not in report and report["text"]["safety_macro_f1"] > 0.7


def test_texts_that_share_no_word_stop_nothing():
    rows = ROWS.assign(text=[f"word{number}" for number in range(len(ROWS))])
    assert set(baselines.predict("tfidf", rows)["id"]) == set(take(rows, "test")["id"])
    assert shortcuts.report(rows)["source_from_text"]["accuracy"] < 0.7
    assert acceptance.local_judge(rows)(["a word of no text"])[0] in SAFETY_LEVELS


def test_without_re_interpretations_the_same_training_rows_are_left_but_for_those(monkeypatch):
    """As in fine-tuning: their places are not filled with other rows, or two changes would be measured at once."""
    seen = []

    def fit(train, task):
        seen.append(train)
        return baselines.fit_majority(train, task)

    origin = np.where((ROWS["split"] == "train") & (ROWS.index % 3 == 0), "reinterpretation", "human")
    monkeypatch.setitem(baselines.BASELINES, "tfidf", (fit, True))
    for variant in ("", "no-augmentation"):
        baselines.predict("tfidf", ROWS.assign(origin=origin), train_rows=30, variant=variant)
    whole, without = seen[0], seen[-1]
    assert len(whole) == 30 and 0 < len(without) < 30
    assert without["id"].tolist() == whole.loc[whole["origin"] == "human", "id"].tolist()
