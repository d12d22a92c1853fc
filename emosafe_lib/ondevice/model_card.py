"""A model's card: what it was trained on, what it is worth, where it fails, and what it is not.

An export travels without its study, and whoever gets one must be able to judge it. Its card is written when it is
exported (`card_facts`) and told by `emosafe classify --card`, with nothing heavy imported. Like all of an export it
may come from a stranger: strict JSON whose texts can be printed, and of the very weights that lie beside it. What a card
does not hold, it says. It holds no message.
"""

from pathlib import Path

from emosafe_lib.evaluation import operating
from emosafe_lib.evaluation.intervals import with_interval
from emosafe_lib.models.seals import read_object
from emosafe_lib.ondevice.exports import MOST_ROWS, REMEDY, is_name, is_number, is_size, read_checked
from emosafe_lib.study.errors import ModelError

CARD = "model_card.json"
WARNING = (
    "This is a research classifier, not a clinical tool: it misses people in danger and alarms about people who are "
    "not. Never decide about a person by its output."
)
LIMITS = (
    "It reads one message, and nothing of who wrote it, what was said before, or when.",
    "Scores are those of the sources below; on messages from elsewhere expect less.",
    "Its thresholds were fitted on few rows, which may have ended training as well; see what they gave on test rows.",
    WARNING,
)
# What a card measures, with what is said where it does not.
PARTS = {
    "scores": ("Scores on test rows", "No test rows were scored."),
    "harmless": ("False alarms on harmless requests, test rows", "Such requests are not in its study."),
    "failures": ("Known failures, test rows", "None were looked for."),
}
AT = "at"  # the part that holds what `--at` gives on test rows
WISHES = [("recall", rate) for rate in (0.8, 0.85, 0.9, 0.95)] + [("false-alarms", rate) for rate in (0.05, 0.1, 0.2)]
SOURCE = ("name", "title", "origin", "licence", "restricted")
FORMAT = 1


def name_of(aim: str, wanted: float) -> str:
    """A wish as `--at` takes it."""
    return f"{aim}={wanted:g}"


def read_card(folder: Path, weights: dict[str, str]) -> dict:
    """The card of an export, checked.

    Parameters
    ----------
    weights : by task, the SHA-256 of model.safetensors in its seal

    Raises
    ------
    ModelError : there is none, it is damaged, or it speaks of other weights
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(folder, "holds no card", "export it again with notebook 04, which writes one")
    card = read_object(path, REMEDY)
    for name, holds in rules(card).items():
        if not holds:
            raise ModelError(path, f"has no {name} that can be used", REMEDY)
    if card["weights"] != weights:
        raise ModelError(path, "is the card of another model", REMEDY)
    return card


def rules(card: dict) -> dict[str, bool]:
    """What a card must hold, by name: whether it does."""
    facts, sources, numbers = (card.get(name) for name in ("facts", "sources", "numbers"))
    return {
        "format": card.get("format") == FORMAT,
        "weights": isinstance(card.get("weights"), dict),
        "facts": isinstance(facts, list) and all(map(is_fact, facts)),
        "sources": isinstance(sources, list) and all(map(is_source, sources)),
        "numbers": isinstance(numbers, list) and all(map(is_measured, numbers)),
    }


def is_fact(entry: object) -> bool:
    """Whether a value is a pair of short texts."""
    return isinstance(entry, list) and len(entry) == 2 and all(map(is_name, entry))


def is_source(entry: object) -> bool:
    """Whether a value says of a source what it is called, where it comes from and how many rows it gave."""
    if not (isinstance(entry, dict) and set(entry) == {*SOURCE, "rows"} and is_size(entry["rows"], 0, MOST_ROWS)):
        return False
    return all(is_name(entry[name] or "-") for name in SOURCE)


def is_measured(entry: object) -> bool:
    """Whether a value is a number with its interval, what it is, and of how many rows; undefined ones are null."""
    if not (isinstance(entry, dict) and set(entry) == {"part", "name", "value", "low", "high", "rows"}):
        return False
    values = (entry[name] for name in ("value", "low", "high"))
    named = entry["part"] in (*PARTS, AT) if is_name(entry["part"]) else False
    counted = is_name(entry["name"]) and is_size(entry["rows"], 0, MOST_ROWS)
    return named and counted and all(value is None or is_number(value, -1, 1) for value in values)


def render(folder: Path, tasks: tuple[str, ...]) -> str:
    """The card of an export as Markdown that can be read on a terminal.

    Raises
    ------
    ModelError : no export or no card, or one that is damaged
    """
    seals = {task: read_checked(folder / task) for task in tasks}
    card = read_card(folder, {task: facts["files"].get("model.safetensors") for task, facts in seals.items()})
    told = [["# Model card", *(f"- {name}: {text}" for name, text in card["facts"])]]
    told.append(["## What it was trained on", *sources_told(card["sources"])])
    for part, (title, missing) in PARTS.items():
        found = [
            [entry["name"], shown(entry), f"{entry['rows']:,} rows"]
            for entry in card["numbers"]
            if entry["part"] == part
        ]
        told.append([f"## {title}", *(aligned(found) or [missing])])
    told.append(["## Where an alarm can begin (`--at`)", *points_told(seals["safety"]["alarms"], card["numbers"])])
    told.append(["## What it is not", *(f"- {line}" for line in LIMITS)])
    return "\n\n".join("\n".join(lines) for lines in told)


def sources_told(sources: list[dict]) -> list[str]:
    """A line a source: its name and what its makers call it, rows, origin, its licence and how that restricts use."""
    if not sources:
        return ["Its sources are not recorded."]
    lines = []
    for source in sources:
        title = f" ({source['title']})" if source["title"] else ""
        licence = source["licence"] or "licence not stated"
        restricted = f" ({source['restricted']})" if source["restricted"] else ""
        lines.append([source["name"] + title, f"{source['rows']:,} rows", source["origin"], licence + restricted])
    return aligned(lines)


def shown(entry: dict) -> str:
    """A measured number with its interval."""
    return with_interval(entry["value"], entry["low"], entry["high"])


def points_told(curve: dict, numbers: list[dict]) -> list[str]:
    """What `--at` gives for usual wishes: on validation rows, on which it was fitted, and on test rows."""
    on_test = {entry["name"]: shown(entry) for entry in numbers if entry["part"] == AT}
    rows = [
        ["--at", "P(unsafe)", "recall, validation", "false alarms, validation", "recall, test", "false alarms, test"]
    ]
    for aim, wanted in WISHES:
        wish = name_of(aim, wanted)
        try:
            point = operating.pick(curve, aim, wanted, "")
        except ModelError as error:
            rows.append([wish, "none", error.what])
            continue
        tested = [on_test.get(f"{wish}, {rate}", "not scored") for rate in operating.AIMS]
        rows.append([wish, f"{point.threshold:.4f}", *operating.rates(curve, point), *tested])
    return aligned(rows)


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table with its columns under each other; a short row's last cell takes what room it needs."""
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row) - len(widths))
        full = row if len(row) == max(map(len, rows)) else row[:-1]
        widths[: len(full)] = [max(pair) for pair in zip(widths, map(len, full), strict=False)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
