"""The seal of a folder: every file with its hash, and facts about them, written last.

Whoever reads a folder reads its seal first. A folder may come from anywhere, so a seal is data: strict JSON of a bounded
size, whose names stay inside the folder. Nothing heavy is imported here, because `emosafe classify` starts with it.
"""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.files import PARTIAL, file_sha256, write_json
from emosafe_lib.study.strict_reading import json_value

SEAL = "sealed.json"
MOST_JSON_BYTES = 20_000_000
MOST_DIGITS = 40  # transformers writes "no limit" as 10**30
DIGEST = re.compile("[0-9a-f]{64}")


def seal(folder: Path, **facts) -> None:
    """Declare a folder complete: `facts` and every file's hash, written last."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != PARTIAL]
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    files.pop(SEAL, None)
    write_json(folder / SEAL, {"files": files, **facts})


def read_object(path: Path, remedy: str) -> dict:
    """A JSON object of a bounded size.

    Raises
    ------
    ModelError : absent, too large, no strict JSON, or no object
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelError(path, f"is larger than {MOST_JSON_BYTES} bytes", remedy)
        found = json_value(path.read_bytes(), MOST_DIGITS)
    except (OSError, ValueError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "has no readable JSON"
        raise ModelError(path.parent, f"has no readable {path.name} ({why})", remedy) from None
    if not isinstance(found, dict):
        raise ModelError(path, "holds no JSON object", remedy)
    return found


def read_seal(folder: Path, unread: Collection[str] = ()) -> dict:
    """The seal of a folder, every file checked against it but those that stay `unread`, which may be missing.

    Raises
    ------
    ModelError : no seal, a seal that is none, or a file is missing or changed; the file is named
    """
    remedy = "train again, or restore the whole folder"
    facts = read_object(Path(folder) / SEAL, "it was cut short; train again")
    files = facts.get("files")
    if not (isinstance(files, dict) and all(map(is_entry, files.items()))):
        raise ModelError(Path(folder) / SEAL, "does not list the folder's files with their hashes", remedy)
    for name, digest in files.items():
        path = Path(folder) / name
        if name in unread:
            continue
        if not path.is_file():
            raise ModelError(path, "is missing", remedy)
        if file_sha256(path) != digest:
            raise ModelError(path, "is truncated or changed", remedy)
    return facts


def is_entry(entry: tuple[str, object]) -> bool:
    """Whether a seal's entry is a name inside the folder with a SHA-256."""
    name, digest = entry
    inside = name.isprintable() and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
    return inside and ":" not in name and isinstance(digest, str) and bool(DIGEST.fullmatch(digest))
