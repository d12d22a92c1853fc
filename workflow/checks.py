"""Whether an executed notebook really ran: no hidden failures, every cell once and in order, outputs of bearable size."""

import os
import re
from pathlib import PurePath

from emosafe_lib.study.errors import SURROUNDINGS, EmosafeError, StageError

MAX_CELL_TEXT, MAX_CELL_CHARACTERS = 200_000, 8_000_000  # of one cell: its text, and all of it with its figures
MARKED_UP = ("text/html", "text/markdown", "text/latex")
TEXT_KINDS = ("text/plain", *MARKED_UP)
HIDING_TAGS = {"raises-exception", "skip-execution", "skip"}
SHELL_ESCAPE = re.compile(r"^\s*([\w, ]+=\s*)?(!|%%?(!|(bash|sh|script|system|sx|cmd)\b))", re.MULTILINE)

MASKED = "(not kept: it may hold a message)"
SAID = re.compile(
    r"^((?:\x1b\[[\d;]*m)*[A-Za-z_][\w.]*(?:\x1b\[[\d;]*m)*): .*", re.DOTALL
)  # an entry such as "KeyError: …"
REFUSED = re.compile(r"\[Errno (?P<number>\d+)\] [^:]*(: '(?P<file>[^']*)')?")  # how OSError shows itself


def check_source(notebook: dict, where: object) -> None:
    """Refuse a notebook in which a failure could hide: tags that allow errors or skip cells, shell escapes.

    Raises
    ------
    StageError : names the cell and the construct
    """
    for number, cell in enumerate(notebook["cells"]):
        hiding = HIDING_TAGS & set(cell["metadata"].get("tags", []))
        if hiding:
            raise StageError(where, f"cell {number} has the tag {hiding.pop()!r}", "a failing cell must fail the stage")
        if cell["cell_type"] == "code" and SHELL_ESCAPE.search("".join(cell["source"])):
            raise StageError(where, f"cell {number} escapes to a shell", "its exit status is lost: use Python")


def check_executed(notebook: dict, where: object) -> None:
    """Refuse a notebook that did not run from its first to its last code cell without an error.

    Raises
    ------
    StageError : names the first cell that failed or never ran
    """
    counts = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                raise StageError(
                    where, f"cell {number} failed: {failure_in_words(output)}", "fix the cause and run again"
                )
        if cell.get("execution_count") is None:
            raise StageError(where, f"cell {number} never ran", "the kernel died or was stopped: run again")
        counts.append(cell["execution_count"])
    if counts != sorted(set(counts)) or not counts:
        raise StageError(where, "its cells did not run once each, in order", "run again from a fresh kernel")


def failure_in_words(output: dict) -> str:
    """An error's class, with its message only where the class promises that no text of a row is in it, or where the
    operating system wrote it: about a full disk, a file that may not be written.
    """
    name, message = output.get("ename", "error"), output.get("evalue", "")
    refused = REFUSED.match(message)
    if refused and int(refused["number"]) in SURROUNDINGS:
        file = f" ({PurePath(refused['file']).name})" if refused["file"] else ""
        return f"{name}: {os.strerror(int(refused['number']))}{file}"
    return f"{name}: {message}" if name in names_of(EmosafeError) else name


def names_of(error: type[Exception]) -> set[str]:
    """The names of an error's class and of all that are made from it."""
    return {error.__name__}.union(*(names_of(kind) for kind in error.__subclasses__()))


def mask_foreign(notebook: dict) -> None:
    """Take from a failed notebook what errors of other packages say, since a row's text may be in it. Their classes stay,
    and the frames, those of the errors behind them too.
    """
    for output in (each for cell in notebook["cells"] for each in cell.get("outputs", [])):
        if output["output_type"] == "error" and failure_in_words(output) == output["ename"]:
            output["evalue"] = MASKED
            output["traceback"] = [SAID.sub(rf"\1: {MASKED}", entry) for entry in output["traceback"]]


def cap_outputs(notebook: dict) -> None:
    """Shorten what a cell shows to what a reader would scroll through, and say so in its place.

    The limits are a cell's: many outputs of a bearable size are no more bearable than one that is too long.
    """
    import nbformat

    for cell in notebook["cells"]:
        text, room, kept = MAX_CELL_TEXT, MAX_CELL_CHARACTERS, []
        for output in cell.get("outputs", []):
            figures = sum(len("".join(v)) for kind, v in output.get("data", {}).items() if kind.startswith("image/"))
            if figures > room or not (text or figures):
                continue
            text, room = shorten(output, text), room - figures
            kept.append(output)
        if left_out := len(cell.get("outputs", [])) - len(kept):
            note = f"[{left_out} more outputs left out]\n"
            cell["outputs"] = [*kept, nbformat.v4.new_output("stream", text=note)]


def shorten(output: dict, room: int) -> int:
    """Cut an output's texts to so many characters, and return how many are left.

    Half a table of HTML would spoil the page that it stands in, so such a text leaves as a whole.
    """
    for holder, kind in [(output, "text")] + [(output.get("data", {}), kind) for kind in TEXT_KINDS]:
        text = "".join(holder.get(kind, ""))
        kept = text if len(text) <= room else "" if kind in MARKED_UP else text[:room]
        room -= len(kept)
        if len(kept) < len(text):
            holder[kind], room = kept + f"\n[{len(text) - len(kept)} characters left out]\n", 0
    return room
