"""C-SSRS Reddit: posts judged for suicide risk by psychiatrists, post by post and user by user.

A post's own label is direct. A user's label says little about each of that user's posts, so it is weak, and the merge
lets the direct one win where both exist. A supportive post answers somebody else, so it counts as a reply, not as a
first-person account. Labels are typed by hand (`supporitve`), and cells that were cut at a
spreadsheet's cell limit end in the middle of a list.
"""

import ast
import re
import zipfile

from emosafe_lib.data.sources.base import Record, direct, public, weak
from emosafe_lib.data.sources.raw_tables import read_member, read_table, read_workbook
from emosafe_lib.study.errors import SourceError

POSTS, USERS = "post_level_annotations_anonymized.zip", "500_Reddit_users_posts_labels.csv"
SPELLINGS = {
    "supporitve": "supportive",
    "suppr": "supportive",
    "indiccator": "indicator",
    "ideations": "ideation",
    "suicidal ideations": "ideation",
    "noninformative": "uninformative",
    "noninformtative": "uninformative",
    "uniformative": "uninformative",
}


def spelled(label: object) -> str:
    """The label in its regular spelling; an empty cell is `blank`."""
    plain = " ".join(str(label or "").lower().split())
    return SPELLINGS.get(plain, plain) or "blank"


def parse_posts(cell: str) -> list[str]:
    """The posts of a Python list literal; of one that was cut off, those before the cut."""
    for text in (
        cell,
        *(cell[: cut.start() + 1] + "]" for cut in reversed(list(re.finditer("""['"], ['"]""", cell))[-40:])),
    ):
        try:
            return [str(post) for post in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            continue
    return []


def workbooks(path):
    """The archive's workbooks as {sheet: rows}, in alphabetical order."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".xlsx"))
    except zipfile.BadZipFile as error:
        raise SourceError(f"cssrs_reddit/{path.name}", str(error), "fetch the archive again") from None
    return [read_workbook(read_member(path, name)) for name in names]


def post_records(path):
    """One record a post; a sheet is a user."""
    for book in workbooks(path):
        for user, rows in book.items():
            for row in rows[1:]:
                text, label = (*row, None, None, None)[1:3]
                if text is not None and str(text).strip():
                    yield Record("", str(text), f"post: {spelled(label)}", link=f"post {user}")


def user_records(path):
    """One record a post, under its user's label."""
    for row in read_table(path).itertuples():
        for post in parse_posts(row.Post):
            if post.strip():
                yield Record("", post, f"user: {spelled(row.Label)}", link=row.User)


def records(files):
    """Posts with their own label, then posts with their user's."""
    yield from post_records(files[POSTS])
    yield from user_records(files[USERS])


RISK = ("ideation", "behavior", "attempt")
SOURCES = [
    public(
        "cssrs_reddit",
        records=records,
        register="first-person",
        mental_health=True,
        known=("suicide_self_harm",),
        labels={
            "post: blank": None,
            "post: uninformative": direct("safe"),
            "post: supportive": direct("safe", register="reply"),
            "post: indicator": direct("borderline"),
            "user: supportive": weak("safe", known=(), register="reply"),
            "user: indicator": weak("borderline", known=()),
            **{f"post: {risk}": direct("unsafe", "suicide_self_harm") for risk in RISK},
            **{f"user: {risk}": None for risk in RISK},
        },
    )
]
