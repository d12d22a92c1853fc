"""What work cost that several tries did: those that were stopped count as far as what they kept reaches.

A stage that is killed after two hours and taken up took two hours more than its last try, and only its last try can
tell what it cost. What a stopped one did after it last saved something is lost, has to be done again, and counts then.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from emosafe_lib.study.files import write_json

RECORD = "tries.json"


@dataclass
class Spent:
    """Seconds by the clock and by the processor from now on, on top of those of earlier tries."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    began: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))

    def add(self, earlier: dict[str, float]) -> None:
        """Count what an earlier try had spent, as `now` gave it then."""
        self.seconds += earlier["seconds"]
        self.processor_seconds += earlier["processor_seconds"]

    def now(self) -> dict[str, float]:
        """Both so far, rounded, as JSON values."""
        since = time.monotonic() - self.began[0], time.process_time() - self.began[1]
        spent = self.seconds + since[0], self.processor_seconds + since[1]
        return dict(zip(("seconds", "processor_seconds"), (round(value, 2) for value in spent), strict=True))


def seconds_before(folder: Path, parameters: dict) -> float:
    """Seconds of earlier tries with these parameters whose work is kept below `folder`: each from its begin to the last
    file that it wrote.
    """
    if not (folder / RECORD).is_file():
        return 0.0
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if record["parameters"] != parameters:
        return 0.0
    written = (path.stat().st_mtime for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return record["before"] + max(0.0, max(written, default=0.0) - record["began"])


def begin_try(folder: Path, ago: float, parameters: dict) -> float:
    """Record a try that began `ago` seconds ago with these parameters and keeps its work below `folder`; returns the seconds
    of those before it, which with other parameters are none.
    """
    before = seconds_before(folder, parameters)
    write_json(folder / RECORD, {"began": time.time() - ago, "before": before, "parameters": parameters})
    return before


def end_tries(folder: Path) -> None:
    """Forget the tries of work that is finished: whoever reads it back later does not do it again."""
    (folder / RECORD).unlink(missing_ok=True)
