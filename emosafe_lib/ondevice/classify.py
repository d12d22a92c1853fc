"""Use an exported pair of classifiers: load it anywhere, classify messages as they stream in.

A user sees what the study evaluated, with its temperature and thresholds. Where an ONNX graph was exported it reads the
messages: it differs from PyTorch by rounding alone, and starts in a second, with nothing of PyTorch imported. Elsewhere
PyTorch reads them: where the processor has bf16 instructions, most rows in bf16, and labels are those of fp32 unless a row
moves twice as far as any validation row did (`close_calls`). A row that cannot be read, or to which the network has no
finite answer, gets an outcome that says why, and the rest goes on. A message is tidied and its identifiers are masked
just as those of the training rows were. Texts are read and forgotten: no output, log or error holds one.
"""

import argparse
import errno
import json
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path

import numpy as np

from emosafe_lib.evaluation import operating
from emosafe_lib.models.seals import SEAL, read_seal
from emosafe_lib.ondevice import model_card
from emosafe_lib.ondevice.exports import ONNX_FILES, RUNTIMES, WEIGHTS, tasks_of
from emosafe_lib.ondevice.messages import BLANK, readable, texts_of
from emosafe_lib.ondevice.model_card import WARNING
from emosafe_lib.ondevice.onnx_classifier import open_tasks
from emosafe_lib.ondevice.task_classifier import TaskClassifier
from emosafe_lib.study.errors import EmosafeError, ModelError
from emosafe_lib.study.memory import limited_memory
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, TASKS

EXAMPLES = """\
examples:
  emosafe classify --model outputs/sample/06_on_device/classifier "I had a quiet day" "Nobody would miss me"
  emosafe classify --model outputs/sample/06_on_device/classifier --file messages.csv --column body > results.jsonl
  tail -n 100 messages.txt | emosafe classify --model outputs/sample/06_on_device/classifier --at recall=0.95 -

A terminal gets a table, a pipe or file one JSON object a line, in both without the messages. Messages that begin with a
dash stand behind `--`.
"""
HEADER = f"{'row':>6}  {'level':<10}  probability  {{}}categories"
CHUNK_ROWS = 256
MOST_NAME_BYTES, MOST_PATH_BYTES = 255, 4000  # to look for a file whose name is longer is an error that quotes it
NO_ANSWER = "failed: the model's answer is not finite"
SPARE_MEMORY, MEMORY_PER_BYTE = 6 * 2**30, 8  # bytes of address space: PyTorch alone maps some gigabytes of libraries


class Classifier:
    """Both tasks, loaded from an exported folder.

    >>> Classifier("exported").classify(["a message"])  # doctest: +SKIP

    Parameters
    ----------
    at : what an alarm is for, such as ("recall", 0.95); see `operating.pick`

    Raises
    ------
    ModelError : the folder is not an export, its files are damaged, or it has no threshold for the purpose
    """

    def __init__(self, folder: Path, runtime: str = "", at: tuple[str, float] | None = None):
        tasks = tasks_in(Path(folder))
        with memory_for(folder):
            self.parts = open_parts(Path(folder), tasks, runtime)
        for task, part in self.parts.items():
            if part.task != task:
                raise ModelError(
                    Path(folder) / task, f"holds a classifier of {part.task}", "put each task in its place"
                )
        self.unanswered, self.alarm = 0, None
        if at:
            self.begin_alarm(Path(folder), at)

    def begin_alarm(self, folder: Path, at: tuple[str, float]) -> None:
        """Settle from which P(unsafe) on there is an alarm, and what that did on validation rows.

        Raises
        ------
        ModelError : no threshold of the export serves
        """
        safety = self.parts["safety"]
        point = operating.pick(safety.curve, *at, folder)
        self.alarm, safety.alarm = operating.in_words(safety.curve, point), point.threshold

    def classify(self, texts: Iterable, more: Callable[[], bool] = lambda: True) -> Iterator[dict]:
        """One result per text, in order; at most `CHUNK_ROWS` texts are held at a time, fewer where `more` says that the
        next one is not there yet.

        A result has row (from 0; a blank line of a file counts and has no result), outcome ("ok", "truncated" or why the
        row was refused), level, alarm (where one was settled), categories (those at or above their threshold) and
        probabilities.
        """
        rows = ((row, text) for row, text in enumerate(texts) if text is not BLANK)
        for chunk in chunks(rows, more):
            yield from self.classify_chunk(chunk)

    def classify_chunk(self, chunk: list[tuple[int, object]]) -> Iterator[dict]:
        """Results of some numbered texts, refused ones among them in their place."""
        made = {row: readable(text) for row, text in chunk}
        good = {row: text for row, text in made.items() if isinstance(text, str)}
        found = dict(zip(good, self.score(list(good.values())) if good else [], strict=True))
        refused = {row: {"outcome": f"refused: {text.reason}"} for row, text in made.items() if row not in good}
        results = found | refused
        yield from ({"row": row} | results[row] for row in made)

    def score(self, texts: list[str]) -> list[dict]:
        """Levels, categories and probabilities of readable texts; an answer that is not finite has none of them.

        An export of a study that asked for levels alone says nothing about categories.
        """
        safety, categories = self.parts["safety"], self.parts.get("categories")
        encoded = safety.encode(texts)
        levels = safety.chances(encoded)
        risks, limits = [None] * len(texts), None
        if categories is not None:
            same = safety.reads == categories.reads
            risks = categories.chances(encoded if same else categories.encode(texts))
            limits = np.array(categories.fitted["thresholds"])
        answers = zip(levels, risks, encoded.truncated, strict=True)
        return [self.answer(level, risk, limits, short) for level, risk, short in answers]

    def answer(self, level: np.ndarray, risk: np.ndarray | None, limits: np.ndarray | None, short: bool) -> dict:
        """One text's result from its probabilities, (3,) and (6,), the thresholds (6,), and whether it was cut."""
        if not (np.isfinite(level).all() and (risk is None or np.isfinite(risk).all())):
            self.unanswered += 1
            return {"outcome": NO_ANSWER}
        found = {"outcome": "truncated" if short else "ok", "level": SAFETY_LEVELS[int(level.argmax())]}
        if self.alarm:
            found["alarm"] = bool(level[-1] >= self.parts["safety"].alarm)
        if risk is not None:
            found["categories"] = [name for name, on in zip(CATEGORIES, risk >= limits, strict=True) if on]
        found["level_probabilities"] = dict(zip(SAFETY_LEVELS, level.round(4).tolist(), strict=True))
        if risk is not None:
            found["category_probabilities"] = dict(zip(CATEGORIES, risk.round(4).tolist(), strict=True))
        return found


def tasks_in(folder: Path) -> tuple[str, ...]:
    """The tasks of an export: levels, and what its classifier of levels names beside them.

    Raises
    ------
    ModelError : no export of levels, or one of a task that is not there
    """
    sealed = (folder / TASKS[0] / SEAL).is_file()
    held = (TASKS[0], *tasks_of(read_seal(folder / TASKS[0], unread=WEIGHTS))) if sealed else TASKS
    for task in held:
        if not (folder / task / SEAL).is_file():
            raise ModelError(folder, f"holds no exported {task} classifier", "make one with export.export")
    return tuple(task for task in TASKS if task in held)


def open_parts(folder: Path, tasks: tuple[str, ...], runtime: str) -> dict[str, TaskClassifier]:
    """The tasks of an export in one runtime: the one asked for, else ONNX where all have it, else PyTorch's fastest.

    Raises
    ------
    ModelError : an export is damaged or lacks the runtime, or PyTorch is needed and not installed
    """
    if not runtime and all(ONNX_FILES["onnx"] in read_seal(folder / task, unread=WEIGHTS)["files"] for task in tasks):
        runtime = "onnx"
    if runtime in ONNX_FILES:
        return open_tasks(folder, tasks, runtime)
    try:
        from emosafe_lib.ondevice import runtimes
    except ModuleNotFoundError as absent:
        if runtime:
            what, remedy = f"--runtime {runtime} needs PyTorch, and {absent.name}", "leave --runtime out, or "
        else:
            what, remedy = f"holds no ONNX files, and {absent.name}", "run `emosafe onnx` where PyTorch is, or here "
        remedy += "in a checkout `pip install -e '.[study]'`"
        raise ModelError(folder, f"{what} is not installed", remedy) from None
    return {task: runtimes.open_task(folder / task, runtime) for task in tasks}


def memory_for(folder: Path):
    """The context in which an export is read: it may take a multiple of what its files weigh, and no more."""
    weighed = sum(path.stat().st_size for path in Path(folder).glob("*/*") if path.is_file())
    return limited_memory(SPARE_MEMORY + MEMORY_PER_BYTE * weighed)


def chunks(rows: Iterable[tuple[int, object]], more: Callable[[], bool]) -> Iterator[list[tuple[int, object]]]:
    """Rows, `CHUNK_ROWS` at a time, fewer where `more` are not there yet, as while somebody types them: no answer
    waits for others' messages. Where they end in an error, those before it come first.
    """
    chunk = []
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == CHUNK_ROWS or not more():
                yield chunk
                chunk = []
    except EmosafeError:
        yield chunk
        raise
    yield chunk


def one_of(choices: tuple[str, ...]):
    """An argparse type; argparse's own `choices` quotes what was given, which may be a message at the wrong place."""

    def chosen(given: str) -> str:
        if given not in choices:
            raise argparse.ArgumentTypeError(f"use one of {', '.join(choices)}")
        return given

    return chosen


def purpose(given: str) -> tuple[str, float]:
    """An argparse type: an aim and a rate between 0 and 1, such as recall=0.95; what was given is not shown."""
    aim, _, rate = given.partition("=")
    try:
        wanted = float(rate)
    except ValueError:
        wanted = 0.0
    if aim not in operating.AIMS or not 0 < wanted < 1:
        raise argparse.ArgumentTypeError("use recall=0.95 or false-alarms=0.1, with a number between 0 and 1")
    return aim, wanted


def make_parser() -> argparse.ArgumentParser:
    """The options, so that no error of argparse quotes an argument: any of them may be a message.

    There is no abbreviation, and no `-h`, by which argparse would read `-hopeless` as itself.
    """
    parser = argparse.ArgumentParser(
        prog="emosafe classify",
        description="Classify messages. " + WARNING,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="an export, such as notebook 06 makes")
    parser.add_argument(
        "--runtime",
        type=one_of(RUNTIMES),
        metavar="NAME",
        help=f"one of {', '.join(RUNTIMES)}; onnx by itself where it was exported, which starts in a second; bf16+fp32 is "
        "faster for thousands of messages on a processor with matrix units",
    )
    parser.add_argument(
        "--at",
        type=purpose,
        metavar="AIM=RATE",
        help="say of each message whether it raises an alarm: recall=0.95 to find 95 %% of the unsafe messages, "
        "false-alarms=0.1 to raise an alarm for at most 10 %% of the others. An alarm is P(unsafe) at or above a threshold "
        "that did so on the model's validation rows; a borderline message is one of the others",
    )
    parser.add_argument("--card", action="store_true", help="print what the model is and what it is worth, and no more")
    parser.add_argument("--file", help=".jsonl or .csv file, or - for standard input, one message a line")
    parser.add_argument("--column", default="text", metavar="NAME", help="CSV column or JSON key of the message")
    parser.add_argument("texts", nargs="*", metavar="MESSAGE", help="messages, or - for standard input")
    return parser


def asked(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The options, with `file` set to `-` where messages come through standard input.

    Whatever stands behind `--` is a message. Exits with status 2 on arguments that do not fit, without showing them.
    """
    front = list(takewhile(lambda argument: argument != "--", arguments))
    if any(argument.startswith("--card=") for argument in front):
        parser.error("--card takes no value")
    options, unknown = parser.parse_known_intermixed_args(front)
    if unknown:
        parser.error("an argument begins with a dash and is no option; put messages that begin with a dash behind --")
    options.texts += arguments[len(front) + 1 :]
    for name in ("model", "file"):
        if too_long(getattr(options, name) or ""):
            parser.error(f"--{name} is longer than a file's name can be")
    if options.card:
        if options.file or options.texts or options.at:
            parser.error("--card reads no message: give it --model alone")
        return options
    if not options.file and (options.texts == ["-"] or (not options.texts and is_piped())):
        options.file, options.texts = "-", []
    if bool(options.file) == bool(options.texts):
        parser.error("give messages, or a file of them with --file (- for standard input)")
    if "-" in options.texts:
        parser.error("give - alone: it stands for standard input")
    for number, text in enumerate(options.texts, start=1):
        if os.path.isfile(text):
            parser.error(f"message {number} is the name of a file: read the file with --file, or pipe the message in")
    return options


def too_long(path: str) -> bool:
    """Whether no file can have this path, which may be a message at the wrong place."""
    return len(os.fsencode(path)) > MOST_PATH_BYTES or any(
        len(os.fsencode(part)) > MOST_NAME_BYTES for part in Path(path).parts
    )


def is_piped() -> bool:
    """Whether standard input is there and nobody types it."""
    return sys.stdin is not None and not sys.stdin.isatty()


def more_is_piped() -> bool:
    """Whether standard input has something to read right now, its end included; True where the system cannot tell."""
    try:
        return bool(select.select([sys.stdin], [], [], 0)[0])
    except (OSError, ValueError):  # Windows asks sockets alone; a stand-in for a file has no descriptor
        return True


def texts_from(file: str, column: str) -> Iterator:
    """The messages of a file, or of standard input (`-`), one a line.

    Raises
    ------
    ModelError : it is closed or cannot be read, or see `texts_of`
    """
    where, remedy = (file, "let it be read, or name another file")
    if file == "-":
        where, remedy = "standard input", "pipe messages in, or name a file with --file"
    try:
        if file == "-" and sys.stdin is None:
            raise OSError(errno.EBADF, "closed")
        yield from texts_of(file, column)
    except OSError as error:
        raise ModelError(where, f"cannot be read ({error.strerror or type(error).__name__})", remedy) from None


def table_row(result: dict) -> str:
    """A result for people: row, level, its probability, categories; or why there is none."""
    if "level" not in result:
        return f"{result['row']:>6}  {result['outcome']}"
    level, cut = result["level"], "  (truncated)" if result["outcome"] == "truncated" else ""
    alarm = f"{'ALARM' if result['alarm'] else '-':<7}" if "alarm" in result else ""
    names = ", ".join(result.get("categories", ["not asked"])) or "-"
    return f"{result['row']:>6}  {level:<10}  {result['level_probabilities'][level]:>11.2f}  {alarm}{names}{cut}"


def write(line: str) -> None:
    """Put a line out at once; ModelError where it cannot be written, BrokenPipeError where its reader has left."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"results cannot be written ({error.strerror or type(error).__name__})"
        raise ModelError("standard output", what, "free space, or name another file") from None


def main(arguments: list[str] | None = None) -> int:
    """`emosafe classify --model FOLDER [MESSAGE ...] [--file FILE]`: a table on a terminal, else JSON lines; no text in
    them. With `--card`, the model's card.

    Raises
    ------
    ModelError : the folder is no export, or holds neither card nor thresholds where they are asked for; the input cannot
        be read or holds no message, results cannot be written, or an answer was not finite
    """
    parser, given = make_parser(), sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(takewhile(lambda argument: argument != "--", given)):
        print(parser.format_help(), end="")
        return 0
    options, rows = asked(parser, given), 0
    if sys.stdout is None:
        raise ModelError(
            "standard output", "is closed, so results would be lost", "leave it open, or name a file for it"
        )
    if options.card:
        folder = Path(options.model)
        write(model_card.render(folder, tasks_in(folder)))
        return 0
    if sys.stderr is not None:
        print(WARNING, file=sys.stderr)
    texts, people = options.texts or texts_from(options.file, options.column), sys.stdout.isatty()
    classifier = Classifier(Path(options.model), runtime=options.runtime or "", at=options.at)
    if classifier.alarm and sys.stderr is not None:
        print(classifier.alarm, file=sys.stderr)
    more = more_is_piped if options.file == "-" else lambda: True
    for rows, result in enumerate(classifier.classify(texts, more), start=1):
        if people and rows == 1:
            write(HEADER.format("alarm  " if options.at else ""))
        write(table_row(result) if people else json.dumps(result, allow_nan=False))
    if not rows:
        raise ModelError("standard input" if options.file == "-" else options.file, "holds no message", "give some")
    if classifier.unanswered:
        what = f"gave no finite answer to {classifier.unanswered} of {rows} messages"
        raise ModelError(options.model, what, "restore the whole folder, or export it again")
    return 0
