"""Own data that is honest but partial: what was not asked is left out, and what cannot be studied is refused at once."""

import numpy as np
import pandas as pd
import pytest
import tiny_models

from emosafe_lib.data import splits
from emosafe_lib.evaluation import baselines, claims, results
from emosafe_lib.finetuning.plan import runs_of
from emosafe_lib.prompting import scoring, wordings
from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams, FinetuningParams, PromptingParams
from emosafe_lib.study.rows import known_matrix, tasks_asked
from emosafe_lib.study.taxonomy import CATEGORIES, TASKS

ROWS = tiny_models.make_rows(48, 18)


def asked_about(*names, **changes):
    """The rows as a source brings them that asks about these categories alone."""
    known = [[name in names for name in CATEGORIES]] * len(ROWS)
    flags = [[on and name in names for on, name in zip(row, CATEGORIES, strict=True)] for row in ROWS["categories"]]
    return ROWS.assign(category_known=known, categories=flags, **changes)


BARE, ONE = asked_about(), asked_about(CATEGORIES[0])
TWO = ROWS[ROWS["safety"] != "borderline"].reset_index(drop=True)


def test_the_categories_are_a_task_where_one_is_answered_both_ways_and_asked_everywhere():
    assert tasks_asked(BARE) == ("safety",) and tasks_asked(ONE) == TASKS == tasks_asked(ROWS)
    for split in ("validation", "test"):
        known = np.where((ONE["split"] == split).to_numpy()[:, None], False, known_matrix(ONE)).tolist()
        assert tasks_asked(ONE.assign(category_known=known)) == ("safety",)
    assert tasks_asked(asked_about(CATEGORIES[5])) == ("safety",)  # all rows say no
    only = ONE.assign(origin=np.where(ONE["split"] == "train", "reinterpretation", "human"))
    assert tasks_asked(only) == ("safety",)


def test_what_is_not_asked_is_neither_prompted_nor_trained_nor_predicted():
    for way in scoring.ways_of_asking(PromptingParams(), tasks_asked(BARE)):
        assert way["task"] == "safety"
    settings = FinetuningParams(seeds=[0], budgets=[10], ablation=True, ablation_tasks=["safety", "categories"])
    assert {run["task"] for run in runs_of(settings, tasks_asked(BARE))} == {"safety"}
    assert {run["task"] for run in runs_of(settings)} == set(TASKS)
    for name in baselines.BASELINES:
        assert set(baselines.predict(name, BARE)["task"]) == {"safety"}
    assert set(baselines.predict("tfidf", ONE)["task"]) == set(TASKS)


@pytest.mark.parametrize("rows", [ROWS, BARE, ONE, TWO], ids=["all", "bare", "one", "two"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shots", [1, 4, 1000])
def test_exemplars_are_drawn_from_what_there_is_and_stay_balanced(rows, task, shots):
    train = rows[rows["split"] == "train"]
    shots = min(shots, wordings.most_shots(train, task))
    turns = wordings.draw_exemplars(train, task, shots, 0)
    counts = pd.Series([(turn.number, turn.answer) for turn in turns], dtype=object).value_counts()
    assert (counts == shots).all()
    if task == "safety":
        assert {turn.answer for turn in turns} == set(train["safety"])


@pytest.mark.parametrize("task", TASKS)
def test_rows_that_cannot_be_shown_give_one_exemplar_to_ask_for(task):
    assert wordings.most_shots(ROWS.assign(origin="reinterpretation"), task) == 1


def test_one_level_is_refused_in_stage_01_and_what_is_not_asked_is_said():
    with pytest.raises(MergeError, match="split train: all training rows are safe.*; add rows of another level"):
        splits.refuse_one_level(ROWS[ROWS["safety"] == "safe"])
    splits.refuse_one_level(TWO)
    told = splits.split_warnings(BARE)
    assert [f"{name}: not asked in this study" for name in CATEGORIES] == [one for one in told if "not asked" in one]
    assert any("categories: not studied" in one for one in splits.split_warnings(asked_about(CATEGORIES[5])))
    assert not any("not studied" in one or "not asked" in one for one in splits.split_warnings(ROWS))


@pytest.mark.parametrize(
    ("rows", "tasks"), [(BARE, ("safety",)), (ONE, TASKS), (TWO, TASKS)], ids=["bare", "one", "two"]
)
def test_tables_gaps_and_claims_speak_of_what_was_asked(rows, tasks):
    study = tiny_models.study_params()
    table = pd.concat([baselines.predict(name, rows).assign(model=name) for name in baselines.BASELINES])
    evidence = results.gather(study, {}, {}, rows, table.assign(data_sha256="d"))
    assert evidence.tasks == tasks and set(evidence.gaps["task"]) <= set(tasks)
    found = results.results_table(evidence)
    assert set(found["task"]) == set(tasks)
    checked = claims.check_all(evidence, "none")
    silent = {name for name, claim in checked.items() if claim.because.startswith(claims.NOT_ASKED)}
    assert silent == (set(claims.NEEDS_CATEGORIES) if tasks == ("safety",) else set())


def test_a_study_of_many_splits_still_refuses_an_empty_one():
    with pytest.raises(MergeError, match="no row of"):
        splits.refuse_empty_splits(TWO[TWO["split"] != "test"], DataParams(sources=["made"]))
