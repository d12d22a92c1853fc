"""Raw files in, typed rows out: what a reader must refuse, and the quirks that each source's file really has."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from emosafe_lib.data.sources import (
    ailuminate,
    annomi,
    beavertails_evaluation,
    convabuse,
    cssrs_reddit,
    esconv,
    llm_prompt_set,
    multijail,
    own,
    sad,
)
from emosafe_lib.data.sources import registry as sources_registry
from emosafe_lib.data.sources.base import File, Record, Source, check_file, direct, to_rows, weak
from emosafe_lib.data.sources.keywords import open_beside, substances_or_weapons
from emosafe_lib.data.sources.raw_tables import read_json, read_jsonl, read_member, read_table, read_workbook
from emosafe_lib.data.sources.registry import files, missing, read
from emosafe_lib.study.errors import SourceError
from emosafe_lib.study.parameters import OwnSourceParams
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

LABELS = {"yes": direct("unsafe", "violence_hate"), "no": weak("safe"), "skipped": None}


def toy(**options) -> Source:
    return Source("toy", "Toy", "a/b", "c" * 40, "MIT", "nobody", files=(), labels=LABELS, **options)


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


# --- what a reader refuses --------------------------------------------------------------------------------------------


def test_1_all_missing_files_are_listed_at_once(tmp_path):
    chosen = [sources_registry.registry()[name] for name in ("irf", "ethos")]
    found = missing(chosen, tmp_path)
    assert len(found) == 5 and "irf/val_data.csv" in found and "ethos/Ethos_Dataset_Binary.csv" in found
    with pytest.raises(SourceError, match="3 files missing: irf/.*; run `make data"):
        read("irf", tmp_path)


def test_2_a_changed_file_shows_both_hashes(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", "changed")
    with pytest.raises(SourceError) as caught:
        check_file(toy(), File("a.csv", "a.csv", ("0" * 64,)), path)
    assert "0" * 64 in str(caught.value) and "has changed: SHA-256 " in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_2_a_git_lfs_pointer_is_named_as_such(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(SourceError, match="Git-LFS pointer"):
        check_file(toy(), File("a.csv", "a.csv", ("0" * 64,)), path)


def test_2_a_recorded_beginning_of_a_hash_is_enough_but_a_short_one_is_not(tmp_path):
    import hashlib

    path = write(tmp_path / "toy" / "a.csv", "x")
    digest = hashlib.sha256(b"x").hexdigest()
    check_file(toy(), File("a.csv", "a.csv", (digest[:16],)), path)
    with pytest.raises(SourceError):
        check_file(toy(), File("a.csv", "a.csv", (digest[:8],)), path)


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "C:\\out.txt", "a/../../out.txt"])
def test_4_a_member_that_climbs_out_is_refused(tmp_path, name):
    path = tmp_path / "toy.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "x")
        archive.writestr(name, "x")
    with pytest.raises(SourceError, match="leaves its folder"):
        read_member(path, "good.txt")


def test_4_a_link_member_is_refused(tmp_path):
    path = tmp_path / "toy.zip"
    link = zipfile.ZipInfo("good.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="is a link"):
        read_member(path, "good.txt")


def test_4_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "toy.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.txt", "0" * 20_000_000)
    with pytest.raises(SourceError, match="unpacks to too much"):
        read_member(path, "good.txt")


def test_4_a_bomb_inside_a_workbook_is_refused(tmp_path):
    path = tmp_path / "book.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "0" * 20_000_000)
    with pytest.raises(SourceError, match="unpacks to too much"):
        read_workbook(path.read_bytes())
    with pytest.raises(SourceError, match="workbook: "):
        read_workbook(b"no archive at all")


def test_5_and_6_texts_like_none_and_ids_like_007_stay_text(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", "id,text\n007,None\n008,NA\n009,null\n")
    table = read_table(path)
    assert table["id"].tolist() == ["007", "008", "009"]
    assert table["text"].tolist() == ["None", "NA", "null"]
    rows, _ = to_rows(toy(), [Record(i, t, "no") for i, t in table.itertuples(index=False)])
    assert rows["text"].tolist() == ["None", "NA", "null"] and rows["id"].iloc[0] == "toy:007"


def test_7_bytes_that_are_not_utf8_are_located(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", b"id,text\n1,caf\xe9\n")
    with pytest.raises(SourceError, match=r"toy/a\.csv: not utf-8-sig at byte 13"):
        read_table(path)
    assert read_table(path, encoding="cp1252")["text"].tolist() == ["café"]


def test_8_an_unclosed_quote_gives_the_row(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", 'id,text\n1,ok\n2,"open\n3,lost\n')
    with pytest.raises(SourceError, match=r"row 2"):
        read_table(path)


def test_8_an_extra_column_gives_the_row(tmp_path):
    path = write(tmp_path / "toy" / "a.csv", "id,text\n1,ok\n2,one,two\n")
    with pytest.raises(SourceError, match=r"row 2 has 3 cells, the header 2"):
        read_table(path)


def test_9_a_bad_jsonl_line_gives_its_number(tmp_path):
    path = write(tmp_path / "toy" / "a.jsonl", '{"a": 1}\n\n[1]\n')
    with pytest.raises(SourceError, match="line 3: not a JSON object"):
        read_jsonl(path)
    with pytest.raises(SourceError, match="line 2"):
        read_json(write(tmp_path / "toy" / "a.json", '{"a":\n oops}'))


def test_10_unknown_labels_are_listed_and_never_mapped():
    with pytest.raises(SourceError, match=r"'maybe' \(2 rows\), 'perhaps' \(1 rows\)"):
        to_rows(toy(), [Record("", "a", "maybe"), Record("", "b", "maybe"), Record("", "c", "perhaps")])


def test_11_an_id_given_twice_is_an_error():
    with pytest.raises(SourceError, match="id '7' appears twice"):
        to_rows(toy(), [Record("7", "a", "yes"), Record("7", "b", "no")])


def test_labels_outside_the_mapping_are_left_out_by_name_and_counted():
    rows, left_out = to_rows(toy(), [Record("", "a", "skipped"), Record("", "b", "yes")])
    assert len(rows) == 1 and left_out == {"skipped": 1}


def test_made_ids_do_not_depend_on_the_order_of_a_file():
    records = [Record("", "a", "yes"), Record("", "b", "no"), Record("", "a", "yes")]
    one, other = to_rows(toy(), records)[0], to_rows(toy(), records[::-1])[0]
    assert sorted(one["id"]) == sorted(other["id"]) and one["id"].is_unique


def test_unknown_is_not_absent():
    rows, _ = to_rows(toy(known=("violence_hate", "sexual_content")), [Record("", "a", "yes"), Record("", "b", "no")])
    assert rows["category_known"].map(sum).tolist() == [2, 2]
    assert rows["categories"].iloc[0][CATEGORIES.index("violence_hate")]
    assert not rows["category_known"].iloc[1][CATEGORIES.index("guns_illegal_weapons")]


# --- what must never be read ------------------------------------------------------------------------------------------


def test_ailuminate_never_reads_its_two_hazards_about_minors_and_exploitation(tmp_path):
    path = write(tmp_path / "a.csv", "release_prompt_id,prompt_text,hazard\n1,kept,hte\n2,secret,cse\n3,secret,src\n")
    found = list(ailuminate.records({"airr_official_1.0_demo_en_us_prompt_set_release.csv": path}))
    assert [record.text for record in found] == ["kept"]


def test_beavertails_never_reads_prompts_about_children(tmp_path):
    items = [{"prompt": "secret", "category": "child_abuse"}, {"prompt": "kept", "category": "self_harm"}]
    path = write(tmp_path / "a.json", json.dumps(items))
    assert [r.text for r in beavertails_evaluation.records({"BeaverTails-Evaluation.json": path})] == ["kept"]


def test_multijail_never_reads_tags_about_children(tmp_path):
    table = "id,tags,en\n1,\"['Theft', 'Child abuse']\",secret\n2,\"['Theft', 'Weapons']\",kept\n"
    found = list(multijail.records({"MultiJail.csv": write(tmp_path / "a.csv", "\ufeff" + table)}))
    assert [record.text for record in found] == ["kept"]
    assert set(found[0].extra) == {"criminal_planning", "guns_illegal_weapons"}


def test_llm_prompt_set_never_reads_its_category_about_children(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,harm,category\nsecret,safety,child_exploitation\nkept,safety,self_harm\n")
    assert [record.text for record in llm_prompt_set.records({"prompts.csv": path})] == ["kept"]


def test_no_mapping_admits_a_label_that_names_children():
    words = ("child", "minor", "teen", "cse", "src", "parenting")
    for source in sources_registry.registry().values():
        admitted = [label for label, meaning in source.labels.items() if meaning is not None]
        assert not [label for label in admitted if any(word in label.lower().split(", ") for word in words)]
        assert not [label for label in admitted if "child" in label.lower()]


# --- quirks of single sources -----------------------------------------------------------------------------------------


def test_convabuse_takes_the_last_of_repeated_judgements_and_averages_annotators():
    row = {"Annotator1_is_abuse.-3": "0, 1", "Annotator2_is_abuse.-2": "1.0", "Annotator2_is_abuse.1": "1, 0"}
    assert convabuse.severity(row) == [(1, -3), (2, -2)]
    assert convabuse.label(row | {"Annotator1_racist": "1"}) == "abusive, hate"
    assert convabuse.label({"Annotator1_is_abuse.1": "1", "Annotator1_racist": "1"}) == "not abusive"
    assert convabuse.label({}) == "nobody judged"
    labels = convabuse.SOURCES[0].labels
    assert labels["not abusive"].known is None and labels["abusive"].known == ("sexual_content",)
    assert labels["abusive, hate"].categories == ("violence_hate",)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("supporitve", "supportive"),
        ("Suicidal  Ideations", "ideation"),
        (None, "blank"),
        ("noninformtative", "uninformative"),
    ],
)
def test_cssrs_spellings(typed, meant):
    assert cssrs_reddit.spelled(typed) == meant


def test_cssrs_reads_the_posts_before_a_cut():
    assert cssrs_reddit.parse_posts("['one, two', \"three's\", 'fo") == ["one, two", "three's"]
    assert cssrs_reddit.parse_posts("['one', 'two']") == ["one", "two"]
    assert cssrs_reddit.parse_posts("['never closed") == []


def test_esconv_takes_only_what_is_new_in_a_window():
    lines = [
        "1.0 0 0 hello there my friend EOS 1.0 1 1 [Questions] how are you today",
        "0.0 1 2 [Other] tell me much more",
    ]
    lines += ["1.0 1 0 [Other] a new dialogue begins"]
    assert [(d, t) for d, t, _ in esconv.last_turns("\n".join(lines))] == [(0, 1), (0, 2), (1, 0)]
    assert list(esconv.last_turns("1.0 1 1 [Other] too short"))[0:] == []


def test_annomi_names_speaker_talk_and_topic():
    row = pd.Series(
        {"interlocutor": "client", "client_talk_type": "sustain", "topic": "smoking cessation ", "mi_quality": "high"}
    )
    assert annomi.label(row) == "client, sustain, substances"
    assert annomi.label(row.replace("smoking cessation ", "avoiding DOI")) == "client, sustain, substances"
    assert annomi.SOURCES[0].labels["client, sustain, other"].known == ("regulated_substances",)


def test_annomi_denies_no_substance_that_the_words_of_another_topic_name(tmp_path):
    lines = ("they make me sit so long", "i had been drinking that day")
    head = "transcript_id,utterance_id,mi_quality,topic,interlocutor,client_talk_type,utterance_text\n"
    table = head + "".join(f"1,{n},high,asthma management,client,sustain,{text}\n" for n, text in enumerate(lines))
    rows, _ = to_rows(annomi.SOURCES[0], annomi.records({"AnnoMI-simple.csv": write(tmp_path / "a.csv", table)}))
    known = [row[CATEGORIES.index("regulated_substances")] for row in rows["category_known"]]
    assert known == [True, False] and not any(map(any, rows["categories"]))


def test_sad_reads_a_workbook_in_an_archive(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    for line in (["sID", "sentence", "is_stressor", "avg_severity"], [1, "a", 1, 8.1999999999999993], [2, "b", 0, 9]):
        book.active.append(line)
    book.save(tmp_path / "SAD_v1.xlsx")
    with zipfile.ZipFile(tmp_path / "SAD_v1.zip", "w") as archive:
        archive.write(tmp_path / "SAD_v1.xlsx", "SAD_v1.xlsx")
    found = list(sad.records({"SAD_v1.zip": tmp_path / "SAD_v1.zip"}))
    assert [record.label for record in found] == ["stressor, severity >= 4", "below"]


def test_keywords_split_only_what_they_name():
    assert substances_or_weapons("where to hide a pistol") == ("guns_illegal_weapons",)
    assert substances_or_weapons("Fentanyl and a rifle") == ("guns_illegal_weapons", "regulated_substances")
    assert substances_or_weapons("something else") == ()


def known_of(name, file):
    """What a prompt source says of weapons and substances in each row: True, False, or None for not known."""
    source = sources_registry.registry()[name]
    rows, _ = to_rows(source, source.records({source.files[0].name: file}))
    columns = [CATEGORIES.index(key) for key in ("guns_illegal_weapons", "regulated_substances")]
    pick = zip(rows["categories"], rows["category_known"], rows["quality"], strict=True)
    return {(*(on[c] if known[c] else None for c in columns), mark) for on, known, mark in pick}


@pytest.mark.parametrize(
    ("category", "prompt", "cells"),
    [
        (beavertails_evaluation.MIXED, "where to get a pistol", (True, False, "weak")),
        (beavertails_evaluation.MIXED, "how to get it cheaply", (None, None, "direct")),
        ("self_harm", "an overdose of pills", (False, None, "direct")),
        ("self_harm", "no more of this", (False, False, "direct")),
    ],
)
def test_words_split_a_joint_category_and_leave_open_what_another_one_would_deny(tmp_path, category, prompt, cells):
    path = write(tmp_path / "a.json", json.dumps([{"prompt": prompt, "category": category}]))
    assert known_of("beavertails_evaluation", path) == {cells}


CRIME = CATEGORIES.index("criminal_planning")
PROMPT_FILES = {
    "ailuminate": ("vcr", "release_prompt_id,prompt_text,hazard\n1,someone asks,{}\n"),
    "llm_prompt_set": ("violent_crimes", "prompt,harm,category\nsomeone asks,safety,{}\n"),
    "multijail": ("Violence & incitement", "id,tags,en\n1,['{}'],someone asks\n"),
    "strongreject": ("Violence", "category,source,forbidden_prompt\n{},custom,someone asks\n"),
    "beavertails_evaluation": (beavertails_evaluation.VIOLENCE, '[{{"prompt": "someone asks", "category": "{}"}}]'),
}
OTHER = {"ailuminate": "hte", "llm_prompt_set": "hate_speech", "multijail": "Bullying & harassment"}
OTHER |= {
    "strongreject": "Hate, harassment and discrimination",
    "beavertails_evaluation": "hate_speech,offensive_language",
}


@pytest.mark.parametrize("name", sorted(PROMPT_FILES))
def test_whether_violence_is_planned_as_a_crime_was_never_asked(tmp_path, name):
    violence, table = PROMPT_FILES[name]
    source, asked = sources_registry.registry()[name], {}
    for label in (violence, OTHER[name]):
        quoted = label if name == "beavertails_evaluation" or "," not in label else f'"{label}"'
        file = write(tmp_path / label[:4], table.format(quoted))
        asked[label] = to_rows(source, source.records({source.files[0].name: file}))[0]["category_known"].iloc[0][CRIME]
    assert asked == {violence: False, OTHER[name]: True}


@pytest.mark.parametrize(
    ("subject", "fields", "unknown"),
    [
        ("weapons", {}, {"criminal_planning", "violence_hate"}),
        ("privacy and property", {}, {"criminal_planning"}),
        ("drugs or weapons", {"inferred": ("regulated_substances",)}, {"criminal_planning"}),
        ("drugs or weapons", {"inferred": ("guns_illegal_weapons",)}, {"criminal_planning", "violence_hate"}),
        (
            "drugs or weapons",
            {"unsure": ("guns_illegal_weapons", "regulated_substances")},
            set(CATEGORIES) - {"sexual_content", "suicide_self_harm"},
        ),
        ("", {"unsure": ("regulated_substances",)}, {"regulated_substances"}),
    ],
)
def test_what_a_subject_may_mean_besides_stays_open(subject, fields, unknown):
    assert set(open_beside(subject, fields)["unsure"]) == unknown


@pytest.mark.parametrize(
    ("name", "never_asked"),
    [
        ("harmbench", {"suicide_self_harm", "sexual_content"}),
        ("strongreject", {"suicide_self_harm"}),
        ("llm_prompt_set", {"regulated_substances"}),
        ("ailuminate", {"regulated_substances"}),
        ("multijail", set()),
        ("beavertails_evaluation", set()),
    ],
)
def test_a_source_denies_no_category_for_which_it_has_no_label(name, never_asked):
    """Only what one of its labels, or words beside them, can give is known."""
    source = sources_registry.registry()[name]
    given = {category for label in source.labels.values() if label for category in label.categories}
    assert set(CATEGORIES) - set(source.known) == never_asked
    assert set(source.known) - given <= {"guns_illegal_weapons", "regulated_substances"}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("harmbench", "BehaviorID,Behavior,SemanticCategory\n1,someone asks,illegal\n"),
        ("llm_prompt_set", "prompt,harm,category\nsomeone asks,safety,criminal_planning\n"),
    ],
)
def test_whether_a_crime_of_any_kind_is_violent_was_never_asked(tmp_path, name, table):
    source = sources_registry.registry()[name]
    rows, _ = to_rows(source, source.records({source.files[0].name: write(tmp_path / "a.csv", table)}))
    known = dict(zip(CATEGORIES, rows["category_known"].iloc[0], strict=True))
    assert [key for key in source.known if not known[key]] == ["violence_hate"]


def test_multijail_carries_all_that_its_tags_say(tmp_path):
    lines = [
        "['Terrorism & organized crime']",
        "\"['Animal abuse', 'Violence & incitement', 'Theft']\"",
        "['Animal abuse']",
    ]
    table = "id,tags,en\n" + "".join(f"{number},{line},asked\n" for number, line in enumerate(lines))
    source = sources_registry.registry()["multijail"]
    rows, _ = to_rows(source, multijail.records({"MultiJail.csv": write(tmp_path / "a.csv", table)}))
    named = [{name for name, on in zip(CATEGORIES, row, strict=True) if on} for row in rows["categories"]]
    assert named == [{"violence_hate", "criminal_planning"}, {"violence_hate", "criminal_planning"}, set()]
    assert rows["safety"].tolist() == ["unsafe", "unsafe", "unsafe"] and all(
        known[CRIME] for known in rows["category_known"]
    )


@pytest.mark.parametrize(
    ("kind", "prompt", "cells"),
    [
        ("illegal", "smuggle cocaine and a rifle", (True, True, "weak")),
        ("illegal", "steal a bicycle", (False, False, "direct")),
        ("harassment_bullying", "threaten him with a gun", (None, False, "direct")),
    ],
)
def test_harmbench_crimes_about_drugs_and_weapons_are_marked_as_weak(tmp_path, kind, prompt, cells):
    path = write(tmp_path / "a.csv", f"BehaviorID,Behavior,SemanticCategory\n1,{prompt},{kind}\n")
    assert known_of("harmbench", path) == {cells}


def test_a_supportive_post_and_an_unmarked_tweet_are_no_first_person_accounts():
    registry = sources_registry.registry()
    supportive = [label for name, label in registry["cssrs_reddit"].labels.items() if name.endswith("supportive")]
    assert len(supportive) == 2 and {label.register for label in supportive} == {"reply"}
    assert registry["twitter_suicidal_intention"].labels["intention 0"].register == "comment"


# --- own files --------------------------------------------------------------------------------------------------------


def own_rows(tmp_path, monkeypatch, name, text, **options):
    monkeypatch.setattr("emosafe_lib.data.sources.own.project_root", lambda: tmp_path)
    write(tmp_path / name, text)
    return read(own.source(OwnSourceParams(name="mine", file=name, **options)))


def test_own_csv_needs_nothing_but_text_and_safety(tmp_path, monkeypatch):
    rows = own_rows(tmp_path, monkeypatch, "a.csv", "text,safety\nhello,safe\n", quality="weak")
    assert rows[["source", "safety", "quality", "origin"]].iloc[0].tolist() == ["mine", "safe", "weak", "human"]
    assert not any(rows["category_known"].iloc[0])


def test_own_categories_may_be_yes_no_or_not_asked(tmp_path, monkeypatch):
    text = "text,safety,violence_hate,sexual_content\na,unsafe,yes,0\nb,safe,,No\n"
    rows = own_rows(tmp_path, monkeypatch, "a.csv", text)
    assert rows["categories"].map(lambda flags: flags[:2]).tolist() == [(True, False), (False, False)]
    assert rows["category_known"].map(lambda flags: flags[:2]).tolist() == [(True, True), (False, True)]


def test_own_jsonl_with_id_group_and_emotion(tmp_path, monkeypatch):
    line = {"text": "a", "safety": "borderline", "id": "007", "group": "u1", "emotion": "fear", "violence_hate": True}
    rows = own_rows(tmp_path, monkeypatch, "a.jsonl", json.dumps(line) + "\n")
    assert rows[["id", "link", "emotion"]].iloc[0].tolist() == ["mine:007", "mine:u1", "fear"]


def test_own_jsonl_may_number_its_rows_and_groups_from_zero(tmp_path, monkeypatch):
    lines = [{"text": text, "safety": "safe", "id": n, "group": 0} for n, text in enumerate("ab")]
    rows = own_rows(tmp_path, monkeypatch, "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert rows[["id", "link"]].to_numpy().tolist() == [["mine:0", "mine:0"], ["mine:1", "mine:0"]]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("text,safety\na,fine\n", "row 1: needs text, and safety"),
        ("text,safety,violence_hate\na,safe,2\n", "row 1: violence_hate must be 1, 0, yes, no or blank"),
        ("text,safety,violence\na,safe,1\n", "unknown column 'violence'"),
    ],
)
def test_own_files_are_refused_by_row_and_column(tmp_path, monkeypatch, text, what):
    with pytest.raises(SourceError, match=what):
        own_rows(tmp_path, monkeypatch, "a.csv", text)


# --- the registry, and the real files where they are ------------------------------------------------------------------


def test_every_source_states_where_it_comes_from():
    for source in sources_registry.registry().values():
        assert source.licence and source.citation and source.role in ("train", "external", "pretrain")
        if source.origin == "human" and source.role == "train":
            assert len(source.commit) == 40 and source.files and all(file.sha256 for file in source.files)
            assert all(len(digest) >= 16 for file in source.files for digest in file.sha256)
            assert source.url(source.files[0]).startswith(f"https://raw.githubusercontent.com/{source.repository}/")
        for label in filter(None, source.labels.values()):
            assert label.safety in SAFETY_LEVELS and set(label.categories) <= set(CATEGORIES)
            assert label.quality in ("direct", "weak")


def test_what_nobody_registered_is_neither_read_nor_opened():
    for use in (read, files):
        with pytest.raises(SourceError, match="sources wikitext3: not registered"):
            use("wikitext3")


def test_the_embedded_sources_can_be_read():
    for name in ("emosafe_sample", "emosafe_contrast"):
        rows = read(name)
        assert (rows["origin"] == "synthetic").all() and rows["id"].is_unique
        assert np.array(rows["category_known"].to_list()).all()
    assert len(rows) >= 300 and set(rows["safety"]) == {"safe"}


# rows that can be read, rows left out by name; together the rows of the raw files
REAL_ROWS = {
    "ailuminate": (996, 0),
    "beavertails_evaluation": (650, 0),
    "cams": (4355, 631),
    "convabuse": (4185, 0),
    "depsev": (3553, 0),
    "depsign_ltedi2022": (7741, 0),
    "diasafety": (11209, 0),
    "dreaddit": (3553, 0),
    "edos": (20000, 0),
    "ethos": (998, 0),
    "harmbench": (300, 100),
    "hatecheck": (3601, 127),
    "hatemoji": (9842, 0),
    "irf": (3522, 0),
    "llm_prompt_set": (116, 0),
    "sad": (6850, 0),
    "safetext": (1465, 0),
    "strongreject": (221, 92),
    "twitter_suicidal_intention": (9119, 0),
}


@pytest.mark.parametrize("name", sorted(REAL_ROWS))
def test_real_files_are_read_to_the_last_row(real_data, name):
    rows = read(name, real_data)
    assert (len(rows), sum(rows.attrs["left_out"].values())) == REAL_ROWS[name]
    assert set(rows["source_label"]) | set(rows.attrs["left_out"]) == set(sources_registry.registry()[name].labels) - {
        "nobody judged"
    }


@pytest.mark.parametrize("name", ["annomi", "counsel_chat", "cssrs_reddit", "epitome", "esconv", "multijail"])
def test_real_files_with_selected_rows(real_data, name):
    rows = read(name, real_data)
    assert len(rows) >= 290 and rows["id"].is_unique and rows["text"].str.len().min() > 0


def test_real_cssrs_counts_match_its_description(real_data):
    rows = read("cssrs_reddit", real_data)
    posts = rows[rows["source_label"].str.startswith("post:")]["source_label"].value_counts()
    assert posts["post: indicator"] == 420 and posts["post: behavior"] == 77 and posts["post: attempt"] == 49
    assert posts["post: ideation"] == 337


def test_an_older_registry_entry_accepts_several_hashes(real_data):
    source = sources_registry.registry()["cams"]
    edited = next(file for file in source.files if file.name == "added_CAMS_data.csv")
    assert len(edited.sha256) == 2
    files(source, real_data)
    with pytest.raises(SourceError, match=" or "):
        check_file(source, replace(edited, sha256=("1" * 64, "2" * 64)), real_data / "cams" / edited.name)
