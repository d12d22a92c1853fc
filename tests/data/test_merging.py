"""The steps of the merge on two-row tables, one attack a test."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from emosafe_lib.data import cleaning, duplicates, merge, privacy
from emosafe_lib.data.sources import registry
from emosafe_lib.data.sources.base import RAW_COLUMNS
from emosafe_lib.evaluation import shortcuts
from emosafe_lib.study import parameters, paths
from emosafe_lib.study.errors import MergeError, SourceError
from emosafe_lib.study.parameters import DataParams, OwnSourceParams
from emosafe_lib.study.taxonomy import CATEGORIES, ROW_COLUMNS, SAFETY_LEVELS, SPLITS

NONE = (False,) * 6
HATE = (True, *NONE[1:])
# The embedded sample is a registered source with a known role; rows under its name need no file.
FREE = DataParams(sources=["emosafe_sample"], balance_sources=False, max_class_share=1.0)


def row(text, safety="safe", quality="direct", source="emosafe_sample", link="", known=NONE, **values):
    row.count = getattr(row, "count", 0) + 1
    made = {
        "id": f"{source}:{row.count}",
        "text": text,
        "source": source,
        "source_label": f"{safety}!",
        "emotion": None,
        "safety": safety,
        "categories": NONE,
        "category_known": known,
        "link": link,
        "origin": "human",
        "quality": quality,
        "register": "comment",
    }
    return made | values


def table(*rows_of) -> pd.DataFrame:
    return pd.DataFrame(rows_of, columns=list(RAW_COLUMNS), dtype=object)


def merged_table(raw, data) -> merge.Merged:
    return merge.choose_and_split(merge.prepare(raw, data), data)


def merged(*rows_of, data=FREE) -> merge.Merged:
    return merged_table(table(*rows_of), data)


# --- what may not be merged -------------------------------------------------------------------------------------------


def test_1_missing_sources_are_named_together_before_anything_is_read(tmp_path):
    data = FREE.model_copy(update={"sources": ["irf", "ethos", "emosafe_sample"]})
    with pytest.raises(SourceError, match="5 files missing: ethos/.*irf/"):
        merge.merge(data, tmp_path)


@pytest.mark.parametrize("role", ["train", "external"])
def test_1_a_file_of_one_s_own_is_missed_at_once_and_looked_for_below_the_checkout(tmp_path, monkeypatch, role):
    monkeypatch.setattr("emosafe_lib.data.sources.own.project_root", lambda: tmp_path)
    mine = OwnSourceParams(name="mine", file="data/mine.csv", role=role)
    merged_too = ["mine"] if role == "train" else []
    data = FREE.model_copy(update={"sources": ["emosafe_sample", *merged_too], "own_sources": [mine]})
    with pytest.raises(SourceError) as told:
        merge.read_sources(data)
    remedy = "put your own where own_sources says, by its path from the checkout, or correct that path"
    assert str(told.value) == f"data: 1 files missing: data/mine.csv; {remedy}"
    with pytest.raises(SourceError, match=r"4 files missing: .*data/mine.csv.*; run `make data .*; put your own where"):
        merge.read_sources(data.model_copy(update={"sources": ["irf", *merged_too]}), tmp_path)


@pytest.mark.parametrize("name", ["xstest", "openai_moderation", "simplesafetytests", "wikitext2"])
def test_sources_that_are_not_for_training_are_refused(name):
    with pytest.raises(MergeError, match=rf"{name} \(role .*not for training"):
        merge.merge(FREE.model_copy(update={"sources": ["emosafe_sample", name]}))


def test_an_unregistered_source_is_refused():
    with pytest.raises(SourceError, match="sources nothing_here: not registered; choose among"):
        merge.merge(FREE.model_copy(update={"sources": ["nothing_here"]}))


@pytest.mark.parametrize("role", ["train", "external"])
def test_a_parameter_file_alone_adds_a_source(tmp_path, monkeypatch, role):
    monkeypatch.setattr("emosafe_lib.data.sources.own.project_root", lambda: tmp_path)
    (tmp_path / "a.csv").write_text("text,safety,violence_hate\nmine alone,unsafe,1\n", encoding="utf-8")
    mine = OwnSourceParams(name="mine", file="a.csv", role=role)
    data = FREE.model_copy(update={"sources": ["mine"], "own_sources": [mine]})
    if role == "external":
        with pytest.raises(MergeError, match=r"mine \(role external\): not for training"):
            merge.merge(data)
        assert len(registry.read(registry.known_sources(data)["mine"])) == 1
    else:
        found = merged_table(merge.read_sources(data)[0], data)
        assert found.rows["text"].tolist() == ["mine alone"] and found.rows["categories"].iloc[0] == HATE


def external_study(tmp_path, monkeypatch, text):
    monkeypatch.setattr("emosafe_lib.data.sources.own.project_root", lambda: tmp_path)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    return FREE.model_copy(update={"own_sources": [OwnSourceParams(name="mine", file="a.csv", role="external")]})


def test_an_evaluation_only_set_is_cleaned_and_loses_what_the_study_has_read(tmp_path, monkeypatch):
    long = "every evening since the move i walk along the river and wonder whether anybody at home still thinks of me"
    text = f"text,safety\nread before!,safe\n{long.replace('home', 'work')},safe\nwrite to jo@mail.example.org,unsafe\n"
    data = external_study(tmp_path, monkeypatch, text + "\u202e,safe\nWRITE to jo@mail.example.org,unsafe\n")
    prepared = merge.prepare(table(row("Read before"), row(long)), data)
    rows, facts = merge.external_rows(data, prepared)
    assert rows["text"].str.lower().tolist() == ["write to [email]"] and set(rows["split"]) == {"test"}
    assert list(rows.columns) == list(ROW_COLUMNS)
    assert facts == {"mine": {"read": 5, "distinct": 3, "seen": 2, "kept": 1}}


def test_an_evaluation_only_set_is_scored_but_changes_no_merged_row(tmp_path, monkeypatch):
    data = external_study(
        tmp_path, monkeypatch, "text,safety\nan own harmless line,safe\nan own alarming line,unsafe\n"
    )
    raw, _ = merge.read_sources(data)
    prepared = merge.prepare(raw, data)
    found = merge.complete(prepared, data)
    assert found.card["sha256"] == merged_table(raw, FREE).card["sha256"]
    report = shortcuts.external_report(found.rows, merge.external_rows(data, prepared)[0])
    assert report["mine"]["rows"] == 2 and report["mine"]["safety"] == {"safe": 1, "borderline": 0, "unsafe": 1}
    assert 0 <= report["mine"]["safety_macro_f1"] <= 1 and report["mine"]["category_auprc"]["violence_hate"] is None


def test_a_study_without_evaluation_only_sets_has_none():
    rows, facts = merge.external_rows(FREE, merge.prepare(table(row("one")), FREE))
    assert facts == {} and len(rows) == 0 and list(rows.columns) == list(ROW_COLUMNS)


def test_an_own_source_cannot_take_a_registered_name():
    mine = OwnSourceParams(name="irf", file="a.csv")
    with pytest.raises(SourceError, match="is the name of a registered source"):
        merge.merge(FREE.model_copy(update={"own_sources": [mine]}))


def test_11_an_id_given_twice_is_an_error():
    with pytest.raises(MergeError, match="id x: appears twice"):
        merged(row("one", id="x"), row("two", id="x"))


# --- quarantine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  ", "empty"),
        ("?!...", "empty"),
        ("\u200b\u200d", "empty"),
        ("a\x00b", "NUL character"),
        ("a \u202eb", "bidirectional control"),
        ("a \ud83d b", "lone surrogate"),
        ("word " * 3000, "run together (too long)"),
    ],
)
def test_14_bad_texts_are_quarantined_and_counted(text, reason):
    found = merged(row(text), row("a good text"))
    assert found.rows["text"].tolist() == ["a good text"]
    assert found.card["quarantined"] == 1 and found.card["quarantined_by_reason"] == {reason: 1}


def test_14_emoji_with_joiners_are_no_attack():
    found = merged(row("family 👨‍👩‍👧 ❤️"))
    assert found.rows["text"].tolist() == ["family 👨‍👩‍👧 ❤️"]


def test_minors_near_sexual_words_are_left_out():
    far = "the child slept. " + "nothing happened. " * 30 + "they talked about sex education policy"
    assert cleaning.minors_in_sexual_context("a teenager and porn")
    assert cleaning.minors_in_sexual_context("pedophile")
    assert not cleaning.minors_in_sexual_context(far)
    assert not cleaning.minors_in_sexual_context("my child is ill") and not cleaning.minors_in_sexual_context(
        "a sexual remark"
    )


def test_5_texts_like_none_survive_the_merge():
    assert sorted(merged(row("None"), row("NA"), row("null")).rows["text"]) == ["NA", "None", "null"]


# --- scrub and normalise ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("mail jo.doe+x@mail.example.org now", "mail [EMAIL] now"),
        ("see https://site.example/user/jo?x=1 ok", "see [URL] ok"),
        ("reddit.com/u/somebody said", "[URL] said"),
        ("thanks u/some_body-1 and /u/other", "thanks u/[USER] and u/[USER]"),
        ("@someone hello", "@[USER] hello"),
        ("call +49 (170) 123-4567!", "call [PHONE]!"),
        ("555 123 4567", "[PHONE]"),
        ("helpline 1-800-273-8255", "helpline 1-800-273-8255"),
        ("in 2019-2020 I paid $1,200,000.00", "in 2019-2020 I paid $1,200,000.00"),
        ("nothing / here", "nothing / here"),
        ("already @[USER] and u/[USER]", "already @[USER] and u/[USER]"),
    ],
)
def test_identifiers_are_scrubbed_and_helplines_kept(text, scrubbed):
    assert privacy.scrub(text) == scrubbed


def test_an_invisible_character_hides_no_address():
    assert "example" not in merged(row("write jo@mail.exam\u200bple.org or WWW.Exam\ufeffple.org")).rows["text"].iloc[0]


def test_texts_stay_out_of_the_representation():
    assert "a private line" not in repr(merged(row("a private line")))


def test_scrubbing_is_counted_and_reaches_the_rows():
    found = merged(row("write to jo@mail.example.org"), row("plain"))
    assert found.card["identifiers_scrubbed"] == 1 and "[EMAIL]" in " ".join(found.rows["text"])


@pytest.mark.parametrize(
    "variant",
    [
        "i can’t SLEEP",
        "I cant sleep!!!",
        "I can't\u200b sleep",
        "Ｉ can't sleep",
        "I  can't\n sleep",
        "“I can't sleep”",
    ],
)
def test_13_variants_of_one_text_have_one_key(variant):
    assert cleaning.comparison_key(variant) == cleaning.comparison_key("I can't sleep")


def test_13_composed_and_decomposed_letters_have_one_key():
    assert cleaning.comparison_key("cafe\u0301") == cleaning.comparison_key("café") and cleaning.comparison_key("café")


def test_emoji_decide_whether_texts_are_the_same():
    assert cleaning.comparison_key("you 🐍") != cleaning.comparison_key("you 🌹") != cleaning.comparison_key("you")


def test_13_near_duplicates_are_one_group_in_one_split():
    long = "every evening since the move i walk along the river and wonder whether anybody at home still thinks of me"
    near = long.replace("evening", "EVENING!").replace("anybody", "somebody")
    other = "completely different words that have nothing to do with the first"
    found = merged(row(long), row(near), row(other)).rows
    pair = found[found["text"].str.contains("river")]
    assert len(pair) == 2 and pair["group"].nunique() == 1 and pair["split"].nunique() == 1
    assert found["group"].nunique() == 2


# --- duplicates and conflicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("safety", "quality", "settled"),
    [
        (["safe", "unsafe"], ["direct", "weak"], "safe"),
        (["safe", "unsafe"], ["direct", "direct"], "unsafe"),
        (["safe", "safe", "unsafe"], ["direct"] * 3, "safe"),
        (["borderline", "unsafe"], ["weak", "weak"], "unsafe"),
        (["safe", "borderline", "unsafe", "unsafe"], ["direct", "direct", "weak", "weak"], "borderline"),
    ],
)
def test_12_conflicting_labels_follow_the_policy(safety, quality, settled):
    assert duplicates.settle(safety, quality) == settled
    assert duplicates.settle(safety[::-1], quality[::-1]) == settled


def test_12_conflicts_and_duplicates_are_counted():
    found = merged(row("Same text.", "safe"), row("same TEXT", "unsafe"), row("same text!", "unsafe"), row("other"))
    assert (found.card["exact_duplicates"], found.card["conflicts"], len(found.rows)) == (2, 1, 2)
    kept = found.rows[found.rows["text"] != "other"].iloc[0]
    assert kept["safety"] == "unsafe" and "safe!" in kept["source_label"] and "unsafe!" in kept["source_label"]


def test_what_one_source_knows_survives_joining():
    known = merged(
        row("same", known=(True, False, *NONE[2:]), categories=HATE), row("Same", known=(False, True, *NONE[2:]))
    ).rows
    assert known["category_known"].iloc[0][:2] == (True, True) and known["categories"].iloc[0] == HATE


def test_the_credit_for_a_shared_text_does_not_depend_on_its_label():
    pair = [row("same", "safe", source="a", key="same"), row("same", "unsafe", source="b", key="same")]
    flipped = [pair[0] | {"safety": "unsafe"}, pair[1] | {"safety": "safe"}]
    assert (
        duplicates.credited(pair)["source"]
        == duplicates.credited(flipped)["source"]
        == duplicates.credited(pair[::-1])["source"]
    )
    texts = [f"text {n}" for n in range(200)]
    credits = [duplicates.credited([row(t, source="a", key=t), row(t, source="b", key=t)])["source"] for t in texts]
    assert 60 < credits.count("a") < 140


WEAK_HATE = {"categories": HATE, "category_known": HATE, "quality": "weak"}
NO_HATE = {"categories": NONE, "category_known": HATE}


@pytest.mark.parametrize(
    ("cells", "touched"),
    [
        ([WEAK_HATE, NO_HATE | {"quality": "direct"}], False),
        ([WEAK_HATE, NO_HATE | {"quality": "weak"}], True),
        ([WEAK_HATE, {"categories": NONE, "category_known": NONE, "quality": "direct"}], True),
        ([WEAK_HATE | {"quality": "direct"}, *[NO_HATE | {"quality": "direct"}] * 2], False),
        ([{"categories": NONE, "category_known": NONE, "quality": "direct"}] * 2, False),
    ],
)
def test_12_a_category_is_settled_by_those_who_were_asked_and_direct_labels_count_first(cells, touched):
    assert duplicates.settle_category(cells, 0) is touched and duplicates.settle_category(cells[::-1], 0) is touched


def test_12_category_conflicts_are_counted():
    same = [row("one text", **WEAK_HATE), row("One text!", **NO_HATE, quality="weak"), row("other", **WEAK_HATE)]
    found = merged(*same)
    assert (found.card["category_conflicts"], found.card["conflicts"]) == (1, 0)
    assert sorted(found.rows["categories"].map(any)) == [True, True]


# --- groups -----------------------------------------------------------------------------------------------------------


def test_rows_with_one_link_share_a_group():
    found = merged(
        row("one thing", link="user 1"), row("quite another", link="user 1"), row("third", link="user 2")
    ).rows
    assert found["group"].nunique() == 2


def test_a_text_shared_by_two_users_ties_both_together_unless_it_is_small_talk():
    long = "a sentence that is long enough to be nobody else's by chance at all"
    tied = [row(long, link="u1"), row(long, link="u2"), row("first own words", link="u1"), row("second own", link="u2")]
    assert merged(*tied).rows["group"].nunique() == 1
    loose = [r | {"text": "thanks a lot"} if r["text"] == long else r for r in tied]
    assert merged(*loose).rows["group"].nunique() == 3


def test_a_template_is_never_small_talk():
    rows = [row("i hate them", link=f"t{n}", register="template", id=f"x:{n}") for n in (1, 2)]
    rows += [
        row("more of the first", link="t1", register="template"),
        row("of the second", link="t2", register="template"),
    ]
    assert merged(*rows).rows["group"].nunique() == 1


# --- balance ----------------------------------------------------------------------------------------------------------


def lopsided(n=60):
    kinds = {"safe": ("convabuse", "hatecheck"), "borderline": ("convabuse",), "unsafe": ("convabuse", "edos")}
    return [
        row(f"{level} {source} a{i} b{i * 7} c{i * 11}", level, source=source)
        for level, names in kinds.items()
        for source in names
        for i in range(n)
    ]


def test_balance_keeps_the_name_of_a_source_from_telling_the_label():
    base = DataParams(sources=["convabuse", "hatecheck", "edos"], max_class_share=1.0, min_mental_health_share=0.0)
    naive = merged(*lopsided(), data=merge.naive(base)).rows
    kept = merged(*lopsided(), data=base.model_copy(update={"max_source_accuracy": 0.4})).rows

    def best_guess(found):
        return pd.crosstab(found["source"], found["safety"]).max(axis=1).sum() / len(found)

    assert len(naive) == 300 and best_guess(naive) == 0.6
    assert best_guess(kept) <= 0.4 + 0.02 and len(kept) > 150


def test_bounds_that_contradict_each_other_are_an_error():
    data = DataParams(sources=["hatecheck"], max_source_accuracy=0.1, min_mental_health_share=0.0)
    with pytest.raises(MergeError, match="no choice of rows meets .* in the way: max_source_accuracy; "):
        merged(row("a", source="hatecheck"), row("b", "unsafe", source="hatecheck"), data=data)


def test_the_one_bound_that_is_in_the_way_is_named():
    """Own data says of itself that nobody speaks of their mental health there, and by default two fifths have to."""
    data = DataParams(sources=["hatecheck"], max_class_share=1.0, max_source_accuracy=1.0)
    with pytest.raises(MergeError, match="in the way: min_mental_health_share; "):
        merged(
            *(row(f"{level} {n}", level, source="hatecheck") for level in SAFETY_LEVELS for n in range(4)), data=data
        )


def test_caps_hold_and_scarce_categories_come_first():
    scarce = tuple(name == "guns_illegal_weapons" for name in CATEGORIES)
    rows = [row(f"plain number {i} {i * 7919}", "unsafe") for i in range(30)]
    rows += [row(f"scarce {i} {i * 7919}", "unsafe", categories=scarce, known=scarce) for i in range(5)]
    data = FREE.model_copy(update={"caps": {"emosafe_sample": 8}})
    found = merged(*rows, data=data).rows
    assert len(found) == 8 and sum(any(flags) for flags in found["categories"]) == 5


# --- split and card ---------------------------------------------------------------------------------------------------


def test_15_a_class_with_one_row_is_named_with_what_to_do():
    found = merged(row("only one", "unsafe"), *(row(f"text {n} {n * 7919}", "safe") for n in range(60)))
    warning = next(line for line in found.card["warnings"] if line.startswith("unsafe: 1 rows"))
    assert "none in" in warning and "add rows" in warning
    assert not any(line.startswith("safe:") for line in found.card["warnings"])


def test_the_split_of_a_group_survives_more_data():
    few = merged(*(row(f"text {n} {n * 7919}", id=f"x:{n}") for n in range(50))).rows.set_index("id")["split"]
    more = merged(*(row(f"text {n} {n * 7919}", id=f"x:{n}") for n in range(90))).rows.set_index("id")["split"]
    assert (more.loc[few.index] == few).all() and set(more) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("shares", "count", "said"),
    [
        (
            (0.8, 0.2, 0),
            60,
            r"^split test: no row of 60 groups falls into it; give it a share above 0 in data.split_shares$",
        ),
        ((0, 0.5, 0.5), 60, "^split train: .*give it a share above 0"),
        ((0.7, 0.15, 0.15), 1, "^split .*, .*: no row of 1 groups falls into it; add rows or sources"),
    ],
)
def test_an_empty_split_is_refused_before_anything_is_trained_or_scored(shares, count, said):
    data = FREE.model_copy(update={"split_shares": dict(zip(SPLITS, shares, strict=True))})
    prepared = merge.prepare(table(*(row(f"text {n} {n * 7919}", id=f"x:{n}") for n in range(count))), data)
    with pytest.raises(MergeError, match=said):
        merge.complete(prepared, data)


def test_another_salt_gives_another_split():
    rows = [row(f"text {n} {n * 7919}") for n in range(60)]
    other = merged(*rows, data=FREE.model_copy(update={"salt": "other"})).rows["split"].tolist()
    assert merged(*rows).rows["split"].tolist() != other


def sample_params():
    return parameters.load_study("sample").data


def test_16_reordered_rows_give_the_same_hash():
    data = sample_params()
    raw, _ = merge.read_sources(data)
    shuffled = raw.sample(frac=1, random_state=3).reset_index(drop=True)
    assert merged_table(raw, data).card["sha256"] == merged_table(shuffled, data).card["sha256"]


def test_16_another_folder_locale_and_hash_seed_give_the_same_hash(tmp_path):
    code = "from emosafe_lib.data import merge\nfrom emosafe_lib.study import parameters\n"
    code += "print(merge.merge(parameters.load_study('sample').data).card['sha256'])"
    variants = [
        {"LC_ALL": "C", "PYTHONHASHSEED": "1"},
        {"LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"},
    ]
    path = str(paths.project_root())
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=cwd,
            env=os.environ | env | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for cwd, env in zip((tmp_path, path), variants, strict=True)
    }
    assert hashes == {merge.merge(sample_params()).card["sha256"]}


def test_a_changed_label_changes_the_hash():
    one, other = row("a text"), row("b text")
    assert merged(one, other).card["sha256"] != merged(one, other | {"safety": "unsafe"}).card["sha256"]


def test_the_sample_card_keeps_every_promise():
    found = merge.merge(sample_params())
    promised = (
        "rows rows_human rows_reinterpreted rows_synthetic sources safety categories quarantined exact_duplicates "
    )
    promised += "conflicts groups sha256"
    assert set(promised.split()) <= set(found.card) and list(found.rows.columns) == list(ROW_COLUMNS)
    assert found.card["rows"] == len(found.rows) == sum(sum(n.values()) for n in found.card["safety"].values())
    assert found.card["rows_human"] == 0 and found.card["rows_synthetic"] == found.card["rows"]
    assert (found.rows.groupby("group")["split"].nunique() == 1).all()
    for split, counts in found.card["categories"].items():
        part = found.rows[found.rows["split"] == split]
        assert list(counts.values()) == np.array(part["categories"].to_list()).sum(axis=0).tolist()
    assert set(found.card["safety"]["test"]) == set(SAFETY_LEVELS)
    assert set(found.card["sources"]["emosafe_sample"]) >= {"rows", "licence", "quality"}
