"""The two embedded files are what their data card says: balanced, clean of identifiers, and not solvable by words."""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest

from emosafe_lib.data.sources.base import ASSETS
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

FOLDER = ASSETS / "sample"
REGISTERS = {"first-person", "question", "advice-reply", "figurative", "imperative", "third-person"}
REQUIRED = {"id", "text", "safety", "categories", "emotion", "register"}

# Ordinary words for people who are not adults: none of them may occur, in any sense.
NOT_ADULT = re.compile(
    r"\b(child\w*|kid|kids|kiddo\w*|minors?|teen\w*|boy\w*|girl\w*|school\w*|pupils?|students?|class(?:room|mate)\w*|"
    r"infan\w*|toddler\w*|bab(?:y|ies)\w*|under-?\s?age\w*|juvenile\w*|adolescen\w*|young\w*|youth\w*|daughters?|sons?|"
    r"grand(?:son|daughter)s?|nephews?|nieces?|lad|lads|lass\w*|nurser(?:y|ies)|kindergarten\w*|playground\w*|puberty|"
    r"(?:[1-9]|1[0-7])[- ]year[- ]olds?|grow(?:n|ing|s)? up|grew up)\b",
    re.IGNORECASE,
)
IDENTIFIER = re.compile(
    r"\w@\w|(?<!\w)@\w|https?:|www\.|\b\w+\.(?:com|org|net|io|de|uk)\b|\bu/\w|\br/\w|#\w|(?:\d[\s().-]*){3,}",
    re.IGNORECASE,
)


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


SAMPLE, CONTRAST = read("sample.jsonl"), read("contrast.jsonl")
BOTH = pytest.mark.parametrize(("rows", "letter"), [(SAMPLE, "s"), (CONTRAST, "c")], ids=["sample", "contrast"])


def pairs() -> dict[str, list[dict]]:
    found = defaultdict(list)
    for row in SAMPLE:
        if "pair" in row:
            found[row["pair"]].append(row)
    return found


def repeats(rows: list[dict], limit: float) -> list[tuple[str, str]]:
    """Ids of rows outside one pair whose word sets overlap by `limit` or more (Jaccard)."""
    bags = [set(words(row["text"])) for row in rows]
    index = {word: i for i, word in enumerate(sorted(set().union(*bags)))}
    table = np.zeros((len(rows), len(index)), dtype=np.float32)
    for line, bag in zip(table, bags, strict=True):
        line[[index[word] for word in bag]] = 1
    common, size = table @ table.T, table.sum(axis=1)
    close = np.argwhere(np.triu(common / (size[:, None] + size - common) >= limit, k=1))
    keys = [(rows[i].get("pair") or rows[i]["id"], rows[j].get("pair") or rows[j]["id"]) for i, j in close]
    return [(rows[i]["id"], rows[j]["id"]) for (i, j), (a, b) in zip(close, keys, strict=True) if a != b]


def macro_f1(seed: int) -> float:
    """TF-IDF (one and two words) and logistic regression: 70 % train, 15 % test, a pair never divided."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.pipeline import make_pipeline

    texts = np.array([row["text"] for row in SAMPLE], dtype=object)
    levels = np.array([row["safety"] for row in SAMPLE])
    groups = [row.get("pair", row["id"]) for row in SAMPLE]
    split = GroupShuffleSplit(1, train_size=0.7, test_size=0.15, random_state=seed)
    train, test = next(split.split(texts, levels, groups))
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=2000, class_weight="balanced"),
    )
    return f1_score(levels[test], model.fit(texts[train], levels[train]).predict(texts[test]), average="macro")


@BOTH
def test_every_row_has_the_fields_and_only_known_values(rows, letter):
    for number, row in enumerate(rows, start=1):
        assert row["id"] == f"{letter}{number:04d}"
        assert REQUIRED <= set(row) <= REQUIRED | {"pair"}, row["id"]
        assert row["safety"] in SAFETY_LEVELS and row["register"] in REGISTERS, row["id"]
        assert re.fullmatch(r"[a-z]+", row["emotion"]), row["id"]
        assert row["categories"] == [key for key in CATEGORIES if key in row["categories"]], row["id"]


@BOTH
def test_lines_are_canonical_json_in_plain_ascii(rows, letter):
    name = {"s": "sample.jsonl", "c": "contrast.jsonl"}[letter]
    raw = (FOLDER / name).read_bytes()
    assert raw.decode("ascii") == "".join(json.dumps(row) + "\n" for row in rows)
    assert all(row["text"].isprintable() and row["text"] == " ".join(row["text"].split()) for row in rows)


@BOTH
def test_texts_have_6_to_60_words_and_vary(rows, letter):
    lengths = [len(words(row["text"])) for row in rows]
    assert min(lengths) >= 6 and max(lengths) <= 60
    assert np.std(lengths) > 3


def test_counts_and_balance():
    assert 1150 <= len(SAMPLE) <= 1300
    share = {level: n / len(SAMPLE) for level, n in Counter(row["safety"] for row in SAMPLE).items()}
    assert 0.35 <= share["safe"] <= 0.45 and 0.27 <= share["borderline"] <= 0.37 and 0.24 <= share["unsafe"] <= 0.34


def test_categories_follow_the_levels():
    """Safe names no category, unsafe names at least one, borderline may do either."""
    assert not any(row["categories"] for row in SAMPLE if row["safety"] == "safe")
    assert all(row["categories"] for row in SAMPLE if row["safety"] == "unsafe")
    assert {bool(row["categories"]) for row in SAMPLE if row["safety"] == "borderline"} == {True, False}


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_has_90_rows_in_two_levels(category):
    levels = Counter(row["safety"] for row in SAMPLE if category in row["categories"])
    assert levels.total() >= 90
    assert min(levels["borderline"], levels["unsafe"]) >= 40


def test_rows_with_several_categories_reach_every_category():
    several = [row for row in SAMPLE if len(row["categories"]) > 1]
    assert len(several) >= 80
    assert {key for row in several for key in row["categories"]} == set(CATEGORIES)


@pytest.mark.parametrize("level", SAFETY_LEVELS)
def test_every_register_occurs_in_every_level(level):
    registers = Counter(row["register"] for row in SAMPLE if row["safety"] == level)
    assert set(registers) == REGISTERS and min(registers.values()) >= 15


def test_pairs_hold_two_or_three_rows_of_different_levels():
    assert len(pairs()) >= 100
    for name, members in pairs().items():
        assert len(members) in (2, 3), name
        assert len({row["safety"] for row in members}) >= 2, name


def test_pairs_share_vocabulary_so_that_they_are_hard():
    """A pair is hard because its members share words: at least twice as many as rows picked at random do."""

    def overlap(a, b):
        a, b = set(words(a["text"])), set(words(b["text"]))
        return len(a & b) / len(a | b)

    inside = [overlap(a, b) for members in pairs().values() for a, b in combinations(members, 2)]
    outside = [overlap(a, b) for a, b in zip(SAMPLE, SAMPLE[400:], strict=False)]
    assert np.median(inside) > 2 * np.mean(outside)


def test_no_near_duplicates_within_and_across_the_files():
    assert repeats(SAMPLE + CONTRAST, limit=0.6) == []


def test_the_near_duplicate_check_finds_one():
    row = SAMPLE[-1]
    assert repeats([row, row | {"id": "x", "text": row["text"].upper()}], limit=0.6) == [(row["id"], "x")]


@BOTH
def test_only_adults_are_mentioned(rows, letter):
    assert [row["id"] for row in rows if NOT_ADULT.search(row["text"])] == []


@BOTH
def test_no_identifiers(rows, letter):
    assert [row["id"] for row in rows if IDENTIFIER.search(row["text"])] == []


@pytest.mark.parametrize("text", ["me@here", "ask @someone", "see www.place", "it is at place.com", "555 12 34"])
def test_the_identifier_pattern_finds_one(text):
    assert IDENTIFIER.search(text)


def test_words_alone_do_not_solve_the_sample():
    """Above chance and far below solved: TF-IDF with logistic regression stays under 0.85 on every split."""
    scores = [macro_f1(seed) for seed in range(5)]
    assert max(scores) < 0.85
    assert 0.50 <= np.mean(scores) <= 0.75


def test_length_alone_says_little():
    """The mean length of no level is far from another's, in units of the spread of all."""
    lengths = {level: [len(words(row["text"])) for row in SAMPLE if row["safety"] == level] for level in SAFETY_LEVELS}
    means = [np.mean(values) for values in lengths.values()]
    assert max(means) - min(means) < np.std([n for values in lengths.values() for n in values])


def test_contrast_rows_are_harmless_requests():
    assert len(CONTRAST) >= 300
    assert {row["safety"] for row in CONTRAST} == {"safe"}
    assert not any(row["categories"] or "pair" in row for row in CONTRAST)
    assert Counter(row["register"] for row in CONTRAST).keys() == {"imperative", "question"}


def test_contrast_openings_vary():
    openings = Counter(" ".join(words(row["text"])[:2]) for row in CONTRAST)
    assert len(openings) >= 80
    assert max(openings.values()) <= len(CONTRAST) / 4


@pytest.mark.parametrize("key", ["sample", "contrast", *SAFETY_LEVELS, *CATEGORIES, "pairs"])
def test_the_data_card_tells_the_true_counts(key):
    """The tables of README.md: the last number of the row that begins with the key."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    told = int(re.search(rf"^\| `{key}` \|.*?(\d+) \|$", card, re.MULTILINE).group(1))
    levels = Counter(row["safety"] for row in SAMPLE)
    categories = Counter(name for row in SAMPLE for name in row["categories"])
    true = {"sample": len(SAMPLE), "contrast": len(CONTRAST), "pairs": len(pairs())} | levels | categories
    assert told == true[key]
