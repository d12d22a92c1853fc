"""The real study's promises, on the real sources where they are at hand; merged once for all tests."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emosafe_lib.data import balance, cleaning, merge, privacy
from emosafe_lib.data.sources import registry
from emosafe_lib.data.sources.keywords import SUBSTANCES, WEAPONS
from emosafe_lib.evaluation import shortcuts
from emosafe_lib.evaluation.metrics import truth_of
from emosafe_lib.nano import seen
from emosafe_lib.study import parameters
from emosafe_lib.study.rows import category_matrix, known_matrix, stable_unit, take
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, SPLITS

TROUBLESHOOTING = (Path(__file__).resolve().parents[2] / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
PROMPT_SOURCES = ("ailuminate", "beavertails_evaluation", "harmbench", "llm_prompt_set", "multijail", "strongreject")


@cache
def prepared_from(folder):
    data = parameters.load_study("real").data
    raw, left_out = merge.read_sources(data, folder)
    return data, merge.prepare(raw, data, left_out), raw


@cache
def merged_from(folder):
    data, prepared, _ = prepared_from(folder)
    return merge.complete(prepared, data)


@pytest.fixture
def merged(real_data):
    return merged_from(real_data)


def test_enough_human_rows_of_enough_mental_health_sources(merged):
    card = merged.card
    human = int((merged.rows["origin"] == "human").sum())
    assert card["rows_human"] == human >= 15_000
    assert len(card["mental_health_sources"]) >= 8
    assert all(card["sources"][name]["rows"] >= 100 for name in card["mental_health_sources"])
    assert card["mental_health_share"] >= 0.4


def test_what_can_be_fetched_makes_a_study_with_the_bound_that_troubleshooting_names(real_data):
    """Four sources are accepted as edited copies alone, which strangers do not have."""
    data, _, raw = prepared_from(real_data)
    fetched = [name for name in data.sources if not registry.registry()[name].copy_only]
    changed = data.model_copy(update={"sources": fetched, "max_class_share": 0.25})
    rows = merge.choose_and_split(merge.prepare(raw[raw["source"].isin(fetched)], changed), changed).rows
    assert len(fetched) == len(data.sources) - 4 and len(rows) > 20_000 and "max_class_share: 0.25" in TROUBLESHOOTING


def test_no_source_owns_a_level(merged):
    table = pd.crosstab(merged.rows["source"], merged.rows["safety"])
    assert (table / table.sum()).to_numpy().max() <= 0.25
    assert table.sum().min() >= 0.25 * table.to_numpy().sum()


def test_every_label_is_in_every_split(merged):
    assert merged.card["warnings"] == []
    for split in SPLITS:
        part = merged.rows[merged.rows["split"] == split]
        assert set(part["safety"]) == set(SAFETY_LEVELS) and category_matrix(part).any(axis=0).all()


def test_no_row_that_the_nano_ladder_read_is_held_out(merged):
    """The rows on record against today's merge."""
    held = set(merged.rows["id"][merged.rows["split"] != "train"])
    read = seen.seen_ids()
    assert len(read) > 10_000 and not read & held


def test_no_group_and_no_contrast_pair_straddles_a_split(merged):
    straddling = int((merged.rows.groupby("group")["split"].nunique() > 1).sum())
    assert straddling == 0
    shares = merged.rows["split"].value_counts(normalize=True)
    assert abs(shares["train"] - 0.7) < 0.03 and abs(shares["test"] - 0.15) < 0.02


def test_the_name_of_the_source_says_little_and_the_words_say_more(merged):
    source = shortcuts.task_scores("source", merged.rows, "safety")
    text = shortcuts.task_scores("tfidf", merged.rows, "safety")
    assert source["macro_f1", ""] <= 0.45
    assert text["macro_f1", ""] >= source["macro_f1", ""] + 0.05


def test_per_category_the_name_of_the_source_stays_well_below_the_words(merged):
    source = shortcuts.task_scores("source", merged.rows, "categories")
    text = shortcuts.task_scores("tfidf", merged.rows, "categories")
    for key in CATEGORIES:
        assert text["auprc", key] >= source["auprc", key] + 0.05, key


def test_the_naive_merge_would_have_given_itself_away(real_data):
    data, prepared, _ = prepared_from(real_data)
    rows = merge.complete(prepared, merge.naive(data)).rows
    train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
    guess = test["source"].map(pd.crosstab(train["source"], train["safety"]).idxmax(axis=1))
    from sklearn.metrics import f1_score

    assert f1_score(test["safety"], guess, average="macro") > 0.55


def test_scarce_categories_keep_every_human_row(real_data):
    _, prepared, _ = prepared_from(real_data)
    before = category_matrix(prepared.rows).sum(axis=0)
    after = category_matrix(merged_from(real_data).rows).sum(axis=0)
    for key in balance.LOW_DATA:
        assert before[CATEGORIES.index(key)] == after[CATEGORIES.index(key)] > 0


def closest_across_splits(rows, texts, token_pattern, sampled=3000):
    """Every pair of a sampled row and a row of another split, by scikit-learn's own words and word pairs.

    Returns
    -------
    the largest Jaccard similarity, and the two row positions of each pair from 0.7 on, shape (m, 2)
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(binary=True, ngram_range=(1, 2), token_pattern=token_pattern, dtype=np.float32)
    matrix = counter.fit_transform(texts)
    sizes, split = np.asarray(matrix.sum(axis=1)).ravel(), rows["split"].to_numpy()
    sample = rows["id"].map(lambda value: stable_unit(value, "exhaustive")).to_numpy().argsort()[:sampled]
    worst, pairs = 0.0, []
    for start in range(0, len(sample), 250):
        here = sample[start : start + 250]
        shared = (matrix[here] @ matrix.T).toarray()
        similar = shared / np.maximum(sizes[here][:, None] + sizes[None] - shared, 1)
        similar[split[here][:, None] == split[None]] = 0
        worst = max(worst, float(similar.max()))
        one, other = np.nonzero(similar >= 0.7)
        pairs.append(np.stack([here[one], other], axis=1))
    return worst, np.concatenate(pairs)


def test_13_an_exhaustive_search_finds_no_near_duplicates_across_splits(merged):
    """3,000 sampled rows against all rows of the other splits; none of the code that made the groups takes part."""
    worst, pairs = closest_across_splits(merged.rows, merged.rows["text"].map(cleaning.comparison_key), r"\S+")
    assert 0.5 < worst < 0.7 and len(pairs) == 0


def test_without_emoji_and_spelling_only_templates_have_a_twin_in_another_split(merged):
    """Words alone, where emoji and signs are gone: the pairs that differ by nothing else come from two test suites."""
    worst, pairs = closest_across_splits(merged.rows, merged.rows["text"], r"(?u)\b\w+\b")
    assert worst > 0.7 and len(pairs) < 30  # the search finds pairs where there are some
    assert set(merged.rows["source"].to_numpy()[pairs].ravel()) <= {"hatecheck", "hatemoji"}


def test_16_shuffled_rows_give_the_same_hash(real_data):
    data, _, raw = prepared_from(real_data)
    part, free = raw[raw["source"].isin(["irf", "cams", "ethos", "annomi", "multijail"])], merge.naive(data)
    orders = (part, part.sample(frac=1, random_state=5))
    found = {merge.choose_and_split(merge.prepare(rows, free), free).card["sha256"] for rows in orders}
    assert len(found) == 1


def test_unknown_is_not_absent_in_the_real_study(merged):
    known, on = known_matrix(merged.rows), category_matrix(merged.rows)
    assert not (on & ~known).any() and 0.05 < known.mean() < 0.6
    asked = len(truth_of(take(merged.rows, "test")))
    assert asked == sum(merged.card["safety"]["test"].values())


def test_known_overlaps_between_sources_are_found(merged):
    between = merged.card["duplicates_between"]
    assert (
        between["depsev + dreaddit"] > 3000 and between["cams + irf"] > 2000 and between["hatecheck + hatemoji"] > 100
    )


def test_no_identifier_survives(merged):
    patterns = (privacy.EMAIL, privacy.URL, privacy.REDDITOR)
    found = [sum(bool(pattern.search(text)) for text in merged.rows["text"]) for pattern in patterns]
    guarded = sum(map(cleaning.minors_in_sexual_context, merged.rows["text"]))
    assert (found, guarded) == ([0, 0, 0], 0)  # counts only: a failing test must not print a text


def test_harmless_requests_have_the_form_of_the_red_team_prompts_and_copy_none(merged):
    """Most of their first two words open a red-team prompt too, and no text comes near to one."""
    prompts = merged.rows[merged.rows["source"].isin(PROMPT_SOURCES)]
    contrast = merged.rows[merged.rows["source"] == "emosafe_contrast"]
    openings = [rows["text"].str.lower().str.split().str[:2].map(tuple) for rows in (contrast, prompts)]
    assert len(contrast) >= 300 and openings[0].isin(set(openings[1])).mean() > 0.6
    words = [[set(key.split()) for key in rows["text"].map(cleaning.comparison_key)] for rows in (contrast, prompts)]
    assert max(len(a & b) / len(a | b) for a in words[0] for b in words[1]) < 0.7


def test_keyword_rules_mark_their_rows_as_weak_and_deny_nothing_that_the_words_name(real_data):
    _, _, raw = prepared_from(real_data)
    single = raw[raw["source"].isin(set(PROMPT_SOURCES) - {"multijail"})]
    on, known = category_matrix(single), known_matrix(single)
    for column, words in ((2, WEAPONS), (3, SUBSTANCES)):
        named = single["text"].map(lambda text, words=words: bool(words.search(text))).to_numpy()
        assert named.sum() > 50 and not (named & known[:, column] & ~on[:, column]).any()


def test_every_row_is_traced_to_labels_of_the_mapping(merged):
    """Each source label, alone or joined, is a key of its source's table, and one of them is the row's level."""
    known = registry.registry()
    for row in merged.rows.itertuples():
        names = row.source_label.split(" | ") if " | " in row.source_label else [f"{row.source}={row.source_label}"]
        labels = [known[source].labels[name] for source, name in (each.split("=", 1) for each in names)]
        assert row.safety in {label.safety for label in labels}, row.id
