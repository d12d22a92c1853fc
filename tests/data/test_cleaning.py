"""One way in: what the merge makes of a text is what a model reads when somebody classifies it."""

import time

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emosafe_lib.data import cleaning
from emosafe_lib.ondevice import classify, messages

WORDS = "I want to end it tonight, my partner left me"
LETTERS = st.characters() | st.sampled_from("\x00\xa0\xad\n\t\u200b\u200c\u200d\u2060\ufe0f\u3164\u0301é👨😢.@/1")
TEXTS = st.text(LETTERS, max_size=60) | st.text("ab \u200d\ufe0f\u200c👨1)\u0301\U000e0062", max_size=12)


def merged_text(text):
    """What `prepare_rows` makes of a text: its words, or the reason why it was set aside."""
    rows, counts = cleaning.prepare_rows(pd.DataFrame({"text": [text]}, dtype=object), messages.MOST_CHARACTERS)
    return rows["text"].iloc[0] if len(rows) else cleaning.Unreadable(*counts["quarantined"])


def read_by_classify(text, monkeypatch):
    """What `classify` hands to its network, or the reason in its outcome."""
    seen = []
    reader = object.__new__(classify.Classifier)
    monkeypatch.setattr(
        reader, "score", lambda texts: [seen.append(text) or {"outcome": "ok"} for text in texts], False
    )
    (result,) = reader.classify([text])
    return seen[0] if seen else cleaning.Unreadable(result["outcome"].removeprefix("refused: "))


@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example("\x00\x00")
@example("\u200b\u200d")
@example("mail jo@mail.exam\u200bple.org, or @somebody")
@example("a\u202eb")
@example("\ud800")
def test_classify_reads_what_the_merge_makes_of_a_text(text):
    with pytest.MonkeyPatch.context() as patch:
        made = merged_text(text)
        if made != cleaning.Unreadable("minors in a sexual context"):  # not for training, but somebody may ask about it
            assert read_by_classify(text, patch) == made


@settings(deadline=None, max_examples=300)
@given(TEXTS)
@example("a \u3000\u200d.")
def test_a_prepared_text_is_prepared_already(text):
    once = cleaning.prepared(text, 1000)
    tidy = cleaning.display_text(text)
    assert cleaning.display_text(tidy) == tidy
    assert isinstance(once, cleaning.Unreadable) or cleaning.prepared(once, 1000) == once


@pytest.mark.parametrize(
    "between",
    ["\xa0", "\n", "\r\n", "\t", "\u2028", "\u3000", " \xad", "\u200b ", " \u200d", "\u2060 ", "\x85", "\u2800"],
)
def test_spaces_of_any_kind_are_one_space(between):
    assert cleaning.prepared(WORDS.replace(" ", between), 1000) == WORDS


@pytest.mark.parametrize("hidden", "\xad\u200b\u200c\u200d\u2060\ufeff\u034f\u180e\ufe0f\u3164\U000e0061\u2063")
def test_invisible_characters_inside_words_are_gone(hidden):
    assert cleaning.prepared(hidden.join(WORDS), 1000).replace(hidden, "") == WORDS
    assert cleaning.prepared(WORDS.replace("nig", f"n{hidden}i{hidden * 2}g"), 1000) == WORDS
    assert cleaning.prepared(hidden * 9, 1000) == cleaning.Unreadable("empty")


# Of each range that Unicode ignores in display, but for the marks that reorder a text, which are refused, its ends.
IGNORED = (
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b\u180f\u200b\u200c\u200d\u2060\u2065\u3164\ufe00\ufe0f\ufeff\uffa0\ufff0\ufff8"
    "\U0001bca0\U0001bca3\U0001d173\U0001d17a\U000e0000\U000e0061\U000e0100\U000e0fff"
)
NAMED = "write jo@mail.example.org, @jo_public, u/jo_public or www.example.org/jo, call (555) 123-4567"


@pytest.mark.parametrize("hidden", IGNORED)
def test_an_invisible_character_at_any_place_hides_no_identifier(hidden):
    masked = cleaning.prepared(NAMED, 1000)
    assert masked == "write [EMAIL], @[USER], u/[USER] or [URL] call [PHONE]"
    for at in range(1, len(NAMED)):
        assert cleaning.prepared(NAMED[:at] + hidden + NAMED[at:], 1000) == masked


@pytest.mark.parametrize("hidden", IGNORED)
def test_a_word_that_an_invisible_character_hides_is_refused_as_it_would_be_stored(hidden):
    for text in (f"a teen{hidden}ager and p{hidden}orn", hidden.join("pedophile"), f"a te{hidden * 3}en and porn"):
        assert cleaning.admitted(text, 1000) == cleaning.Unreadable("minors in a sexual context")


@pytest.mark.parametrize(
    "text",
    [
        "a teenager" + " " * 400 + "and porn",
        "a teenager, see www.example.org/" + "x" * 300 + " and porn",
        "see www.example.org/teenager and porn",
        "ａ ｔｅｅｎａｇｅｒ and 𝐩𝐨𝐫𝐧",
    ],
    ids=["near once its spaces are one", "near once an address is masked", "in an address", "in another font"],
)
def test_words_are_near_each_other_as_they_came_or_as_they_would_be_stored(text):
    assert cleaning.admitted(text, 1000) == cleaning.Unreadable("minors in a sexual context")


@pytest.mark.parametrize("run", ["\u200d", "\ufe0f", "\u200d\ufe0f", ")\u200d", "\U000e0061\u200d", ")\ufe0f \u200d"])
def test_twice_the_invisible_characters_take_about_twice_the_time(run):
    def seconds(count: int) -> float:
        text, spent = f"☃{run * count}☃", []
        for _ in range(3):
            begin = time.process_time()
            cleaning.display_text(text)
            spent.append(time.process_time() - begin)
        return min(spent)

    assert seconds(20_000) < 3 * seconds(10_000) + 0.005


@pytest.mark.parametrize(
    "text", ["👨‍👩‍👧 ❤️ 1️⃣", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "می‌خواهم"]
)
def test_joiners_that_belong_to_a_script_or_an_emoji_stay(text):
    assert cleaning.prepared(text, 1000) == text


def test_only_nuls_are_nothing_and_a_nul_in_a_text_is_refused():
    assert cleaning.prepared("\x00\x00 \x00", 1000) == cleaning.Unreadable("empty")
    assert cleaning.prepared("a\x00b", 1000) == cleaning.Unreadable("NUL character")


def test_identifiers_are_masked_for_a_model_as_in_training():
    assert messages.readable("ask jo@mail.example.org or @jo_public") == "ask [EMAIL] or @[USER]"
