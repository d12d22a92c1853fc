"""Progress that a person sees, in a notebook as a bar and in a runner's terminal as a line now and then.

papermill swallows what a kernel prints until the cell is over. So long loops also leave a one-line heartbeat in the
file that `EMOSAFE_PROGRESS` names, and the runner prints it.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
HEARTBEAT_SECONDS = 1.0


def bar(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items while showing how far one is.

    `label` says what is being done and must not contain message text; `total` is needed where `items` has no length.
    """
    from tqdm.auto import tqdm

    total = total if total is not None else getattr(items, "__len__", lambda: None)()
    beat = 0.0
    for done, item in enumerate(tqdm(items, desc=label, total=total, leave=False, mininterval=1.0)):
        if time.monotonic() - beat > HEARTBEAT_SECONDS:
            heartbeat(label, done, total)
            beat = time.monotonic()
        yield item


def heartbeat(label: str, done: int, total: int | None) -> None:
    """Write `label done/total` to the runner's progress file, if there is a runner."""
    path = os.environ.get("EMOSAFE_PROGRESS")
    if not path:
        return
    try:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(f"{label} {done}/{total or '?'}")
    except OSError:
        pass  # the runner is gone; progress is a courtesy, not a result


def say(line: str) -> None:
    """Print a line in one write: stages that run side by side share a terminal, and unbuffered `print` makes two."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
