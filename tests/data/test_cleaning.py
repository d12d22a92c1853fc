"""One way in: what the merge makes of a text is what a model reads when somebody classifies it."""

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
