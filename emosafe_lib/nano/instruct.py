"""Conversations about other tasks: what makes zero-shot mean something for a nano-LLaMA.

A model that has only read novels does not know that a question about a message wants one of the listed words. So the
ladder also reads conversations in the form of the study's prompts: moods, emotions, stress, sexism, abuse, advice,
topics, questions and copying. The two target tasks never occur in their own words; what annotators of three of the study's
sources wrote beside training rows does (EDOS's sexism, ConvAbuse's abuse, SAD's stress), so that on those sources zero-shot
is transfer. The rest is a rule which code checks: no row of a
validation or test group or near-duplicate of one, only sources whose licence allows it, no level of safety as an
option, no question about a target category, and none made of a message's own words about any word that a target
category is titled or defined with. Fixed names of topics are not filtered by words: "self esteem" is asked about.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib.data import cleaning, merge, splits
from emosafe_lib.data.sources import raw_tables, registry
from emosafe_lib.prompting import wordings
from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.parameters import DataParams
from emosafe_lib.study.rows import stable_unit
from emosafe_lib.study.taxonomy import CATEGORY_TABLE, SAFETY_LEVELS

SOURCES_READ = ("goemotions", "sad", "edos", "convabuse", "counsel_chat")  # their licences allow it
HELD_OUT_SHARE = 0.05
MESSAGE_TOKENS = 40
# Topics of sources that stand close to a target category are never asked about.
REFUSED_TOPICS = ("self-harm", "substance-abuse", "addiction", "domestic-violence")
TARGET_WORDS = frozenset(
    word
    for category in CATEGORY_TABLE
    for word in re.findall(r"[a-z]+", f"{category.title} {category.definition}".lower())
)

# --- rows -------------------------------------------------------------------------------------------------------------


def annotated_rows(data: DataParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that pre-training may read, and those that it must not see (validation and test of the study).

    All rows of the study's sources are grouped and split exactly as the merge does it, before its caps, so that a row
    which the study leaves out still does not enter from a held-out group. GoEmotions, which is not in the study, joins
    afterwards. Whatever is a near-duplicate of an unseen row goes.

    Returns
    -------
    rows : id, text, source, group, label (what the source's people annotated), split "train"
    unseen : id, text, key, group of validation and test
    """
    raw, _ = merge.read_sources(data)
    split = splits.assign_splits(merge.prepare(raw, data).rows, data)
    unseen = split[split["split"] != "train"]
    rows = split[(split["split"] == "train") & split["source"].isin(SOURCES_READ)]
    rows = pd.concat([rows.assign(label=rows["source_label"]), emotion_rows(data.max_characters)], ignore_index=True)
    read = merge.already_read(rows["key"], unseen["key"], data.near_duplicate_jaccard)
    rows = rows[~read].drop_duplicates("key")
    stressors = stressor_labels()
    rows["label"] = [stressors.get(i, label) for i, label in zip(rows["id"], rows["label"], strict=True)]
    columns = ["id", "text", "source", "group", "split", "label"]
    return rows[columns].sort_values("id", ignore_index=True), unseen[["id", "text", "key", "group"]]


def emotion_rows(max_characters: int) -> pd.DataFrame:
    """GoEmotions with all its emotions as the label, tidied as the merge does it."""
    files = registry.files("goemotions")
    names = raw_tables.read_text(files["labels.txt"]).split()
    table = raw_tables.read_table(files["train.tsv"], delimiter="\t", header=["text", "codes", "id"])
    label = table["codes"].map(lambda codes: ",".join(names[int(code)] for code in codes.split(",")))
    rows = pd.DataFrame({"id": "goemotions:" + table["id"], "text": table["text"], "label": label})
    rows, _ = cleaning.prepare_rows(rows, max_characters)
    return rows.assign(source="goemotions", group=rows["id"], split="train")


def stressor_labels() -> dict[str, str]:
    """Row id -> `severity|kind of stressor` for SAD."""
    path = registry.files("sad")["SAD_v1.zip"]
    header, *body = next(iter(raw_tables.read_workbook(raw_tables.read_member(path, "SAD_v1.xlsx")).values()))
    table = pd.DataFrame(body, columns=header)
    return {f"sad:{r.sID}": f"{float(r.avg_severity):.1f}|{r.top_label}" for r in table.itertuples()}


def refuse_leaks(ids: Iterable[str], groups: Iterable[str], unseen: pd.DataFrame) -> None:
    """Stop if anything that pre-training reads belongs to validation or test.

    Raises
    ------
    MergeError : names the first id
    """
    held_ids, held_groups = set(unseen["id"]), set(unseen["group"])
    for name, group in zip(ids, groups, strict=True):
        if name in held_ids or group in held_groups:
            raise MergeError(f"row {name}", "is in validation or test", "pre-train on train groups only")


def held_out(rows: pd.DataFrame) -> np.ndarray:
    """Which training groups are kept aside to measure the conversations' loss, shape (n,)."""
    return rows["group"].map(lambda group: stable_unit(group, "ladder") < HELD_OUT_SHARE).to_numpy(dtype=bool)


# --- lessons ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shot:
    """One message with one or more questions and their answers."""

    text: str
    asked: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Lesson:
    """One task in one wording: an instruction, a way to draw shots of it, and whether it has many of them."""

    instruction: str
    draw: Callable[[], Shot]
    many: bool = True


BRIGHT = set("admiration amusement approval caring excitement gratitude joy love optimism pride".split())
DARK = set(
    "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse sadness".split()
)
EMOTIONS = {
    "admiration": "looks up to somebody",
    "amusement": "finds something funny",
    "anger": "is furious",
    "annoyance": "is irritated",
    "approval": "agrees with something",
    "caring": "is kind to somebody",
    "confusion": "does not understand",
    "curiosity": "wants to know more",
    "disappointment": "hoped for something better",
    "disapproval": "thinks that something is wrong",
    "disgust": "finds something revolting",
    "excitement": "is thrilled",
    "fear": "is afraid",
    "gratitude": "says thanks",
    "joy": "is happy",
    "love": "feels affection",
    "optimism": "expects good things",
    "sadness": "is unhappy",
    "surprise": "did not expect something",
}
STRESSORS = {
    "Work": "jobs, bosses and deadlines",
    "Health, Fatigue, or Physical Pain": "illness, tiredness or pain",
    "School": "classes, exams or homework",
    "Family Issues": "parents, partners or relatives",
    "Financial Problem": "money, debts or bills",
    "Social Relationships": "friends, dating or loneliness",
    "Everyday Decision Making": "small choices of the day",
    "Emotional Turmoil": "feelings that are hard to bear",
}
# Graded words from the light end to the dark end. Many share the prefix un-, so that it comes to mean the dark end.
GRADES = {
    "mood": (
        ("pleasant", "mixed", "unpleasant"),
        ("happy", "even", "unhappy"),
        ("positive", "neutral", "negative"),
        ("lucky", "ordinary", "unlucky"),
        ("content", "flat", "discontent"),
        ("cheerful", "quiet", "uncheerful"),
    ),
    "stress": (
        ("calm", "strained", "overwhelmed"),
        ("well", "tired", "unwell"),
        ("settled", "tense", "unsettled"),
        ("easy", "pressed", "uneasy"),
        ("bearable", "hard", "unbearable"),
        ("low", "medium", "high"),
    ),
    "manners": (
        ("kind", "blunt", "unkind"),
        ("friendly", "cool", "unfriendly"),
        ("polite", "cheeky", "rude"),
        ("fair", "sharp", "unfair"),
        ("civil", "curt", "uncivil"),
        ("welcome", "doubtful", "unwelcome"),
    ),
}
MEANINGS = {
    "mood": ("the mood is good", "there is no strong mood", "the mood is bad"),
    "stress": ("nothing weighs on the writer", "some pressure or worry", "a heavy load"),
    "manners": ("meets others with respect", "not quite nice", "insults or belittles somebody"),
}
OPENINGS = (
    "Read the message and decide.",
    "How would you describe the message? Levels:",
    "Which description fits the message?",
    "Which of these does the message touch? Categories:",
    "Decide for one category at a time.",
    "Task: check the message below against the list.",
    "Judge what the writer of the message means.",
    "",
)


def listed(options: Iterable[str]) -> str:
    """`a, b or c`."""
    *head, last = options
    return f"{', '.join(head)} or {last}" if head else last


def pick_one(options: Iterable[str]) -> str:
    """The question that asks for one of the listed words, in the form of the study's trinary prompt."""
    return f"Answer with one word: {listed(options)}."


def yes_or_no(title: str) -> str:
    """The question about one category, in the form of the study's category prompts."""
    return f"Category: {title}. Answer yes or no."


def answer(value: bool) -> str:
    """The word for a truth value."""
    return "yes" if value else "no"


def content_words(text: str) -> list[str]:
    """Lower-case words of four letters or more, once each, none of which belongs to a target category."""
    found = dict.fromkeys(re.findall(r"\b[a-z]{4,14}\b", text.lower()))
    return [word for word in found if word not in TARGET_WORDS and word not in SAFETY_LEVELS]


class Corpus:
    """Texts by what is known of them, and the lessons that can be made of that.

    Parameters
    ----------
    rows : columns text, source, split, label (see `annotated_rows`), train only
    paragraphs : unlabelled text for the lessons about words, such as paragraphs of novels

    Raises
    ------
    MergeError : a row is not from train or its source is not of `SOURCES_READ`
    """

    def __init__(self, rows: pd.DataFrame, paragraphs: list[str], seed: int = 0):
        if set(rows["split"]) - {"train"} or set(rows["source"]) - set(SOURCES_READ):
            raise MergeError("instruct", "rows that pre-training must not see", "pass train rows of SOURCES_READ only")
        self.rng = random.Random(seed)
        part = {n: list(zip(p["text"], p["label"], strict=True)) for n, p in rows.groupby("source")}
        self.emotions = [(text, label.split(",")) for text, label in part["goemotions"]]
        self.stress = [(t, float(s), kind) for t, s, kind in map(split_stressor, part["sad"]) if kind]
        self.sexism = [(t, label != "none") for t, label in part["edos"] if "|" not in label]
        self.abuse = [(t, abuse_level(label)) for t, label in part["convabuse"] if "|" not in label]
        self.counsel = [(t, *label.split(", ")) for t, label in part["counsel_chat"] if "|" not in label]
        self.counsel = [row for row in self.counsel if row[2] not in REFUSED_TOPICS]
        self.pools = self.graded_pools()
        texts = [*rows["text"], *paragraphs]
        counts = Counter(word for text in texts for word in content_words(text))
        self.rank = {word: n for word, n in counts.items() if 4 <= n <= max(12, len(texts) // 60)}
        self.texts = [text for text in texts if sum(word in self.rank for word in content_words(text)) >= 3]

    def graded_pools(self) -> dict[str, list[list[str]]]:
        """Scale -> the texts of each of its three grades."""
        mood = [
            [t for t, names in self.emotions if set(names) <= BRIGHT],
            [t for t, names in self.emotions if names == ["neutral"]],
            [t for t, names in self.emotions if set(names) <= DARK],
        ]
        stress = [[t for t, s, _ in self.stress if low <= s < high] for low, high in ((-1, 2), (2, 5.5), (5.5, 11))]
        stress[0] += mood[0][: len(stress[0])]
        manners = [[t for t, level in self.abuse if level == grade] for grade in range(3)]
        manners[0] += [t for t, names in self.emotions if {"gratitude", "caring", "admiration"} & set(names)]
        manners[1] += [t for t, names in self.emotions if names == ["annoyance"]]
        manners[2] += [t for t, sexist in self.sexism if sexist]
        return {"mood": mood, "stress": stress, "manners": manners}

    def instruction(self, meanings: dict[str, str]) -> str:
        """An opening and the listed words with their meanings, one a line."""
        lines = [self.rng.choice(OPENINGS), *(f"{word}: {meaning}" for word, meaning in meanings.items())]
        return "\n".join(line for line in lines if line)

    def graded(self) -> Lesson:
        """One of three graded words for mood, stress or manners."""
        scale = self.rng.choices(("mood", "stress", "manners"), (4, 3, 3))[0]
        words, pools = self.rng.choice(GRADES[scale]), self.pools[scale]

        def draw() -> Shot:
            grade = self.rng.randrange(3)
            return Shot(self.rng.choice(pools[grade]), ((pick_one(words), words[grade]),))

        meanings = dict(zip(words, MEANINGS[scale], strict=True)) if self.rng.random() < 0.7 else {}
        return Lesson(self.instruction(meanings), draw)

    def choice(self) -> Lesson:
        """One of three emotions, kinds of stressor or counselling topics."""
        table = self.table(self.by_emotion, self.by_stressor, self.by_topic)
        names = self.rng.sample(sorted(table), 3)

        def draw() -> Shot:
            name = self.rng.choice(names)
            return Shot(self.rng.choice(table[name]), ((pick_one(n.lower() for n in names), name.lower()),))

        return Lesson(self.instruction({n.lower(): MEANING.get(n, f"about {n}") for n in names}), draw)

    def category(self) -> Lesson:
        """Several categories with definitions, then yes-or-no questions about some of them."""
        table = self.table(self.by_emotion, self.by_stressor, self.by_topic, self.by_source)
        names = self.rng.sample(sorted(table), min(len(table), self.rng.choice((2, 3, 3, 6))))

        def draw() -> Shot:
            shown = self.rng.choice(names)
            asked = self.rng.sample(names, min(len(names), 3))
            asked = [shown, *asked[1:]] if shown not in asked and self.rng.random() < 0.6 else asked
            self.rng.shuffle(asked)
            turns = tuple((yes_or_no(name.capitalize()), answer(name == shown)) for name in asked)
            return Shot(self.rng.choice(table[shown]), turns)

        return Lesson(self.instruction({n.capitalize(): MEANING.get(n, f"about {n}") for n in names}), draw)

    def related(self) -> Lesson:
        """Categories named and defined by words of one message, asked of that message and of another.

        The words are taken out of the message in half of the cases: then the question is whether they would fit.
        """
        text = self.rng.choice(self.texts)
        others = [self.rng.choice(self.texts) for _ in range(self.rng.choice((1, 1, 2, 5)))]
        named = [self.named(source) for source in (text, *others)]
        hidden = self.rng.random() < 0.5
        order = list(range(len(named)))
        self.rng.shuffle(order)

        def draw() -> Shot:
            words = named[0][2]
            shown = re.sub(r"\b(" + "|".join(words) + r")\b", "", text, flags=re.IGNORECASE) if hidden else text
            asked = [0, *self.rng.sample(range(1, len(named)), min(len(others), self.rng.choice((1, 2, 3))))]
            self.rng.shuffle(asked)
            return Shot(" ".join(shown.split()), tuple((yes_or_no(named[n][0]), answer(n == 0)) for n in asked))

        listing = {named[n][0]: named[n][1] for n in order} if self.rng.random() < 0.8 else {}
        return Lesson(self.instruction(listing), draw, many=False)

    def named(self, text: str) -> tuple[str, str, list[str]]:
        """A category made of a text's own words: title, definition, and the words used."""
        words = [word for word in content_words(text) if word in self.rank]
        words = self.rng.sample(words, min(len(words), self.rng.choice((3, 4, 5, 6))))
        words.sort(key=self.rank.get)
        head = words[: self.rng.choice((1, 2, 2))]
        title = " and ".join(head).capitalize()
        return title, listed(words[len(head) :] or words), words

    def word_choice(self) -> Lesson:
        """Which of three words comes from the message? Any word can be an option, so options have to be read."""
        text = self.rng.choice(self.texts)
        words = [word for word in content_words(text) if word in self.rank]
        right = self.rng.choice(words)
        options = [right, *self.rng.sample(list(self.rank), 2)]
        self.rng.shuffle(options)
        shown = re.sub(rf"\b{right}\b", "", text, flags=re.IGNORECASE) if self.rng.random() < 0.3 else text
        return Lesson(
            "Which word belongs to the message?", lambda: Shot(shown, ((pick_one(options), right),)), many=False
        )

    def form(self) -> Lesson:
        """Question or statement? Advice or a request for it?"""
        if self.rng.random() < 0.5:
            words, table = (
                ("advice", "request"),
                {
                    "advice": [t for t, form, _ in self.counsel if form == "answer"],
                    "request": [t for t, form, _ in self.counsel if form == "question"],
                },
            )
        else:
            words = ("question", "statement")
            marked = [
                (t, t.rstrip().endswith("?")) for t, _ in self.rng.sample(self.emotions, min(60, len(self.emotions)))
            ]
            table = {"question": [t for t, q in marked if q], "statement": [t for t, q in marked if not q]}

        def draw() -> Shot:
            word = self.rng.choice([w for w in words if table[w]])
            return Shot(self.rng.choice(table[word]), ((pick_one(words), word),))

        return Lesson("What kind of message is this?", draw)

    def table(self, *ways: Callable[[], dict[str, list[str]]]) -> dict[str, list[str]]:
        """One way of naming texts, drawn by chance, without names that no text has."""
        return {name: texts for name, texts in self.rng.choice(ways)().items() if texts}

    def by_emotion(self) -> dict[str, list[str]]:
        """Emotion -> texts that have it alone."""
        if not hasattr(self, "_emotion"):
            single = [(t, names[0]) for t, names in self.emotions if len(names) == 1]
            self._emotion = {name: [t for t, found in single if found == name] for name in EMOTIONS}
        return self._emotion

    def by_stressor(self) -> dict[str, list[str]]:
        """Kind of stressor -> texts."""
        return {kind: [t for t, _, found in self.stress if found == kind] for kind in STRESSORS}

    def by_topic(self) -> dict[str, list[str]]:
        """Counselling topic -> texts."""
        counts = Counter(topic for _, _, topic in self.counsel)
        return {name.replace("-", " "): [t for t, _, n in self.counsel if n == name] for name in sorted(counts)}

    def by_source(self) -> dict[str, list[str]]:
        """Sexism, abuse, stress and two harmless rivals."""
        return {
            "sexism": [t for t, sexist in self.sexism if sexist],
            "abuse": [t for t, level in self.abuse if level == 2],
            "stress": self.pools["stress"][2],
            "good mood": self.pools["mood"][0],
            "small talk": [t for t, level in self.abuse if level == 0],
            "other comments": [t for t, sexist in self.sexism if not sexist],
        }

    def lessons(self) -> Iterator[Lesson]:
        """Lessons without end, in the shares of `LESSONS`."""
        names, weights = list(LESSONS), list(LESSONS.values())
        while True:
            yield getattr(self, self.rng.choices(names, weights)[0])()


# Shares of lessons. Options that can be any word are rare: no rung learns them at this budget.
LESSONS = {"graded": 12, "choice": 1, "category": 6, "related": 8, "word_choice": 0.5, "form": 1}
MEANING = {
    **EMOTIONS,
    **STRESSORS,
    "sexism": "belittles people for their sex",
    "abuse": "the user insults the assistant",
    "stress": "something weighs heavily on the writer",
    "good mood": "the writer is glad",
    "small talk": "chats about nothing much",
    "other comments": "says something else",
}


def split_stressor(row: tuple[str, str]) -> tuple[str, str, str]:
    """(text, severity, kind) of a SAD row; kind is empty where the label is not of that form."""
    severity, _, kind = row[1].partition("|")
    return (row[0], severity, kind) if re.fullmatch(r"\d+\.\d", severity) else (row[0], "0", "")


def abuse_level(label: str) -> int:
    """0 not abusive, 1 ambiguous or mild, 2 abusive (ConvAbuse's mean severity, see its reader)."""
    return 2 if label.startswith("abusive") else int(label.startswith("ambiguous"))


# --- conversations ----------------------------------------------------------------------------------------------------


def conversation(tokenizer, lesson: Lesson, shots: int, longest: int = MESSAGE_TOKENS) -> tuple[list[int], list[bool]]:
    """A chat of one lesson in the form of `wordings.build_prompt`: ids, and which of them are answers."""
    before, between, after = wordings.chat_frame(tokenizer)
    again = wordings.without_bos(tokenizer, before)
    opening, closing = wordings.wrap("\x00").split("\x00")
    ids, marks = list(before), [False] * len(before)

    def add(piece: Iterable[int], mark: bool = False) -> None:
        piece = list(piece)
        ids.extend(piece)
        marks.extend([mark] * len(piece))

    add(wordings.encode_plain(tokenizer, f"{lesson.instruction}\n\n"))
    for number in range(shots):
        shot = lesson.draw()
        text = wordings.cut(wordings.encode_plain(tokenizer, wordings.wrap_inner(shot.text)), longest, tokenizer)
        add(again if number else [])
        add([*wordings.encode_plain(tokenizer, opening), *text, *wordings.encode_plain(tokenizer, closing)])
        for turn, (question, reply) in enumerate(shot.asked):
            add(again if turn else [])
            add([*wordings.encode_plain(tokenizer, question), *between])
            add(wordings.encode_plain(tokenizer, reply), mark=True)
            add(after)
    return ids, marks


def conversations(tokenizer, corpus: Corpus) -> Iterator[tuple[list[int], list[bool]]]:
    """Conversations without end: with one message or with several as in few-shot, some messages long."""
    for lesson in corpus.lessons():
        shots = corpus.rng.choices((1, 4, 8), (4, 3, 3))[0] if lesson.many else 1
        longest = 200 if shots == 1 and corpus.rng.random() < 0.15 else MESSAGE_TOKENS
        yield conversation(tokenizer, lesson, shots, longest)
