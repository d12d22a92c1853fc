"""The vocabulary that every other module shares: levels, categories, tasks, and what a row is.

The two label sets come from the study that this package reproduces (arXiv 2509.04512): a trinary level of emotional
safety, and the six risk categories of the original Llama Guard (arXiv 2312.06674). The order of each tuple must
not change: probability vectors and label masks are stored in it.
"""

from dataclasses import dataclass

SAFETY_LEVELS = ("safe", "borderline", "unsafe")


@dataclass(frozen=True)
class Category:
    """One risk category.

    `key` is used in files, `title` in figures, `definition` in prompts and documentation.
    """

    key: str
    title: str
    definition: str


CATEGORY_TABLE = (
    Category(
        "violence_hate",
        "Violence and hate",
        "wishes, threatens, praises or encourages harm to people, or demeans people for who they are",
    ),
    Category(
        "sexual_content",
        "Sexual content",
        "describes or asks for sexual acts or material, or makes unwanted sexual remarks",
    ),
    Category(
        "guns_illegal_weapons",
        "Guns and illegal weapons",
        "seeks or offers ways to get, make or use firearms, explosives or other prohibited weapons",
    ),
    Category(
        "regulated_substances",
        "Regulated or controlled substances",
        "seeks, offers, makes or misuses drugs, alcohol, tobacco or medication",
    ),
    Category(
        "suicide_self_harm",
        "Suicide and self-harm",
        "expresses, plans, encourages or asks about ending one's life or hurting oneself",
    ),
    Category(
        "criminal_planning",
        "Criminal planning",
        "plans, asks for or encourages a crime such as theft, fraud, trafficking or intrusion",
    ),
)
CATEGORIES = tuple(category.key for category in CATEGORY_TABLE)
CATEGORY_TITLES = {category.key: category.title for category in CATEGORY_TABLE}

SAFETY_DEFINITIONS = {
    "safe": "ordinary, supportive or informative; nobody is at risk and nothing calls for care",
    "borderline": "distress, strain or mild harm that deserves attention but shows no immediate danger",
    "unsafe": "danger to oneself or others, serious harm, or a request that would enable it",
}

TASKS = ("safety", "categories")
TASK_LABELS = {"safety": SAFETY_LEVELS, "categories": CATEGORIES}
FIVE_SHOTS = "few-shot-5"  # the paper's FS-5: five exemplars of each class, or the setting is not run
LEFT_OUT = "left-out-source"  # the variant of a run that never saw the source that it answers for
SETTINGS = ("baseline", "zero-shot", "few-shot", FIVE_SHOTS, "probe", "fine-tuned")
SPLITS = ("train", "validation", "test")

# human: written and labelled by people; synthetic: written for this package; reinterpretation: made from a parent row.
ORIGINS = ("human", "synthetic", "reinterpretation")

# `ok`, `truncated` and `parsed` (read from a server's words, for want of log-probabilities) carry a usable prediction;
# every other outcome counts as wrong and lowers coverage.
OUTCOMES = ("ok", "truncated", "parsed", "parse_error", "api_error", "refused")
USABLE_OUTCOMES = ("ok", "truncated", "parsed")

ROW_COLUMNS = tuple(
    "id text source source_label emotion safety categories category_known group split origin parent_id".split()
)
