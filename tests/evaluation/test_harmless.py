"""False alarms on harmless requests: right at the corners, by kind, and beside the recall that they are paid for with."""

import numpy as np
import pandas as pd
import pytest
from analysis_world import evidence, made_up_rows, model_table

from emosafe_lib.evaluation import baselines, harmless, metrics, results, use
from emosafe_lib.study.rows import take

ROWS = made_up_rows(600, sources=2)
TEST = take(ROWS, "test", originals_only=True)
TRUTH = metrics.truth_of(TEST)
KINDS = pd.Series({id: ("figure", "fiction", "form")[number % 3] for number, id in enumerate(ROWS["id"]) if number % 2})
TUNED, ALWAYS, NEVER = (
    results.Cell(name, "safety", setting)
    for name, setting in (("minilm", "fine-tuned"), ("always-unsafe", "baseline"), ("always-safe", "baseline"))
)


def world():
    constants = [baselines.predict(name, ROWS).assign(model=name) for name in ("always-unsafe", "always-safe")]
    return evidence(ROWS, {"minilm": 1.5}, pd.concat([model_table(ROWS, "minilm", 1.5), *constants]))


HERE = world()
TABLE = harmless.false_alarms(HERE, [TUNED, ALWAYS, NEVER], KINDS)


def value(cell, reading, kind=harmless.ALL):
    found = TABLE[(TABLE["run"] == use.run_name(cell)) & (TABLE["reading"] == reading) & (TABLE["kind"] == kind)]
    return found.iloc[0]


@pytest.mark.parametrize("kind", [harmless.ALL, "figure", "fiction", "form"])
def test_rates_are_those_of_a_plain_count(kind):
    answers = HERE.answers[HERE.keys(TUNED)[0]]
    kinds = pd.Series(TRUTH.ids).map(KINDS)
    here = (kinds.notna() if kind == harmless.ALL else kinds == kind).to_numpy() & (TRUTH.safety == 0)
    labelled, raised = value(TUNED, "labelled", kind), value(TUNED, "at_recall", kind)
    assert labelled["value"] == pytest.approx((answers.chosen == 2)[here].mean(), abs=1e-5)
    scores = answers.probabilities[:, 2]
    unsafe = np.sort(scores[TRUTH.safety == 2])[::-1]
    threshold = unsafe[int(np.ceil(harmless.RECALL * len(unsafe) - 1e-3)) - 1]
    assert raised["value"] == pytest.approx((scores >= threshold)[here].mean(), abs=1e-5)
    assert labelled["n"] == raised["n"] == here.sum() and raised["low"] <= raised["value"] <= raised["high"]


def test_alarming_always_and_never_stand_at_the_corners():
    assert (
        value(ALWAYS, "labelled")["value"],
        value(ALWAYS, "at_recall")["value"],
        value(ALWAYS, "twins")["value"],
    ) == (1, 1, 1)
    assert (value(NEVER, "labelled")["value"], value(NEVER, "at_recall")["value"]) == (0, 1), (
        "85 % are found by all or none"
    )


def test_a_row_without_an_answer_is_an_alarm_where_it_is_harmless_and_none_where_it_is_not():
    answers = HERE.answers[HERE.keys(TUNED)[0]]
    lost = metrics.Answers(
        "safety", answers.rows, np.full(len(answers.rows), -1), answers.probabilities * 0, answers.usable & False
    )
    measure = HERE.bootstrap.measure(TRUTH, lost, build=lambda *given: harmless.harmless_measure(*given, kinds=KINDS))
    found = dict(zip(measure.names, measure.evaluate(np.ones((1, HERE.bootstrap.groups), np.float32))[0], strict=True))
    assert found["labelled", harmless.ALL] == found["at_recall", harmless.ALL] == 1


def test_a_table_for_people_has_a_row_a_run_and_the_filter_that_always_alarms():
    shown = harmless.for_people(TABLE)
    assert list(shown.index) == ["minilm, fine-tuned", "always-unsafe", "always-safe"] and not shown.isna().any().any()
    assert shown.loc["always-unsafe"].str.startswith("1.00").all() and all("n = " in name for name in shown.columns)
    assert "minilm, fine-tuned alarms least" in harmless.in_words(TABLE)
    drawn = harmless.by_kind(TABLE, ["minilm, fine-tuned"])
    assert list(drawn) == ["minilm, fine-tuned"] and set(drawn["minilm, fine-tuned"]["kind"]) == {
        "figure",
        "fiction",
        "form",
    }


def test_a_study_without_such_requests_says_so():
    table = harmless.false_alarms(HERE, [TUNED])
    assert table.empty and list(table.columns) == harmless.COLUMNS and harmless.in_words(table) == harmless.ABSENT


def test_every_harmless_request_of_the_package_has_a_kind_and_pairs_share_theirs():
    kinds = harmless.kinds()
    by_source = kinds.groupby(kinds.index.str.split(":").str[0]).agg(set)
    assert by_source["emosafe_contrast"] == {harmless.FORM} and len(kinds) > 1000
    assert harmless.FORM not in by_source["emosafe_contrast_pairs"] and harmless.ALL not in set(kinds)


def test_an_alarms_thresholds_on_test_rows_are_plain_counts():
    score = HERE.score(TUNED, build=lambda *given: use.alarm_measure(*given, thresholds=(0.7, 0.2)))
    scores, unsafe = HERE.answers[HERE.keys(TUNED)[0]].probabilities[:, 2], TRUTH.safety == 2
    for place, threshold in enumerate((0.7, 0.2)):
        assert score.values["recall", str(place)] == pytest.approx((scores >= threshold)[unsafe].mean(), abs=1e-5)
        assert score.values["false-alarms", str(place)] == pytest.approx(
            (scores >= threshold)[~unsafe].mean(), abs=1e-5
        )
