"""Augmentation without a network: the plan, the template provider, the journal, the reader and the checks."""

import json
import logging
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from augment_cases import flags, row, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from emosafe_lib.augment import acceptance, diversity, reinterpretation, requests, tactics
from emosafe_lib.augment.journal import Answer, Journal, journal_path
from emosafe_lib.augment.providers import phrases
from emosafe_lib.data import cleaning, pseudonyms
from emosafe_lib.models import server, wire
from emosafe_lib.study import taxonomy
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.parameters import AugmentationParams

TEMPLATE = AugmentationParams(max_share=0.5)
UNSAFE = {"safety": "unsafe", "categories": flags("suicide_self_harm"), "category_known": [True] * 6}


@pytest.fixture
def no_network(monkeypatch):
    """Any socket that is opened fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


# --- plan -------------------------------------------------------------------------------------------------------------


def test_34_rows_of_validation_and_test_are_never_parents(tmp_path):
    table = rows(8, row(90, split="test", **UNSAFE), row(91, split="validation", **UNSAFE))
    assert {request.parent_id for request in requests.requests_for(table, TEMPLATE)} <= {f"t:{n:05d}" for n in range(8)}
    made = reinterpretation.reinterpret(table, TEMPLATE, tmp_path).rows
    assert len(made) and set(made["split"]) == {"train"} and set(made["origin"]) == {"reinterpretation"}


def test_34_a_group_on_both_sides_of_a_split_is_an_error(tmp_path):
    """The parent is in training, but its twin is in the test split."""
    table = rows(4, row(90, split="test", group="t:00001"))
    with pytest.raises(AugmentationError, match="t:00001.*another split"):
        reinterpretation.reinterpret(table, TEMPLATE, tmp_path)


def test_reinterpretations_are_not_reinterpreted_again(tmp_path):
    table = rows(4, row(90, origin="reinterpretation", parent_id="t:00001"))
    assert "t:00090" not in {request.parent_id for request in requests.requests_for(table, TEMPLATE)}


def test_the_plan_depends_neither_on_row_order_nor_on_the_run():
    table = rows(30, *(row(n, **UNSAFE) for n in range(100, 120)))
    shuffled = table.sample(frac=1, random_state=3)
    assert requests.requests_for(table, TEMPLATE) == requests.requests_for(shuffled, TEMPLATE)


def test_no_class_gets_more_than_its_share(tmp_path):
    table = rows(40, *(row(n, **UNSAFE) for n in range(100, 110)))
    made = reinterpretation.reinterpret(table, AugmentationParams(max_share=0.2), tmp_path).rows
    levels = made["safety"].value_counts()
    assert levels["borderline"] <= 0.2 * (40 + levels["borderline"])
    assert levels["unsafe"] <= 0.2 * (10 + levels["unsafe"]) and "safe" not in levels
    touched = sum(flag[4] for flag in made["categories"])
    assert touched <= 0.2 * (10 + touched)


def test_max_rows_bounds_the_plan():
    assert len(requests.requests_for(rows(60), AugmentationParams(max_share=0.5, max_rows=7))) == 7


def test_an_unsafe_row_of_unknown_category_is_not_ruminated_on():
    assert {ending for _, ending, _ in requests.options(next(rows(0, row(1, safety="unsafe")).itertuples()))} == {
        "resolved",
        "halfway",
    }


def test_31_another_prompt_or_parameter_is_another_key_and_another_journal(tmp_path, monkeypatch):
    """Nothing is found in the journal, and the old journal stays."""
    chat = AugmentationParams(provider="replay", max_share=0.5)
    before, path = requests.requests_for(rows(4), chat)[0], journal_path(tmp_path, chat)
    warmer = chat.model_copy(update={"temperature": 0.9})
    monkeypatch.setattr(tactics, "USER", tactics.USER + "\nBe brief.")
    for other in (warmer, chat):
        keys = {request.key for request in requests.requests_for(rows(4), other)}
        assert before.key not in keys and journal_path(tmp_path, other) != path


def test_the_prompt_and_its_version_change_together():
    """An old journal is found as long as this digest stays, whichever pydantic writes the schema."""
    asked = tactics.settings(AugmentationParams(provider="openai"))
    assert (asked["prompt_version"], asked["prompt_sha256"][:12]) == ("1", "f3db95c87208")


def test_a_changed_text_of_the_parent_is_another_key():
    one, other = rows(4), rows(4).assign(text=lambda t: t["text"] + " Still.")
    keys = [{request.key for request in requests.requests_for(table, TEMPLATE)} for table in (one, other)]
    assert not keys[0] & keys[1]


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_message_stays_material_whatever_it_says(text):
    """Braces, percent signs and closing marks of a message do not end or fill the prompt."""
    prompt = tactics.user_prompt("abc", "agency", "resolved", "safe", text)
    assert prompt.startswith("request: abc\n") and prompt.endswith("\n>>>") and prompt.count(">>>") == 1
    expected = text.replace("<<<", "< < <").replace(">>>", "> > >")
    assert ("<<<" in expected or ">>>" in expected) is False and expected in prompt


# --- template ---------------------------------------------------------------------------------------------------------


def test_35_the_template_provider_opens_no_socket_and_says_what_it_is(tmp_path, no_network):
    card = reinterpretation.reinterpret(rows(8), TEMPLATE, tmp_path).card
    assert card["accepted"] and card["model"] == "template-1" and "no language model" in card["provider_note"]


def test_the_template_is_deterministic_and_a_rerun_asks_nothing(tmp_path):
    first = reinterpretation.reinterpret(rows(12), TEMPLATE, tmp_path / "a")
    again = reinterpretation.reinterpret(rows(12), TEMPLATE, tmp_path / "a")
    elsewhere = reinterpretation.reinterpret(rows(12), TEMPLATE, tmp_path / "b")
    assert first.rows.equals(again.rows) and first.rows.equals(elsewhere.rows)
    assert first.card["from_journal"] == 0 and again.card["from_journal"] == again.card["requested"] > 0


def test_the_template_never_quotes_its_parent(tmp_path):
    table = rows(20, *(row(n, **UNSAFE) for n in range(100, 120)))
    made = reinterpretation.reinterpret(table, TEMPLATE, tmp_path).rows.merge(table, left_on="parent_id", right_on="id")
    assert len(made) > 10
    for mine, parents in zip(made["text_x"], made["text_y"], strict=True):
        assert not acceptance.triples(mine) & acceptance.triples(parents)


def test_the_templates_phrases_name_no_minor_and_no_identifier():
    pools = [phrases.TOPICS, phrases.OPENERS, phrases.CLOSINGS, *phrases.MOVES.values(), *phrases.RESIDUE.values()]
    texts = [text for pool in pools for options in pool.values() for text in options]
    assert len(texts) == len(set(texts)) > 200
    for text in texts:
        assert not cleaning.MINORS.search(text) and not pseudonyms.has_identifier(text), text
    assert set(phrases.MOVES) == set(tactics.TACTIC) and set(phrases.RESIDUE) == set(taxonomy.CATEGORIES)


# --- reading replies --------------------------------------------------------------------------------------------------

GOOD = {
    "id": "0123456789ab",
    "text": "I see it in another light now.",
    "tactic": "agency",
    "emotion_before": "worry",
    "emotion_after": "calm",
    "level": "safe",
    "categories": [],
}
TEXT = json.dumps(GOOD)


def test_a_good_reply_is_read():
    assert tactics.parse_reply(TEXT).level == "safe"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"```json\n{TEXT}\n```", id="fenced"),
        pytest.param(f"Sure! {TEXT}", id="leading"),
        pytest.param(f"{TEXT} Done.", id="trailing"),
        pytest.param(f"{TEXT}\n{TEXT}", id="two"),
        pytest.param(TEXT[:-1] + ', "level": "unsafe"}', id="duplicate-key"),
        pytest.param(f"[{TEXT}]", id="list"),
        pytest.param(TEXT.replace('"safe"', "NaN"), id="nan"),
        pytest.param(TEXT[:-1] + ', "extra": 1}', id="extra-key"),
        pytest.param(TEXT.replace('"level": "safe"', '"level": "Safe"'), id="other-case"),
        pytest.param(TEXT.replace('"calm"', "3"), id="wrong-type"),
        pytest.param(TEXT.replace("I see", "\\ud800"), id="lone-surrogate"),
        pytest.param("", id="empty"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_27_anything_else_is_no_reply(content):
    assert tactics.parse_reply(content) is None


# --- acceptance -------------------------------------------------------------------------------------------------------


def judged(table, change: dict, level: str | None = None, **options) -> dict:
    """The counted reasons after one reply that differs from a good one by `change`."""
    params = AugmentationParams(provider="replay", model="m", max_share=0.5, max_rows=1)
    request = requests.requests_for(table, params)[0]
    text = "Since then I take the whole thing more lightly, and I can even smile about how it used to be."
    reply = GOOD | {"id": request.short_id, "tactic": request.tactic, "level": request.level, "text": text} | change
    answer = Answer(request.key, "ok", json.dumps(reply), "m")
    made, rejected = acceptance.accept([request], {request.key: answer}, table, params, **options)
    return {"accepted": len(made)} | {reason: n for reason, n in rejected.items() if n}


def test_a_good_reply_becomes_a_row():
    assert judged(rows(4), {}) == {"accepted": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "ffffffffffff"}, "wrong_id"),
        ({"tactic": "distancing"}, "wrong_tactic"),
        ({"text": "Ich sehe das heute anders und bin ganz ruhig, denn es ist vorbei und ich bin frei."}, "language"),
        ({"text": "I am fine."}, "length_ratio"),
        ({"text": "I am on my way. " * 20}, "length_ratio"),
        ({"text": "Since then I take it lightly\u202e and I can even smile about how it used to be."}, "unfit"),
        ({"text": "Since then I take it lightly, call me on +49 170 1234567 and I will tell you."}, "identifier"),
        ({"level": "safe"}, "level"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_28_what_does_not_fit_is_rejected_and_counted(change, reason):
    """Another row's id, and every other mismatch, each under its own name."""
    assert judged(rows(4), change) == {"accepted": 0, reason: 1}


def test_28_an_echo_of_the_parent_is_rejected():
    """In full, in other punctuation, and with a few words changed."""
    table = rows(1)
    parent = table["text"][0]
    for text in (parent, parent.upper().replace(" ", "  ") + "!!", parent.replace("count", "often count")):
        assert judged(table, {"text": text}) == {"accepted": 0, "echo": 1}


def test_28_a_near_duplicate_of_any_row_is_rejected_even_of_a_test_row():
    """A test row must not reappear in training."""
    secret = "The lake was frozen that winter and my uncle skated across it with a lamp in his hand, singing."
    table = rows(4, row(90, text=secret, split="test"))
    assert judged(table, {"text": secret.replace("lamp", "torch")}) == {"accepted": 0, "near_duplicate": 1}


def test_28_the_second_of_two_equal_replies_is_rejected():
    same = "Since then I take the whole thing more lightly, and I can even smile about how it used to be."
    assert acceptance.near_duplicates([same, same.lower(), "Quite another thought."], []).tolist() == [
        False,
        True,
        False,
    ]


def test_a_second_judge_can_veto():
    assert judged(rows(4), {}, judge=lambda texts: ["unsafe"] * len(texts)) == {"accepted": 0, "second_judge": 1}
    assert judged(rows(4), {}, judge=lambda texts: ["borderline"] * len(texts)) == {"accepted": 1}


def test_the_local_judge_learns_from_training_rows_only():
    told = [row(n, text=f"calm sea and sun {n}", safety="safe") for n in range(20)]
    told += [row(n, text=f"dark storm and fear {n}", safety="unsafe") for n in range(20, 40)]
    told += [row(n, text=f"calm sea and sun {n}", safety="unsafe", split="test") for n in range(40, 80)]
    assert acceptance.local_judge(rows(0, *told))(["a calm sea", "a dark storm"]) == ["safe", "unsafe"]


def test_a_category_that_the_parent_was_never_asked_about_is_no_added_risk():
    asked = UNSAFE | {"safety": "borderline", "categories": flags(), "category_known": [False] * 6}
    reply = {"categories": ["suicide_self_harm"]}
    assert judged(rows(0, row(1, **asked)), reply, level="borderline")["accepted"] == 1
    known = rows(0, row(1, **(asked | {"category_known": [True] * 6})))
    assert judged(known, reply, level="borderline") == {"accepted": 0, "category": 1}


def test_a_share_of_one_and_a_level_without_rows_go_together():
    table = rows(0, *(row(n, safety="unsafe") for n in range(3)))
    shares = requests.shares_by_level(table, AugmentationParams(max_share=1.0, max_rows=10))
    assert shares == {"safe": 0, "borderline": 0, "unsafe": 10}


def test_what_a_source_never_asked_stays_unknown(tmp_path):
    known = [True, False, True, True, True, True]
    table = rows(0, *(row(n, **(UNSAFE | {"category_known": known})) for n in range(12)))
    made = reinterpretation.reinterpret(table, TEMPLATE, tmp_path).rows
    assert len(made) and all(flag == known for flag in made["category_known"])
    assert set(made["group"]) <= set(table["group"]) and made["parent_id"].isin(table["id"]).all()


# --- privacy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "becomes"),
    [
        ("ann.b@example.org", "[EMAIL_1]"),
        ("ann at example dot org", "[EMAIL_1]"),
        ("+49 170 1234567", "[PHONE_1]"),
        ("555-0142", "[PHONE_1]"),
        ("@ann_private", "[USER_1]"),
        ("u/ann_private", "[USER_1]"),
        ("insta: ann.private", "[USER_1]"),
        ("https://example.org/ann", "[URL_1]"),
        ("4111 1111 1111 1111", "[CARD_1]"),
        ("DE89 3704 0044 0532 0130 00", "[ACCOUNT_1]"),
        ("192.168.17.4", "[ADDRESS_1]"),
        ("078-05-1120", "[NUMBER_1]"),
    ],
)
def test_33_identifiers_become_placeholders(identifier, becomes):
    """Whole, and as what they are."""
    text = f"Please reach me under {identifier} tonight, I mean it."
    assert pseudonyms.pseudonymise(text) == f"Please reach me under {becomes} tonight, I mean it."


def test_33_placeholders_are_consistent_within_a_message():
    text = pseudonyms.pseudonymise("a@example.org wrote to b@example.org, then A@example.org called +49 170 1234567")
    assert text == "[EMAIL_1] wrote to [EMAIL_2], then [EMAIL_1] called [PHONE_1]"


@given(st.text(max_size=80))
@settings(max_examples=80, deadline=None)
def test_33_scrubbing_twice_changes_nothing_more(text):
    once = pseudonyms.pseudonymise(text)
    assert pseudonyms.pseudonymise(once) == once


def test_helplines_and_ordinary_numbers_stay():
    for text in ("call 0800 1110111 or 1-800-273-8255", "on 12 May 2019 I paid 350 for 2 rooms", "look at this dot"):
        assert pseudonyms.pseudonymise(text) == text


@pytest.mark.parametrize("key", ["", "sk-schlüssel", "sk-with space", "sk-line\n"])
def test_17_a_missing_or_broken_key_fails_before_the_first_row(key, tmp_path, monkeypatch, no_network):
    """And it is not shown."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for provider in ("openai", "openai-batch"):
        with pytest.raises(AugmentationError, match="OPENAI_API_KEY") as caught:
            reinterpretation.reinterpret(rows(4), AugmentationParams(provider=provider, max_share=0.5), tmp_path)
        assert not key or key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://api.example.org/v1", "https://me:pw@example.org/v1", "ftp://x/v1", "localhost"]
)
def test_an_address_that_leaks_is_refused(url):
    with pytest.raises(AugmentationError, match="base_url") as caught:
        wire.check_address(url)
    assert "pw" not in str(caught.value)


def test_local_and_encrypted_addresses_are_fine():
    for url in ("http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://[::1]/v1", "https://example.org/v1"):
        assert wire.check_address(url) == url


def test_33_the_http_clients_loggers_are_silent_during_a_run(caplog):
    """Whatever a version of the client chooses to log; and they speak again afterwards."""
    logger = logging.getLogger("openai._base_client")
    with caplog.at_level(logging.DEBUG):
        with server.quiet_clients():
            logger.error("a text")
            logging.getLogger("httpx2").error("a text")
        assert not caplog.records
        logger.error("afterwards")
        assert [record.message for record in caplog.records] == ["afterwards"]


# --- journal ----------------------------------------------------------------------------------------------------------


def test_29_a_torn_last_line_is_dropped_and_counted(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.answered(Answer("a", "ok", "text"))
        journal.sent("b")
    with open(path, "ab") as stream:
        stream.write(b'{"key":"b","outcome":"ok","cont')
    with Journal(path) as journal:
        assert set(journal.answers) == {"a"} and journal.open == {"b"} and journal.torn == 1
        journal.answered(Answer("b", "ok", "text"))
    with Journal(path) as journal:
        assert set(journal.answers) == {"a", "b"} and not journal.torn and not journal.open


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.answered(Answer("a", "ok", "secret text"))
    damaged = path.read_bytes().replace(b'"outcome"', b'"outc')
    path.write_bytes(damaged)
    with pytest.raises(AugmentationError, match="line 2") as caught, Journal(path):
        pass
    assert "secret" not in str(caught.value) and path.read_bytes() == damaged


def test_30_a_second_runner_exits_clearly(tmp_path):
    """Another process holds the journal."""
    params = AugmentationParams(max_share=0.5)
    path = journal_path(tmp_path, params)
    code = "import sys, time\nfrom emosafe_lib.augment.journal import Journal\n"
    code += "with Journal(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(AugmentationError, match="another run"):
            reinterpretation.reinterpret(rows(4), params, tmp_path)
    finally:
        other.kill()
        other.wait()
    assert reinterpretation.reinterpret(rows(4), params, tmp_path).card["accepted"]  # the kernel released the lock


def test_a_full_disk_leaves_the_journal_whole(tmp_path, monkeypatch):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.answered(Answer("a", "ok", "text"))
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        with pytest.raises(AugmentationError, match="disk may be full"):
            journal.answered(Answer("b", "ok", "text"))
        monkeypatch.undo()
    with Journal(path) as journal:
        assert set(journal.answers) == {"a"} and not journal.torn


def test_the_journal_is_readable_by_its_owner_only(tmp_path):
    with Journal(tmp_path / "j.jsonl"):
        assert (tmp_path / "j.jsonl").stat().st_mode & 0o077 == 0


# --- diversity and speed ----------------------------------------------------------------------------------------------


def test_distinct_n_counts_different_ngrams():
    assert diversity.distinct_n(["a b a b"], 1) == 0.5
    assert diversity.distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert np.isnan(diversity.distinct_n([], 1))


def test_spread_is_the_mean_cosine_distance_of_pairs():
    vectors = np.eye(3)
    assert diversity.spread(vectors) == pytest.approx(1.0)
    assert diversity.spread(vectors[[0, 0, 1]]) == pytest.approx(2 / 3)
    assert np.isnan(diversity.spread(vectors[:1]))


def test_what_is_undefined_is_none_in_the_card_and_needs_no_encoder(monkeypatch):
    monkeypatch.setattr("emosafe_lib.models.backbone.load_encoder", lambda model: pytest.fail("an encoder was loaded"))
    lineage = rows(0).assign(text_parent=[])
    alike = diversity.likeness(lineage)
    assert list(alike.pairs.columns) == ["kind", "similarity"] and len(alike.pairs) == 0
    assert alike.for_card() == {"spread_parents": None, "spread_re_tellings": None} and np.isnan(alike.relative_spread)
    assert diversity.summary(rows(1).assign(text="alone"))["distinct_2"] is None
    counts, share = acceptance.agreement([], [])
    assert share is None and counts.to_numpy().tolist() == [[0] * 3] * 3


def test_a_re_telling_is_never_compared_with_its_own_parent_as_if_with_another(monkeypatch):
    monkeypatch.setattr(diversity, "sentence_vectors", lambda texts: np.eye(9)[[int(text) for text in texts]])
    for count in (1, 2, 7, 8):
        texts = [str(n) for n in range(count)]
        alike = diversity.likeness(rows(count).assign(text=texts, text_parent=texts))
        mean = alike.pairs.groupby("kind")["similarity"].mean().to_dict()
        assert mean == {"own parent": 1.0} | ({"another parent": 0.0} if count > 1 else {})
    assert alike.for_card() == {"spread_parents": 1.0, "spread_re_tellings": 1.0} and alike.relative_spread == 1.0


def test_agreement_counts_levels_asked_for_against_levels_said():
    counts, share = acceptance.agreement(["safe", "safe", "unsafe"], ["safe", "borderline", "unsafe"])
    assert share == pytest.approx(2 / 3)
    assert counts.loc["safe"].tolist() == [1, 1, 0] and counts.loc["unsafe"].tolist() == [0, 0, 1]


def test_five_thousand_rows_take_seconds(tmp_path):
    """The near-duplicate check is not quadratic: random words, as many as a study has."""
    words = np.array([f"w{n}" for n in range(3000)])
    texts = [" ".join(line) for line in words[np.random.default_rng(0).integers(0, 3000, (5000, 20))]]
    started = time.monotonic()
    card = reinterpretation.reinterpret(rows(5000).assign(text=texts), AugmentationParams(max_rows=300), tmp_path).card
    assert card["requested"] == 300 and time.monotonic() - started < 40
