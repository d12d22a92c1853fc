"""The journal: what was asked, what came back, what it cost; one append-only JSONL file for one set of settings.

A run that dies must not pay twice. Before a request goes out a line says so, and its outcome is on disk before the
next request of the same worker starts. The file is named after the settings, so a changed prompt starts another file
and the old one stays. Two runs cannot write at once. The text of replies is in here, so the journal lives in the
stage's working folder and never in anything that is rendered.
"""

import contextlib
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_type_hints

from filelock import FileLock, Timeout

from emosafe_lib.augment import tactics
from emosafe_lib.study.errors import AugmentationError
from emosafe_lib.study.files import PRIVATE
from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.strict_reading import Lines, json_value

MAYBE_BILLED = ("deadline", "timeout", "connection", "unreadable body")
# An answer that was paid for, whatever it is worth; anything else is asked again by the next run.
FINAL = ("ok", "length", "refusal", "content_filter", "no_choices")


@dataclass(frozen=True)
class Answer:
    """What became of one request. `content` is the model's text, `model` the one that answered, `attempts` counts
    requests on the wire, `seconds` includes waiting between them. `cap_usd` is what counts against the cap, where that is
    more than the bill; `lost` counts requests before the last one that may have been billed and brought nothing.
    """

    key: str
    outcome: str
    content: str | None = None
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    attempts: int = 1
    note: str = ""
    cap_usd: float = 0.0
    lost: int = 0


KINDS = get_type_hints(Answer) | dict.fromkeys(("cost_usd", "cap_usd", "seconds"), int | float)
AMOUNTS = [name for name, kind in KINDS.items() if kind in (int, int | float)]
LARGEST = 1e12
KINDS |= dict.fromkeys(("sent", "batch", "batch_done"), str)


def journal_path(folder: Path, params: AugmentationParams) -> Path:
    """The journal of these settings: readable model name, then a digest of everything that shapes an answer."""
    settings = tactics.settings(params)
    name = "".join(c if c.isalnum() or c in "-._" else "-" for c in settings["model"])[:60]
    return Path(folder) / f"{name}-{tactics.digest(settings)[:12]}.jsonl"


class Journal:
    """Use as a context manager: the lock is held and the file open inside.

    Attributes
    ----------
    answers : key -> Answer, final ones only
    open : keys that were sent and never answered, in an earlier run that died; they may have been paid for
    failed : key -> Answer, requests that ended without an answer
    torn : 1 if the last line was half-written and removed
    events : other records, such as batches, in order
    spent_usd : what counts against the cap
    """

    def __init__(self, path: Path, settings: dict | None = None, *, durable: bool = True):
        self.path, self.settings, self.durable = Path(path), settings or {}, durable
        self.answers: dict[str, Answer] = {}
        self.open: set[str] = set()
        self.failed: dict[str, Answer] = {}
        self.timeouts = 0
        self.events: list[dict] = []
        self.torn = 0
        self.spent_usd = 0.0

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.path.with_suffix(".lock"))
        with contextlib.suppress(Timeout):
            self.lock.acquire(timeout=0)
        if not self.lock.is_locked:
            remedy = "wait for the other run to end, or stop it"
            raise AugmentationError(self.path.name, "another run is writing this journal", remedy)
        try:
            self.load()
            self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
            if not os.path.getsize(self.path):
                self.append({"settings": self.settings})
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *exception):
        os.close(self.descriptor)
        self.lock.release()

    def load(self) -> None:
        """Read the file; drop a torn last line; AugmentationError for any other line that is not a record."""
        whole = 0
        with open(self.path, "rb") if self.path.exists() else io.BytesIO() as stream:
            lines = Lines(stream)
            try:
                for line in lines:
                    if line.endswith(b"\n"):
                        self.take(line)
                        whole += len(line)
            except (ValueError, TypeError, AttributeError):
                remedy = "restore it from a copy, or move it away and pay again"
                where = f"{self.path.name} line {lines.number}"
                raise AugmentationError(where, "is not a journal record", remedy) from None
            self.torn = int(stream.tell() > whole)
        if self.torn:
            os.truncate(self.path, whole)

    def take(self, line: bytes) -> None:
        """Take one line into account; ValueError, TypeError or AttributeError where it is no record."""
        record = json_value(line)
        if not all(isinstance(value, KINDS.get(name, object)) for name, value in record.items()):
            raise TypeError
        if not all(0 <= record.get(name, 0) <= LARGEST for name in AMOUNTS):
            raise ValueError
        self.remember(record)

    def remember(self, record: dict) -> None:
        """Take one record into account."""
        if "sent" in record:
            self.open.add(record["sent"])
        elif "outcome" in record:
            answer = Answer(**record)
            self.open.discard(answer.key)
            self.spent_usd += max(answer.cost_usd, answer.cap_usd)
            self.timeouts += answer.lost
            if answer.outcome in FINAL:
                self.answers.setdefault(answer.key, answer)
                self.failed.pop(answer.key, None)
            else:
                self.failed[answer.key] = answer
                self.timeouts += answer.note in MAYBE_BILLED
        elif "settings" not in record:
            self.events.append(record)

    @property
    def uncertain(self) -> int:
        """Requests that may have been billed although no answer arrived: killed in flight, timed out, cut off."""
        return len(self.open) + self.timeouts

    def append(self, record: dict) -> None:
        """Write one line in one call, so that a kill leaves it whole or absent."""
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        size, written = os.fstat(self.descriptor).st_size, -1
        with contextlib.suppress(OSError):
            written = os.write(self.descriptor, line)
        if written != len(line):
            os.ftruncate(self.descriptor, size)
            raise AugmentationError(
                self.path.name, "cannot be written, the disk may be full", "make room and run again"
            )

    def sent(self, key: str) -> None:
        """Note that a request is about to go out."""
        self.append({"sent": key})
        self.open.add(key)

    def answered(self, answer: Answer) -> None:
        """Note the end of a request and force it to the disk, because it has been paid for."""
        record = {name: value for name, value in asdict(answer).items() if value not in (None, "")}
        self.append(record)
        if self.durable:
            os.fdatasync(self.descriptor)
        self.remember(record)

    def event(self, record: dict) -> None:
        """Note something else, such as a batch that was handed in."""
        self.append(record)
        os.fdatasync(self.descriptor)
        self.events.append(record)
