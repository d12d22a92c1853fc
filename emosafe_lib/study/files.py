"""Files written whole or not at all, and the hashes that prove it.

Whatever ends a run (a kill, a full disk, a power failure), a reader finds the old file or the new one, never half of one.
"""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from emosafe_lib.study.errors import EmosafeError, StageError

PARTIAL = ".partial"  # how the name of a file ends that is being written
PRIVATE = 0o600  # the mode of files with messages of people, and of an augmentation's journal
WITH_MESSAGES = ("rows.parquet", "reinterpretations.parquet", "external.parquet")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """SHA-256 of a large file, read once a process as long as its size and time stay the same."""
    facts = Path(path).stat()
    return sha256_at(path, facts.st_size, facts.st_mtime_ns)


@cache
def sha256_at(path: Path, size: int, time: int) -> str:
    """`file_sha256`, remembered for a file of this size and time."""
    return file_sha256(path)


@contextmanager
def replacing(target: Path, error: type[EmosafeError] = StageError) -> Iterator[Path]:
    """A path beside `target` for the block to write, a file or a folder, which then takes the place of `target`.

    If the block raises, what it wrote is removed and `target` stays as it was; what a killed process left is removed by
    the next one. Only one process may write a target at a time.

    Raises
    ------
    StageError, or `error` : the operating system refuses to write, because the disk is full for instance
    """
    target = Path(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}"):
            remove(leftover)
        if target.name in WITH_MESSAGES:
            partial.touch(PRIVATE)  # from its first byte on
        yield partial
        put_in_place(partial, target)
    except OSError as refusal:
        why = refusal.strerror or type(refusal).__name__
        remedy = "make room on the disk, or see who may write there; then run again"
        raise error(f"{target.parent.name}/{target.name}", f"could not be saved ({why})", remedy) from None
    finally:
        remove(partial)


def put_in_place(written: Path, target: Path) -> None:
    """Rename a finished file or folder to `target`, with its content on the disk and readable as any new file is, or by its
    owner alone if it holds messages.
    """
    for path in [written] if written.is_file() else [path for path in written.rglob("*") if path.is_file()]:
        with open(path, "r+b") as stream:  # Windows syncs none that is open for reading alone
            os.fsync(stream.fileno())  # or a power failure could leave the new name with nothing in it
        name = target.name if path == written else path.name
        # By name and not by what it is: safetensors makes files that only their owner may read.
        path.chmod(PRIVATE if name in WITH_MESSAGES else 0o666 & ~umask())
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(written, target)


def umask() -> int:
    """The permissions that this process takes from new files; they can only be read by setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, data: object) -> None:
    """Write JSON, which holds no NaN; see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
