"""What is optional to a study, and which failures end a stage all the same.

A precision, a runtime, a benchmark's peer or a figure may fail on a machine for reasons that nobody can list: a library
that refuses a layer's width, a font that is not there. Such a failure must not cost the numbers beside it. So it ends as
a gap with a name and a reason, in the notebook and in the manifest's `not_measured`, and the stage goes on. What a
study's answers rest on (rows, predictions, results, claims) is never optional, and what `ENDS_A_STAGE` lists ends a
stage wherever it is met: to go on would hide it.
"""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from emosafe_lib.study import errors
from emosafe_lib.study.memory import out_of_memory

# By kind, what of a failure is told. Code that sees no message may be quoted; of other code's errors only the class is.
KINDS = {"precision": "quoted", "peer": "class", "figure": "class", "runtime": "class", "check": "class"}

# Errors that end a stage even in what is optional: somebody stops it, memory is used up, a cell has a slip in it, or
# what a study's answers rest on is not as it was declared.
ENDS_A_STAGE: tuple[type[BaseException], ...] = (
    KeyboardInterrupt,
    SystemExit,
    MemoryError,
    NameError,
    errors.ParameterError,
    errors.StageError,
    errors.SourceError,
    errors.MergeError,
    errors.PredictionError,
    errors.PromptError,
    errors.AugmentationError,
    errors.TrainingError,
)
# Of OSError, those that every later write would meet as well.
FULL_DISK = {errno.ENOSPC: "no space left", errno.EDQUOT: "quota used up", errno.EROFS: "read-only"}

LOCAL = re.compile(r"(?<![\w.:/<-])(?:/|[A-Z]:\\+)(?:[^\s:;,'\"/\\]+[/\\]+)+([^\s:;,'\"/\\]+)")

missing: dict[tuple[str, str], str] = {}


def ends_a_stage(error: BaseException) -> bool:
    """Whether an error ends a stage even where it comes from something optional."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    exhausted = isinstance(error, RuntimeError) and out_of_memory(error)
    return exhausted or isinstance(error, ENDS_A_STAGE)


@contextmanager
def optional(kind: str, name: str) -> Iterator[None]:
    """Run a block that a stage can do without; where it fails, note and print why, and go on after it.

    Nothing that later cells need may be made inside. Open figures are drawn before the block ends, since a notebook draws
    them when it is too late, and closed where that fails.

    Parameters
    ----------
    kind : one of `KINDS`
    name : what will be missing, such as "latency"; never a message's text
    """
    try:
        yield
        if kind == "figure":
            draw_open_figures()
        missing.pop((kind, name), None)
    except Exception as error:
        close_figures(kind)
        if ends_a_stage(error):
            raise
        note(kind, name, reason(error, KINDS[kind]))


def note(kind: str, name: str, why: str) -> None:
    """Remember and print that something optional is missing from this stage."""
    missing[kind, name] = why
    print(f"{kind} {name}: not measured ({why})")


def not_measured() -> list[dict]:
    """What is missing from this stage so far: dicts of kind, name and reason, in order."""
    return [{"kind": kind, "name": name, "reason": why} for (kind, name), why in missing.items()]


def reason(error: BaseException, told: str = "quoted") -> str:
    """Why something is missing, in one line: the class of an error, and the first line of what it says where it is
    `quoted`, or one of the package's own errors, which never hold a message's text.
    """
    lines = str(error).strip().splitlines()
    if not lines or (told != "quoted" and not isinstance(error, errors.EmosafeError)):
        return type(error).__name__
    return without_folders(f"{type(error).__name__}: {lines[0]}")[:200]


def without_folders(text: str) -> str:
    """A library's words with the last name alone of each absolute path, which may tell who works on this machine."""
    return LOCAL.sub(r"…/\1", text)


def draw_open_figures() -> None:
    """Draw all figures that are open and not drawn yet."""
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib.pyplot as plt

        for figure in map(plt.figure, plt.get_fignums()):
            figure.canvas.draw()


def close_figures(kind: str) -> None:
    """Close what a failed figure left open: a notebook would try to draw it again, and fail."""
    if kind == "figure" and "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
