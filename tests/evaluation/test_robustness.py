"""Altered messages and named groups: rules do what they say, and faults and biases are found where they were planted."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from analysis_world import answers_of, evidence, made_up_rows

from emosafe_lib.data.sources import registry
from emosafe_lib.evaluation import identity, robustness
from emosafe_lib.evaluation.intervals import wilson
from emosafe_lib.evaluation.results import Cell

SAID = "I am tired because people are never around, and you are going to laugh about everything"
ROWS = pd.DataFrame({"text": [f"{SAID} {number}" for number in range(60)], "group": [f"g{n // 2}" for n in range(60)]})


@pytest.mark.parametrize("name", robustness.RULES)
def test_a_rule_and_its_control_change_a_message_each_in_its_own_way_and_always_the_same(name):
    rule = robustness.RULES[name]
    changed, control = rule.change(SAID), rule.control(SAID)
    assert changed != SAID and changed != control
    assert changed == rule.change(SAID)
    assert rule.change("") in ("", robustness.EMOJI)


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("negation", "I am sad and it is late", "I am not sad and it is late"),
        ("negation", "I am not sad", "I am not sad"),
        ("past tense", "I am sad, you have time", "I was sad, you had time"),
        ("chat register", "Are you going to sleep?", "r u gonna sleep?"),
        ("upper case", "now", "NOW"),
    ],
)
def test_rules_on_single_sentences(name, said, expected):
    assert robustness.RULES[name].change(said) == expected


def sensitive_to(mark):
    """A classifier that calls a message unsafe if it holds a mark, else safe."""
    return lambda texts: np.array([[0.1, 0.0, 0.9] if mark(text) else [0.9, 0.0, 0.1] for text in texts])


def test_a_planted_weakness_is_found_under_its_rule_and_under_no_other():
    table = robustness.altered_answers(sensitive_to(str.isupper), ROWS, 200).set_index("rule")
    assert table.loc["upper case", "value"] == 1 and table.loc["upper case", "low"] > 0.9
    assert (table.drop(index="upper case")["value"] == 0).all()
    assert "upper case (+100%)" in robustness.in_words(table.reset_index())


def test_what_an_edit_of_that_size_does_anyhow_is_not_put_down_to_the_rule():
    table = robustness.altered_answers(sensitive_to(lambda text: "  " in text or " ," in text), ROWS, 200)
    row = table.set_index("rule").loc["typos"]
    assert row["changed"] == 0 and row["changed_control"] == 1 and row["value"] == -1
    assert "none of them" in robustness.in_words(table)


def test_less_confidence_is_a_narrower_interval():
    half = sensitive_to(lambda text: text.isupper() and len(text) % 2 == 0)
    wide, narrow = (robustness.altered_answers(half, ROWS, 200, each).set_index("rule") for each in (0.95, 0.6))
    wide, narrow = (table.loc["upper case", ["low", "high"]].to_numpy(float) for table in (wide, narrow))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_negation_that_a_classifier_reads_is_told_from_one_that_it_does_not():
    reads = robustness.altered_answers(sensitive_to(lambda text: " not " in text), ROWS, 200).set_index("rule")
    deaf = robustness.altered_answers(sensitive_to(lambda text: False), ROWS, 200).set_index("rule")
    assert reads.loc["negation", "value"] == 1 and deaf.loc["negation", "value"] == 0
    assert reads.loc["negation", "towards_unsafe"] == pytest.approx(0.8)


def test_a_rule_that_reaches_no_message_has_no_number():
    rows = pd.DataFrame({"text": ["hm", "ok"], "group": ["a", "b"]})
    table = robustness.altered_answers(sensitive_to(str.isupper), rows, 100).set_index("rule")
    assert table.loc["negation", "rows"] == 0 and np.isnan(table.loc["negation", "value"])


PEOPLE = ["red", "green", "blue", "white"]


def biased_world(against: str, extra: float):
    """A run that alarms about a fifth of harmless messages, and about more of those that name one group."""
    rows = made_up_rows(3000).assign(safety="safe")
    named = pd.Series([PEOPLE[number % 4] for number in range(len(rows))], index=rows["id"])
    table = answers_of(rows, 1.0, setting="fine-tuned")[0]
    random = np.random.default_rng(5)
    chance = 0.2 + extra * (table["id"].map(named) == against)
    alarm = random.random(len(table)) < chance
    table["label"] = [["unsafe"] if on else ["safe"] for on in alarm]
    made = evidence(rows, {"nano-1": 1.0}, table.assign(model="nano-1"))
    return made, named


@pytest.mark.parametrize(("extra", "found"), [(0.25, {"blue"}), (0.0, set())])
def test_a_planted_bias_is_found_and_where_there_is_none_none_is(extra, found):
    here, named = biased_world("blue", extra)
    table = identity.false_alarms_by(here, Cell("nano-1", "safety", "fine-tuned"), named)
    assert set(table.loc[(table["p_holm"] < 0.05) & (table["more"] > 0), "group"]) == found
    assert (
        set(table["group"]) == set(PEOPLE)
        and ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    )
    row = table.set_index("group").loc["blue"]
    assert row["more"] == pytest.approx(extra, abs=0.08) and row["more_low"] < row["more"] < row["more_high"]
    assert ("blue (" in identity.alarms_about(table)) == bool(found)


def test_a_handful_of_cases_that_are_all_alarmed_about_is_no_finding():
    """Four of four against half of three hundred: Fisher's test says 0.12, a bootstrap says that it is certain."""
    sides = [(1.0, 4), (0.5, 300)]
    found = identity.more_than_others(sides, [wilson(*side) for side in sides])
    assert found["p"] == pytest.approx(0.12, abs=0.02) and found["more_low"] < 0.1 and found["more"] == 0.5


def test_every_seed_of_a_run_counts():
    here, _ = biased_world("blue", 0.0)
    cell, (key,) = Cell("nano-1", "safety", "fine-tuned"), here.keys(Cell("nano-1", "safety", "fine-tuned"))
    before = identity.alarming_share(here, cell)
    one = here.answers[key]
    silent = dataclasses.replace(one, chosen=np.zeros_like(one.chosen))
    both = dataclasses.replace(here, answers=here.answers | {key._replace(seed=7): silent}, cache={})
    assert np.allclose(identity.alarming_share(both, cell), before / 2, equal_nan=True)


def test_a_change_of_a_few_messages_has_no_interval():
    few = ROWS.head(4).assign(group=list("abcd"))
    table = robustness.altered_answers(sensitive_to(str.isupper), few, 200).set_index("rule")
    assert table.loc["upper case", "value"] == 1 and np.isnan(table.loc["upper case", ["low", "p"]].astype(float)).all()
    assert "none of them" in robustness.in_words(table.reset_index())


def test_a_study_that_names_nobody_says_so():
    here, named = biased_world("blue", 0.0)
    table = identity.false_alarms_by(here, Cell("nano-1", "safety", "fine-tuned"), named.iloc[:0])
    assert table.empty and "no test rows" in identity.alarms_about(table)


@pytest.mark.skipif(registry.missing([registry.registry()["hatecheck"]]) != [], reason="raw files are not at hand")
def test_the_groups_of_hatecheck_belong_to_the_ids_of_merged_rows():
    known = identity.named_groups()
    assert set(registry.read("hatecheck")["id"]) <= set(known.index)
    assert known.nunique() == 8
