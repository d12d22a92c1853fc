"""From the rows of many sources to one dataset: nothing twice, nothing on both sides of a split, every step counted.

The order matters and is the order of this file: read, quarantine, scrub, normalise, join exact duplicates (and settle
their labels), group what belongs together, choose how many rows of each source to keep, split by a stable hash. Nothing
depends on the order of the input rows, on the folder or on the locale.
"""

import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib import balance, dedup, sources
from emosafe_lib.errors import MergeError, SourceError
from emosafe_lib.params import DataParams
from emosafe_lib.rows import category_matrix, known_matrix, stable_unit
from emosafe_lib.taxonomy import CATEGORIES, ROW_COLUMNS, SAFETY_LEVELS, SPLITS

# Scarce in human-labelled data: every human row of these stays, whatever the balance says. Of the two scarcest, the
# rows that deny them stay too (plain safe ones aside), or the source's name would predict them.
LOW_DATA = ("sexual_content", "guns_illegal_weapons", "regulated_substances", "criminal_planning")
SCARCEST = ("guns_illegal_weapons", "regulated_substances")
SMALL_TALK_WORDS = 8
SEVERITY = {level: rank for rank, level in enumerate(SAFETY_LEVELS)}


@dataclass
class Merged:
    """The merged rows (columns of `taxonomy.row_schema`, sorted by id) and their data card."""

    rows: pd.DataFrame = field(repr=False)  # texts must not reach a log through a message
    card: dict


# --- read -------------------------------------------------------------------------------------------------------------


def chosen_sources(data: DataParams) -> list[sources.Source]:
    """The sources that a study names, in alphabetical order.

    Raises
    ------
    MergeError : a name that is not registered, or a source that is not for training
    """
    known = sources.known_sources(data)
    unknown = sorted(set(data.sources) - set(known))
    if unknown:
        raise MergeError(f"sources {', '.join(unknown)}", "not registered", f"use of {', '.join(known)}")
    chosen = [known[name] for name in sorted(set(data.sources))]
    refused = [f"{source.name} (role {source.role})" for source in chosen if source.role != "train"]
    if refused:
        raise MergeError(f"sources {', '.join(refused)}", "not for training", "remove them from data.sources")
    return chosen


def read_sources(data: DataParams, folder: Path | None = None) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """All rows of a study's sources, and what each reader left out by name.

    Raises
    ------
    SourceError : files that are missing, all of them named at once, before anything is read
    """
    chosen = chosen_sources(data)
    absent = sources.missing(chosen, folder)
    if absent:
        remedy = "run `make data STUDY=...`, or set EMOSAFE_DATA_DIR to a folder that holds them"
        raise SourceError("data", f"{len(absent)} files missing: {', '.join(absent)}", remedy)
    tables = {source.name: sources.read(source, folder) for source in chosen}
    left_out = {name: table.attrs.pop("left_out") for name, table in tables.items()}
    return pd.concat(tables.values(), ignore_index=True), {name: found for name, found in left_out.items() if found}


# --- quarantine -------------------------------------------------------------------------------------------------------

BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATE = re.compile("[\ud800-\udfff]")
MINORS = re.compile(
    r"\b(child(ren)?|kids?|minors?|under-?age[d]?|pre-?teens?|teen(s|ager|agers|aged?)?|toddlers?|infants?"
    r"|school-?(girl|boy)s?|(little|young) (girl|boy)s?|(girl|boy) ?scouts?|high ?school(ers?)?|middle ?school(ers?)?"
    r"|([1-9]|1[0-7]) ?-?(years?|yrs?)?[- ]?(old|yo|y/o)|when i was (a )?(young|little|kid|child|[1-9]|1[0-7]))\b",
    re.IGNORECASE,
)
SEXUAL = re.compile(
    r"\b(sex|sexy|sexual(ly|ity|ized)?|sexting|porn\w*|nudes?|naked|rap(e[ds]?|ing|ist)|molest\w*|masturbat\w*"
    r"|erotic\w*|incest\w*|groom(ed|ing|er)|genitals?|orgasms?|horny|virginity|intercourse|prostitut\w*|strip(per|tease))\b",
    re.IGNORECASE,
)
ALWAYS = re.compile(r"\b(p(a?)edo(s|phil\w*)?|jailbait|loli(con)?|csam|child porn\w*|kiddie porn\w*)\b", re.IGNORECASE)
NEARBY = 300  # characters between a word of one list and a word of the other


def minors_in_sexual_context(text: str) -> bool:
    """Whether a word for a minor stands within `NEARBY` characters of a sexual word.

    A blunt guard on purpose: it loses some harmless rows, and such rows have no place in a training set.
    """
    if ALWAYS.search(text):
        return True
    young = [match.start() for match in MINORS.finditer(text)]
    return bool(young) and any(abs(match.start() - at) <= NEARBY for match in SEXUAL.finditer(text) for at in young)


def quarantine_reason(text: str, max_characters: int) -> str:
    """Why a text must not enter the dataset; "" where it may."""
    if "\x00" in text:
        return "NUL character"
    if SURROGATE.search(text):
        return "lone surrogate"
    if BIDI.search(text):
        return "bidirectional control"
    if len(text) > max_characters:
        return "run together (too long)"
    if not comparison_key(text):
        return "empty"
    return "minors in a sexual context" if minors_in_sexual_context(text) else ""


def quarantine(rows: pd.DataFrame, max_characters: int = 10_000) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows that may stay, and how many were set aside for which reason."""
    reasons = rows["text"].map(lambda text: quarantine_reason(text, max_characters))
    counts = reasons[reasons != ""].value_counts()
    return rows[reasons == ""].reset_index(drop=True), {str(k): int(v) for k, v in sorted(counts.items())}


# --- scrub and normalise ----------------------------------------------------------------------------------------------

EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b")
URL = re.compile(r"\b(?:https?://|www\.)\S+|\b(?:[\w-]+\.)+(?:com|org|net|co|io|me|tv|gg|be|ly|uk)/\S+", re.IGNORECASE)
HANDLE = re.compile(r"(?<![\w@./])@\w{2,}")
REDDITOR = re.compile(r"(?<![\w/])/?u/[\w-]{3,}", re.IGNORECASE)
PHONE = re.compile(r"(?<![\w.,$])\+?\(?\d[\d\s().-]{7,18}\d(?!\w)")
HOTLINE = re.compile(r"^\+?1?[\s.(-]*(800|888|877|866|855|844|833)|^0800|^116\D?\d{3}")


def phone_mask(match: re.Match) -> str:
    """[PHONE] for nine to fifteen digits that are not a toll-free helpline; anything else stays."""
    found = match.group()
    digits = sum(character.isdigit() for character in found)
    return "[PHONE]" if 9 <= digits <= 15 and not HOTLINE.match(found) else found


def scrub(text: str) -> str:
    """The text with e-mail addresses, web addresses, user names and phone numbers masked; helplines stay."""
    if "@" in text:
        text = HANDLE.sub("@[USER]", EMAIL.sub("[EMAIL]", text))
    if "/" in text or "www." in text.lower():
        text = REDDITOR.sub("u/[USER]", URL.sub("[URL]", text))
    return PHONE.sub(phone_mask, text)


def display_text(text: str) -> str:
    """What models read: Unicode NFC, one space between words, no control characters; emoji and case kept."""
    plain = unicodedata.normalize("NFC", text).translate(CONTROLS)
    return " ".join(plain.split())


CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ") | {0xFEFF: None, 0x200B: None, 0xAD: None}


@cache
def key_table() -> dict[int, str | None]:
    """What the comparison key does to single characters: punctuation to a space, apostrophes and invisible ones gone."""
    table: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        if kind[0] == "P" or kind == "Cc":
            table[code] = " "
        elif kind == "Cf" or 0xFE00 <= code <= 0xFE0F:
            table[code] = None
    return table | dict.fromkeys(map(ord, "'’‘`´"), None)


def comparison_key(text: str) -> str:
    """What decides whether two texts are the same: case, Unicode form, punctuation and invisible characters do not."""
    folded = unicodedata.normalize("NFKC", text.casefold()) if not text.isascii() else text.lower()
    return " ".join(folded.translate(key_table()).split())


def normalise(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Scrub and tidy the text, add the column `key`; also how many texts held an identifier."""
    tidy = rows["text"].map(display_text)  # first, since an invisible character can hide an address
    scrubbed = tidy.map(scrub)
    return rows.assign(text=scrubbed, key=scrubbed.map(comparison_key)), int((scrubbed != tidy).sum())


# --- exact duplicates and their labels --------------------------------------------------------------------------------


def settle(safety: list[str], quality: list[str]) -> str:
    """One level for one text: the majority of the direct labels (of the weak ones where none is direct), else the more
    severe.
    """
    votes = [level for level, mark in zip(safety, quality, strict=True) if mark == "direct"] or safety
    counts = Counter(votes)
    return max(counts, key=lambda level: (counts[level], SEVERITY[level]))


def settle_category(group: list[dict], category: int) -> bool:
    """Whether one text touches a category: the majority of the direct rows that were asked (of the weak ones where none
    is direct); an even vote counts as touched.
    """
    asked = [row for row in group if row["category_known"][category]]
    asked = [row for row in asked if row["quality"] == "direct"] or asked
    touched = sum(row["categories"][category] for row in asked)
    return bool(asked) and 2 * touched >= len(asked)


def disputed(group: list[dict]) -> bool:
    """Whether two rows of one text were asked about the same category and disagree."""
    cells = ({row["categories"][c] for row in group if row["category_known"][c]} for c in range(len(CATEGORIES)))
    return any(len(answers) > 1 for answers in cells)


def credited(group: list[dict]) -> dict:
    """The row that stands for its duplicates: chosen by a hash of text and source, never by label, so that the credit
    cannot carry the label.
    """
    return min(group, key=lambda row: (stable_unit(f"{row['key']}\x00{row['source']}", "credit"), row["id"]))


def join_group(group: list[dict]) -> dict:
    """One row for all rows with the same key; it carries the links of all of them."""
    kept = credited(group)
    names = sorted({f"{row['source']}={row['source_label']}" for row in group})
    return kept | {
        "safety": settle([row["safety"] for row in group], [row["quality"] for row in group]),
        "quality": "direct" if any(row["quality"] == "direct" for row in group) else "weak",
        "categories": tuple(settle_category(group, c) for c in range(len(CATEGORIES))),
        "category_known": tuple(map(any, zip(*(row["category_known"] for row in group), strict=True))),
        "source_label": " | ".join(names) if len(names) > 1 else kept["source_label"],
        "link": tuple(sorted({link for row in group for link in row["link"]})),
    }


def shared_by(groups: list[list[dict]]) -> dict[str, int]:
    """How many texts each two sources have in common."""
    counts: Counter = Counter()
    for group in groups:
        counts.update(f"{a} + {b}" for a, b in combinations(sorted({row["source"] for row in group}), 2))
    return dict(sorted(counts.items()))


def join_duplicates(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """One row a key; counts of rows removed, of texts with a level or a category in conflict, and of duplicates between
    sources.
    """
    links = np.empty(len(rows), dtype=object)
    links[:] = [(link,) if link else () for link in rows["link"]]
    rows = rows.assign(link=links)
    several = rows["key"].duplicated(keep=False)
    by_key: dict[str, list[dict]] = {}
    for row in rows[several].to_dict("records"):
        by_key.setdefault(row["key"], []).append(row)
    groups = list(by_key.values())
    joined = pd.DataFrame([join_group(group) for group in groups], columns=rows.columns, dtype=object)
    single = rows[~several]
    counts = {
        "exact_duplicates": len(rows) - len(single) - len(joined),
        "conflicts": sum(len({row["safety"] for row in group}) > 1 for group in groups),
        "category_conflicts": sum(map(disputed, groups)),
        "duplicates_between": shared_by(groups),
    }
    return pd.concat([single, joined], ignore_index=True).sort_values("id", ignore_index=True), counts


# --- groups -----------------------------------------------------------------------------------------------------------


def small_talk(rows: pd.DataFrame, near: np.ndarray) -> np.ndarray:
    """Short utterances that several dialogues or users share, shape (n,).

    Thanks and greetings tie no dialogues together, or chains of them would join most dialogues into one group.

    `near` are the pairs of near-duplicates, shape (m, 2). A template's cases are never small talk.
    """
    links = rows["link"].to_numpy()
    shared = np.array([len(own) > 1 for own in links], dtype=bool)
    for one, other in near:
        if links[one] != links[other]:
            shared[[one, other]] = True
    short = (rows["key"].str.count(" ") + 1 < SMALL_TALK_WORDS).to_numpy(dtype=bool)
    return shared & short & (rows["register"] != "template").to_numpy()


def assign_groups(rows: pd.DataFrame, jaccard: float) -> tuple[pd.DataFrame, dict]:
    """Add the column `group`: near-duplicates, and all rows that share a link, belong together.

    A group is named by the smallest id in it. `rows` are sorted by id.
    """
    near = dedup.near_duplicate_pairs(rows["key"].tolist(), jaccard)
    loose = small_talk(rows, near)
    linked = dedup.chain_edges((i, link) for i, links in enumerate(rows["link"]) if not loose[i] for link in links)
    part = dedup.components(len(rows), near, linked)
    first = pd.Series(rows["id"].to_numpy()).groupby(part).transform("min")
    return rows.assign(group=first.to_numpy()), {"near_duplicate_pairs": len(near), "small_talk": int(loose.sum())}


# --- caps and balance -------------------------------------------------------------------------------------------------


def columns_of(names: tuple[str, ...]) -> list[int]:
    """The positions of categories in a label vector."""
    return [CATEGORIES.index(name) for name in names]


def scarce(rows: pd.DataFrame) -> np.ndarray:
    """The rows that stay whatever the balance says, shape (n,): scarce ones, and those written for this package."""
    positive = category_matrix(rows)[:, columns_of(LOW_DATA)].any(axis=1)
    denied = known_matrix(rows)[:, columns_of(SCARCEST)].any(axis=1) & (rows["safety"] != "safe").to_numpy()
    return positive | denied | (rows["origin"] == "synthetic").to_numpy()


def choose_rows(rows: pd.DataFrame, data: DataParams) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows to keep, and the table of cells with what was available and kept; see `balance`.

    Within a cell, rows of the low-data categories come first, then a stable pseudo-random order.
    """
    work = rows.assign(
        must=scarce(rows),
        disclosure=rows["mental_health"].to_numpy(dtype=bool) & (rows["register"] == "first-person").to_numpy(),
        order=rows["id"].map(lambda value: stable_unit(value, "keep")),
    )
    table = balance.quotas(balance.cells(work), data)
    work = work.merge(table[[*balance.CELL, "keep"]], on=balance.CELL).sort_values(
        ["must", "order"], ascending=[False, True]
    )
    rank = work.groupby(balance.CELL, observed=True).cumcount()
    kept = work[rank < work["keep"]].sort_values("id", ignore_index=True)
    return kept.drop(columns=["must", "order", "keep"]), table


# --- split ------------------------------------------------------------------------------------------------------------


def split_of(group: str, shares: dict[str, float], salt: str) -> str:
    """The split of a group: a function of its name alone, so that more data or another order moves nothing."""
    point, edge = stable_unit(group, salt), 0.0
    for split in SPLITS:
        edge += shares[split]
        if point < edge:
            return split
    return SPLITS[-1]


def assign_splits(rows: pd.DataFrame, data: DataParams) -> pd.DataFrame:
    """Add the column `split`."""
    return rows.assign(split=rows["group"].map(lambda group: split_of(group, data.split_shares, data.salt)))


def refuse_empty_splits(rows: pd.DataFrame, data: DataParams) -> None:
    """Every split is trained on, calibrated on or scored, so none of them may be empty.

    Raises
    ------
    MergeError : splits without a row, all of them named at once
    """
    empty = [split for split in SPLITS if not (rows["split"] == split).any()]
    if empty:
        where, what = f"split {', '.join(empty)}", f"no row of {rows['group'].nunique()} groups falls into it"
        shareless = any(data.split_shares[split] == 0 for split in empty)
        remedy = "give it a share above 0 in" if shareless else "add rows or sources, or raise its share in"
        raise MergeError(where, what, f"{remedy} data.split_shares")


def split_warnings(rows: pd.DataFrame) -> list[str]:
    """Every level or category that a split lacks, by name, with what to do about it."""
    labels = {level: (rows["safety"] == level).to_numpy() for level in SAFETY_LEVELS}
    labels |= dict(zip(CATEGORIES, category_matrix(rows).T, strict=True))
    found = []
    for name, mask in labels.items():
        absent = [split for split in SPLITS if not (mask & (rows["split"] == split).to_numpy()).any()]
        if absent:
            found.append(
                f"{name}: {int(mask.sum())} rows, none in {', '.join(absent)}; add rows or another source of it"
            )
    return found


# --- card -------------------------------------------------------------------------------------------------------------


def rows_sha256(rows: pd.DataFrame) -> str:
    """A hash of the rows' content that does not depend on their order."""
    digest = hashlib.sha256()
    ordered = rows.sort_values("id")
    for values in ordered[list(ROW_COLUMNS)].itertuples(index=False, name=None):
        plain = [list(map(bool, v)) if isinstance(v, (tuple, list, np.ndarray)) else v for v in values]
        digest.update(json.dumps(plain, ensure_ascii=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def counts_by_split(rows: pd.DataFrame) -> tuple[dict, dict]:
    """{split: {level: n}} and {split: {category: n}}, zeros included."""
    safety, categories = {}, {}
    for split in SPLITS:
        part = rows[rows["split"] == split]
        safety[split] = {level: int((part["safety"] == level).sum()) for level in SAFETY_LEVELS}
        categories[split] = dict(zip(CATEGORIES, map(int, category_matrix(part).sum(axis=0)), strict=True))
    return safety, categories


def source_facts(rows: pd.DataFrame, chosen: list[sources.Source]) -> dict[str, dict]:
    """What the card says of each source."""
    facts = {}
    for source in chosen:
        part = rows[rows["source"] == source.name]
        facts[source.name] = {
            "rows": len(part),
            "licence": source.licence,
            "quality": {mark: int((part["quality"] == mark).sum()) for mark in ("direct", "weak")},
            "citation": source.citation,
            "commit": source.commit,
            "mental_health": source.mental_health,
            "safety": {level: int((part["safety"] == level).sum()) for level in SAFETY_LEVELS},
            "known": [n for n, any_known in zip(CATEGORIES, known_matrix(part).any(axis=0), strict=True) if any_known],
        }
    return facts


def disclosures(rows: pd.DataFrame) -> np.ndarray:
    """Which rows are first-person text out of a mental-health source, shape (n,)."""
    return (rows["mental_health"].astype(bool) & (rows["register"] == "first-person")).to_numpy()


def largest_class_share(rows: pd.DataFrame) -> float:
    """The largest share of any level that comes from one source."""
    table = pd.crosstab(rows["source"], rows["safety"])
    return float((table / table.sum()).to_numpy().max()) if len(table) else 0.0


def data_card(rows: pd.DataFrame, chosen: list[sources.Source], steps: dict) -> dict:
    """The data card: the keys that `design.md` promises, and every step's counts."""
    safety, categories = counts_by_split(rows)
    origins = Counter(rows["origin"])
    told = disclosures(rows)
    registers = pd.crosstab(rows["register"], rows["safety"])
    return {
        "rows": len(rows),
        "rows_human": origins["human"],
        "rows_synthetic": origins["synthetic"],
        "rows_reinterpreted": origins["reinterpretation"],
        "rows_in": steps["rows_in"],
        "left_out_by_name": steps["left_out"],
        "sources": source_facts(rows, chosen),
        "safety": safety,
        "categories": categories,
        "known": dict(zip(CATEGORIES, map(int, known_matrix(rows).sum(axis=0)), strict=True)),
        "quarantined": sum(steps["quarantined"].values()),
        "quarantined_by_reason": steps["quarantined"],
        "identifiers_scrubbed": steps["scrubbed"],
        "exact_duplicates": steps["exact_duplicates"],
        "duplicates_between": steps["duplicates_between"],
        "conflicts": steps["conflicts"],
        "category_conflicts": steps["category_conflicts"],
        "near_duplicate_pairs": steps["near_duplicate_pairs"],
        "small_talk": steps["small_talk"],
        "groups": int(rows["group"].nunique()),
        "largest_group": int(rows["group"].value_counts().max()) if len(rows) else 0,
        "balanced_away": steps["balanced_away"],
        "mental_health_share": float(told.mean()) if len(rows) else 0.0,
        "mental_health_sources": sorted(set(rows.loc[told, "source"])),
        "largest_class_share": largest_class_share(rows),
        "registers": {name: {k: int(v) for k, v in counts.items()} for name, counts in registers.iterrows()},
        "warnings": split_warnings(rows),
        "sha256": rows_sha256(rows),
    }


# --- sets that are only scored ----------------------------------------------------------------------------------------


def external_rows(data: DataParams, prepared: "Prepared") -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """The study's own evaluation-only files, cleaned as the merge cleans, all of them test rows.

    A text that the study has read from any of its sources, or a near-duplicate of one, would flatter the score; it goes.

    Returns
    -------
    rows (columns of `taxonomy.row_schema`), and by source how many were `read`, how many of them are
    `distinct`, how many of those were `seen` before, and how many were `kept`
    """
    known = sources.known_sources(data)
    chosen = [known[mine.name] for mine in data.own_sources if mine.role == "external"]
    tables, facts = [], {}
    for source in sorted(chosen, key=lambda source: source.name):
        raw = sources.read(source)
        unique = join_duplicates(normalise(quarantine(raw, data.max_characters)[0])[0])[0]
        seen = already_read(unique["key"], prepared.rows["key"], data.near_duplicate_jaccard)
        kept = unique[~seen]
        tables.append(kept.assign(group=kept["id"], split="test", parent_id=None)[list(ROW_COLUMNS)])
        facts[source.name] = {"read": len(raw), "distinct": len(unique), "seen": int(seen.sum()), "kept": len(kept)}
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(ROW_COLUMNS)), facts


def already_read(keys: pd.Series, read: pd.Series, jaccard: float) -> np.ndarray:
    """Which of some keys are exact or near duplicates of keys that were read, shape (n,)."""
    pairs = dedup.near_duplicate_pairs([*keys, *read], jaccard)
    across = pairs[(pairs.min(axis=1) < len(keys)) & (pairs.max(axis=1) >= len(keys))]
    found = keys.isin(set(read)).to_numpy(copy=True)
    found[across.min(axis=1)] = True
    return found


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass
class Prepared:
    """Rows that are clean, unique and grouped, before any choice among them, and the counts of the steps so far."""

    rows: pd.DataFrame = field(repr=False)
    steps: dict


def merge(data: DataParams, folder: Path | None = None) -> Merged:
    """Read a study's sources and merge them.

    Raises
    ------
    SourceError : a source is missing, changed or malformed
    MergeError : a source is not for training, ids repeat, the study's bounds contradict each other, or a split is empty
    """
    raw, left_out = read_sources(data, folder)
    return complete(prepare(raw, data, left_out), data)


def merge_rows(raw: pd.DataFrame, data: DataParams) -> Merged:
    """`merge` from the moment that the rows are read; `raw` has the columns `sources.RAW_COLUMNS`, in any order.

    The table may be too small for every split to get a row.
    """
    return choose_and_split(prepare(raw, data), data)


def prepare(raw: pd.DataFrame, data: DataParams, left_out: dict | None = None) -> Prepared:
    """Quarantine, scrub, normalise, join duplicates and group."""
    twice = raw["id"][raw["id"].duplicated()]
    if len(twice):
        raise MergeError(f"id {twice.iloc[0]}", "appears twice", "ids must be unique; check the source's reader")
    rows, quarantined = quarantine(raw, data.max_characters)
    rows, scrubbed = normalise(rows)
    rows, duplicates = join_duplicates(rows)
    rows, grouping = assign_groups(rows, data.near_duplicate_jaccard)
    steps = {"rows_in": len(raw), "left_out": left_out or {}, "quarantined": quarantined, "scrubbed": scrubbed}
    return Prepared(rows, steps | duplicates | grouping)


def complete(prepared: Prepared, data: DataParams) -> Merged:
    """Choose among prepared rows, split them, and write the card.

    Raises
    ------
    MergeError : a source is not for training, the study's bounds contradict each other, or a split is empty
    """
    merged = choose_and_split(prepared, data)
    refuse_empty_splits(merged.rows, data)
    return merged


def choose_and_split(prepared: Prepared, data: DataParams) -> Merged:
    """`complete` for a table of any size."""
    chosen = chosen_sources(data)
    mental_health = {source.name: source.mental_health for source in chosen}
    rows = prepared.rows.assign(mental_health=prepared.rows["source"].map(mental_health))
    kept = assign_splits(choose_rows(rows, data)[0], data).assign(parent_id=None)
    steps = prepared.steps | {"balanced_away": len(rows) - len(kept)}
    return Merged(kept[list(ROW_COLUMNS)], data_card(kept, chosen, steps))


def naive(data: DataParams) -> DataParams:
    """The same study without caps and balance: what pouring all sources together gives."""
    free = {"caps": {}, "max_class_share": 1.0, "balance_sources": False, "min_source_rows": 0}
    return data.model_copy(update=free)
