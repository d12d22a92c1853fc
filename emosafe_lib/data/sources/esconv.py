"""ESConv: emotional-support dialogues between crowd workers.

Nobody judged risk: a supporter's turn is safe, the seeker's opening account of the problem is borderline, both weakly.
Each line of the TSV files is a sliding window of up to five turns, of which only the last is new.
"""

import re

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_json, read_text

TURN = re.compile(r"^\s*\S+ (?P<speaker>[01]) (?P<turn>\d+) (?:\[[^\]]*\] ?)?(?P<text>.*)$", re.DOTALL)
MIN_WORDS = 4


def last_turns(text: str):
    """(dialogue number, turn number, text) of the supporter's turns; a dialogue ends where turn numbers fall back."""
    dialogue, previous = 0, -1
    for line in text.split("\n"):
        match = TURN.match(line.split(" EOS ")[-1])
        if match is None:
            continue
        turn = int(match["turn"])
        dialogue, previous = dialogue + (turn < previous), turn
        if match["speaker"] == "1" and len(match["text"].split()) >= MIN_WORDS:
            yield dialogue, turn, match["text"].strip()


def records(files):
    """Supporters' turns of the good dialogues, seekers' accounts of the others."""
    for part in ("dev", "test"):
        for dialogue, _, text in last_turns(read_text(files[f"{part}WithStrategy_short.tsv"])):
            yield Record("", text, "supporter", link=f"{part} {dialogue}")
    for number, item in enumerate(read_json(files["FailedESConv.json"])):
        yield Record("", item["situation"], "situation", link=f"failed {number}", emotion=item["emotion_type"])


SOURCES = [
    public(
        "esconv",
        records=records,
        register="first-person",
        mental_health=True,
        labels={"supporter": weak("safe", register="reply"), "situation": weak("borderline")},
    )
]
