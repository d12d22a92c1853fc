"""Masks: on what names a person, on nothing else, once, and in time that grows as the text does."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emosafe_lib.data import privacy, pseudonyms

PHONES = (
    "+49 (170) 123-4567|+1 (555) 123-4567|+15551234567|+33 6 12 34 56 78|+44 20 7946 0958|0049 170 1234567|555-123-4567"
    "|555.123.4567|555 123 4567|1-555-123-4567|(555) 123-4567|(555)123-4567|5551234567|07911 123456|07911123456"
    "|020 7946 0958|(020) 7946 0958|0161 496 0000|030/1234567|0170 1234567|06 12 34 56 78|06.12.34.56.78|98765 43210"
    "|139 1234 5678|13912345678|090-1234-5678|0812-3456-7890|(11) 98765-4321"
).split("|")
NUMBERS = (
    "2026-03-14 09:26:53|2026-03-14T09:26:53Z|14.03.2026 10:30|03/14/2026 09:26|20260314092653|1700000000|1700000000000"
    "|12:30:45 and 13:30:45|21 30 45 60 75|3 17 22 35 41 48|04 11 23 35 42 49|100 200 300 400 500|001 002 003 004 005"
    "|2016 2017 2018 2019|1990-1995-2000-2005|2019-2020|1 234 567 890|$1,200,000.00|$555 123 4567|5551234567 €"
    "|5000000000|10.0.19045.3803|version 10.2.31.4|1.2.3.4|120.0.6099.109|978-3-16-148410-0|0-306-40615-2|9783161484100"
    "|ISBN 0306406152|ISBN-10: 0306406152|52.520008, 13.404954|0.5551234567|3.14159265358979|800-1200 calories|@9pm|@10"
    "|1-800-273-8255|0800 1110111|0808 800 5000|116 123|65000-72000|1/2/3/4/5/6/7/8/9"
).split("|")
ATTACKS = {  # of length n, all of them slow once
    "labels before a slash": lambda n: "x/ " + "a." * (n // 2),
    "labels": lambda n: "a." * (n // 2),
    "hyphens before at": lambda n: "a-" * (n // 2) + " at",
    "labels behind at": lambda n: "@" + "a." * (n // 2),
    "hyphens behind at": lambda n: "x@" + "a-" * (n // 2),
    "dots behind at": lambda n: "x@a." + "-." * (n // 2),
    "joined addresses": lambda n: "a@b.c+" * (n // 6),
    "joined addresses in words": lambda n: "a at b dot com+" * (n // 15),
    "many at": lambda n: "a@" * (n // 2),
    "many at with slash": lambda n: "a@a./" * (n // 5),
    "words at": lambda n: "x at " * (n // 5),
    "spaces": lambda n: "x" + " " * n + "at",
    "spaces behind at": lambda n: "x at y" + " " * n + "dot",
    "spaces behind a name": lambda n: "insta" + " " * n,
    "a long name": lambda n: "insta is " + "a" * n,
    "digits": lambda n: "1" * n,
    "pairs": lambda n: "+" + "12 " * (n // 3),
    "brackets": lambda n: "(1" * (n // 2),
    "letters of an account": lambda n: "AA11 " * (n // 10) + "A" * (n // 2),
    "quads": lambda n: "1." * (n // 2),
}
PIECES = st.sampled_from(
    PHONES
    + NUMBERS
    + list("a1@./-_:+() ]#=")
    + "ab|u/abc|a@b.com|@ab|b.com/x|www.x|http://|insta:|at| at | dot |com|[USER]|555-0142|192.168.17.4".split("|")
    + ["4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"]
)


@pytest.mark.parametrize("number", PHONES)
def test_a_phone_number_is_masked_whole(number):
    for text, masked in (("{}", "{}"), ("call {}, now", "call {}, now"), ("I am 34. {}!", "I am 34. {}!")):
        assert privacy.scrub(text.format(number)) == masked.format("[PHONE]")


@pytest.mark.parametrize("mask", [privacy.scrub, pseudonyms.pseudonymise])
@pytest.mark.parametrize("identifier", ["@anna.schmidt", "@anna-schmidt", "@a_b.c.d-e", "07700 900 123"])
def test_no_part_of_a_handle_or_number_stays_behind(mask, identifier):
    told = mask(f"Write to {identifier}, please. Thanks.")
    assert (
        told.startswith(("Write to [", "Write to @[")) and told.endswith("], please. Thanks.") and told.count("]") == 1
    )


WIDE = {usual: wide for wide, usual in privacy.USUAL.items() if isinstance(usual, int)}


@pytest.mark.parametrize("mask", [privacy.scrub, pseudonyms.pseudonymise])
@pytest.mark.parametrize(
    "identifier", ["jo@mail.com", "@jo_smith", "https://a.example/x", "u/somebody", "+49 170 1234567"]
)
def test_what_an_east_asian_keyboard_writes_is_masked_as_well(mask, identifier):
    told = f"Write to {identifier} now"
    assert mask(told.translate(WIDE)) == mask(told) != told
    small = told.replace("@", "\ufe6b").replace(".", "\ufe52")
    assert mask(small) == mask(told)
    assert mask("\uff37ho\uff1f\u3000me\uff01") == "\uff37ho\uff1f\u3000me\uff01"


@pytest.mark.parametrize("number", NUMBERS)
def test_times_dates_lists_versions_books_and_money_stay(number):
    for text in (number, f"The alarm rang at {number}", f"weights were {number}, then I slept"):
        assert privacy.scrub(text) == text and pseudonyms.pseudonymise(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "I look at the dot on the wall and stare at the dot for hours",
        "instagram is toxic and twitter is terrible for me",
        "MY24 HOUR LONG WORK SHIFT KILLS ME",
        "at 500-1000 calories a day, from 100 2000 and so on",
        "either/or, and/or; he/she u/s w/o",
    ],
)
def test_a_text_without_an_identifier_comes_back_unchanged(text):
    assert privacy.scrub(text) == text and pseudonyms.pseudonymise(text) == text


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=8).map("".join))
@example("u/abc@def")
@example("@a@b and a@b.com@cd")
@example("a@b.com+a@b.com")
@example("a at b dot com+a at b dot com")
@example("555-123-4567/u/xyz @a2-555-123-4567@cd")
def test_masking_twice_changes_nothing_more(text):
    for mask in (privacy.scrub, pseudonyms.pseudonymise):
        assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize("joint", ["+", "..", "-+", ".+."])
def test_an_address_right_behind_another_is_masked_too(joint):
    assert privacy.scrub(f"write to jo@mail.example{joint}bo@mail.example soon") == "write to [EMAIL] soon"
    said = f"write to jo at mail dot com{joint}bo at mail dot com soon"
    assert pseudonyms.pseudonymise(said) == "write to [EMAIL_1] soon"


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(exclude_categories=["Nd"], exclude_characters="@/"), max_size=60))
def test_without_a_digit_an_at_and_a_slash_there_is_no_identifier(text):
    assert "www." in text.lower() or privacy.scrub(text) == text


@pytest.mark.parametrize("mask", [privacy.scrub, pseudonyms.pseudonymise])
@pytest.mark.parametrize("attack", ATTACKS)
def test_twice_the_text_takes_about_twice_the_time(attack, mask):
    """A quadratic pattern takes four times as long, and several seconds."""

    def seconds(length: int) -> float:
        text, spent = ATTACKS[attack](length), []
        for _ in range(3):
            begin = time.process_time()
            mask(text)
            spent.append(time.process_time() - begin)
        return min(spent)

    assert seconds(40_000) < 3 * seconds(20_000) + 0.005
