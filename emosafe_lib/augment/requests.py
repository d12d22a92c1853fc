"""Which parent gets which tactic and ending: decided before anything is sent, so that the bill is known first.

Only training rows are parents. The number of re-interpretations of a level is bounded by a share of that level, and the
choice depends on ids and seed alone, so a rerun makes the same requests and finds its answers in the journal.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from emosafe_lib.augment import tactics
from emosafe_lib.data import pseudonyms
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.rows import category_matrix, known_matrix, stable_unit
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

CHARACTERS_PER_TOKEN = 3  # English takes about four; erring on this side makes an estimate an upper bound


@dataclass(frozen=True)
class Request:
    """One question to a model; `level` is the target level, `text` the parent's message without identifiers."""

    key: str
    parent_id: str
    tactic: str
    ending: str
    level: str
    text: str

    @property
    def short_id(self) -> str:
        """The part of the key that the model has to repeat, so that a reply to another row is noticed."""
        return self.key[:12]

    @property
    def messages(self) -> list[dict]:
        """The chat messages."""
        user = tactics.user_prompt(self.short_id, self.tactic, self.ending, self.level, self.text)
        return [{"role": "system", "content": tactics.system_prompt()}, {"role": "user", "content": user}]

    @property
    def said(self) -> str:
        """All that the messages say."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def prompt_tokens(self) -> int:
        """An upper estimate of the prompt's tokens."""
        return len(self.said) // CHARACTERS_PER_TOKEN + 20


def parents_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that may be re-interpreted: training rows that are not re-interpretations themselves.

    Raises
    ------
    AugmentationError : a group of the training split has rows in another split too, so an augmented row would leak
    """
    train = rows["split"] == "train"
    shared = set(rows.loc[train, "group"]) & set(rows.loc[~train, "group"])
    if shared:
        remedy = "rerun notebook 01: a group must live in one split"
        raise AugmentationError(f"group {min(shared)}", "has rows in training and in another split", remedy)
    return rows[train & (rows["origin"] != "reinterpretation")]


def positive_categories(row) -> list[str]:
    """The categories that a row is known to touch."""
    marks = zip(CATEGORIES, row.categories, row.category_known, strict=True)
    return [name for name, touched, known in marks if touched and known]


def options(row) -> list[tuple[str, str, str]]:
    """All (tactic, ending, target level) that make sense for a parent.

    A safe message has nothing to be eased. Only an unsafe one has a half-way. An unsafe one without a known category
    gets no rumination: nobody could check what the danger is.
    """
    endings = {"safe": (), "borderline": ("resolved", "rumination"), "unsafe": ("resolved", "halfway", "rumination")}
    chosen = [tactics.ENDING[name] for name in endings[row.safety]]
    if row.safety == "unsafe" and not positive_categories(row):
        chosen = [ending for ending in chosen if ending.level]
    return [(tactic, ending.key, ending.level or row.safety) for ending in chosen for tactic in tactics.TACTIC]


class Shares:
    """Keeps every level and category below a share of its training rows: r <= share * (n + r)."""

    def __init__(self, rows: pd.DataFrame, share: float):
        train = rows[(rows["split"] == "train") & (rows["origin"] != "reinterpretation")]
        touched = (category_matrix(train) & known_matrix(train)).sum(axis=0)
        self.have = Counter(train["safety"]) + Counter(dict(zip(CATEGORIES, map(int, touched), strict=True)))
        self.share, self.made = share, Counter()

    def admit(self, level: str, categories: list[str]) -> bool:
        """Whether one more row leaves all its classes below the share; counts it if so."""
        classes = [level, *categories]
        fits = all(self.made[c] + 1 <= self.share * (self.have[c] + self.made[c] + 1) + 1e-9 for c in classes)
        if fits:
            self.made.update(classes)
        return fits


def shares_by_level(rows: pd.DataFrame, params: AugmentationParams) -> dict[str, int]:
    """How many re-interpretations of each level may be asked for: together at most `max_rows`."""
    counts = parents_of(rows)["safety"].value_counts()
    ratio = params.max_share / (1 - params.max_share) if params.max_share < 1 else float("inf")
    held = {level: int(counts.get(level, 0)) for level in SAFETY_LEVELS}
    wanted = {level: min(rows * ratio, params.max_rows) if rows else 0 for level, rows in held.items()}
    scale = min(1.0, params.max_rows / max(sum(wanted.values()), 1))
    return {level: int(number * scale + 1e-9) for level, number in wanted.items()}


def in_rounds(parents: pd.DataFrame, level: str, seed: int) -> Iterator[tuple]:
    """(row, tactic, ending) that aim at a level: first one for every parent, then a second for every parent, ..."""
    queues = []
    for row in sorted(parents.itertuples(index=False), key=lambda row: stable_unit(row.id, f"parent {seed} {level}")):
        mine = [(tactic, ending) for tactic, ending, target in options(row) if target == level]
        mine.sort(key=lambda pair: stable_unit("\x00".join((row.id, *pair)), f"option {seed}"))
        queues.append([(row, *pair) for pair in mine])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def chosen(parents: pd.DataFrame, wanted: dict[str, int], shares: Shares, seed: int) -> Iterator[tuple]:
    """(row, tactic, ending, level) within all shares.

    The level that lags furthest behind its quota goes first, or the first level would use up the categories' shares.
    """
    sources = {level: in_rounds(parents, level, seed) for level, quota in wanted.items() if quota}
    made = dict.fromkeys(sources, 0)
    while sources:
        level = min(sources, key=lambda name: made[name] / wanted[name])
        row, tactic, ending = next(sources[level], (None, "", ""))
        if row is None or made[level] == wanted[level]:
            del sources[level]
        elif shares.admit(level, positive_categories(row) if level != "safe" else []):
            made[level] += 1
            yield row, tactic, ending, level


def requests_for(rows: pd.DataFrame, params: AugmentationParams) -> list[Request]:
    """The requests of a study, in a stable order; none is among them that a share would reject in the end.

    Raises
    ------
    AugmentationError : see `parents_of`
    """
    base, shares = tactics.digest(tactics.settings(params)), Shares(rows, params.max_share)
    picked = chosen(parents_of(rows), shares_by_level(rows, params), shares, params.seed)
    return [request_of(base, row, tactic, ending, level) for row, tactic, ending, level in picked]


def request_of(base: str, row, tactic: str, ending: str, level: str) -> Request:
    """One request; its key covers the settings, the parent and its text, and what is asked."""
    text = pseudonyms.pseudonymise(row.text)
    return Request(tactics.digest(base, row.id, tactic, ending, level, text), row.id, tactic, ending, level, text)


def by_level(requests: list[Request]) -> dict[str, int]:
    """Requests per target level."""
    counts = Counter(request.level for request in requests)
    return {level: counts[level] for level in SAFETY_LEVELS}
