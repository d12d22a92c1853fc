"""AnnoMI: role-played counselling sessions, annotated utterance by utterance.

Nobody judged risk here, so every label is weak. A client who defends drinking, smoking or drug use is borderline and
touches substances; one who defends another habit is borderline without them; a good counsellor's words are safe.
Whether a counsellor's words in a session about substances touch them was not asked, nor whether words that name drinking,
smoking or drugs do so in a session about something else.
"""

import re

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.keywords import SUBSTANCES
from emosafe_lib.data.sources.raw_tables import read_table

TOPICS = (
    ("substances", re.compile("alcohol|drug use|smoking|influence of drugs|avoiding DOI")),  # driving after drinking
    ("self-harm", re.compile("self-harm")),
)
HABITS = re.compile(r"\b(drinks?|drinking|drank|drunk|smok(e|es|ed|er|ers|ing))\b", re.IGNORECASE)
MIN_WORDS = 4


def label(row) -> str:
    """Who speaks, and of a client what kind of talk on which topic."""
    topic = next((name for name, pattern in TOPICS if pattern.search(row.topic)), "other")
    if row.interlocutor == "therapist":
        return f"therapist, {row.mi_quality} quality, {topic}"
    return f"client, {row.client_talk_type}, {topic}"


def records(files):
    """Utterances of at least four words; a transcript stays together."""
    for row in read_table(files["AnnoMI-simple.csv"]).itertuples():
        if len(row.utterance_text.split()) >= MIN_WORDS:
            name, text = f"{row.transcript_id}-{row.utterance_id}", row.utterance_text
            named = HABITS.search(text) or SUBSTANCES.search(text)
            unsure = ("regulated_substances",) if named else ()
            yield Record(name, text, label(row), link=row.transcript_id, unsure=unsure)


LEFT_OUT = {
    f"client, {talk}, {topic}": None for talk in ("neutral", "change") for topic in ("substances", "self-harm", "other")
}
SOURCES = [
    public(
        "annomi",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "therapist, high quality, substances": weak("safe", register="reply"),
            "therapist, high quality, self-harm": weak("safe", register="reply"),
            "therapist, high quality, other": weak("safe", register="reply", known=("regulated_substances",)),
            **{f"therapist, low quality, {topic}": None for topic in ("substances", "self-harm", "other")},
            "client, sustain, substances": weak("borderline", "regulated_substances"),
            "client, sustain, self-harm": weak("borderline", "suicide_self_harm", known=("regulated_substances",)),
            "client, sustain, other": weak("borderline", known=("regulated_substances",)),
            **LEFT_OUT,
        },
    )
]
