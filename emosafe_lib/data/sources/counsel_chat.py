"""Counsel Chat: public questions and the answers of licensed therapists.

Topics are not risk labels, so everything is weak: a question about one's own distress is borderline, an answer to it is
safe. Other topics are left out by name; so is every topic that names children.
"""

from emosafe_lib.data.sources.base import Record, public, weak
from emosafe_lib.data.sources.raw_tables import read_table

DISTRESS = ("anger-management", "anxiety", "behavioral-change", "depression", "domestic-violence", "eating-disorders")
DISTRESS += ("grief-and-loss", "self-esteem", "sleep-improvement", "stress", "trauma")
SUBSTANCES = ("substance-abuse", "addiction")
LEFT_OUT = ("children-adolescents", "counseling-fundamentals", "diagnosis", "family-conflict", "human-sexuality")
LEFT_OUT += ("intimacy", "legal-regulatory", "lgbtq", "marriage", "military-issues", "parenting", "professional-ethics")
LEFT_OUT += ("relationship-dissolution", "relationships", "social-relationships", "spirituality")
LEFT_OUT += ("workplace-relationships",)


def records(files):
    """Each question once, and each answer; a question and its answers stay together."""
    asked = set()
    for row in read_table(files["20200325_counsel_chat.csv"]).to_dict("records"):
        if row["questionID"] not in asked:
            asked.add(row["questionID"])
            text = f"{row['questionTitle']} {row['questionText']}".strip()
            yield Record(f"q{row['questionID']}", text, f"question, {row['topic']}", link=row["questionID"])
        yield Record(f"a{row['']}", row["answerText"], f"answer, {row['topic']}", link=row["questionID"])


SOURCES = [
    public(
        "counsel_chat",
        records=records,
        register="first-person",
        mental_health=True,
        labels={
            "question, self-harm": weak("borderline", "suicide_self_harm"),
            "answer, self-harm": weak("safe", register="reply"),
            **{f"question, {topic}": weak("borderline", "regulated_substances") for topic in SUBSTANCES},
            **{f"question, {topic}": weak("borderline") for topic in DISTRESS},
            **{f"answer, {topic}": weak("safe", register="reply") for topic in DISTRESS + SUBSTANCES},
            **{f"{kind}, {topic}": None for kind in ("question", "answer") for topic in LEFT_OUT},
        },
    )
]
