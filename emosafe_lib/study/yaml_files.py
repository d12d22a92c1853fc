"""One strict reader of parameter files: YAML 1.2 without tags, aliases or secrets, whose bare words are read as in JSON.

ruamel.yaml reads the file, and what a word without quotes means is asked of JSON: by YAML's own rules `010` is the number
10, `2026-01-01` a date and `1_000` a thousand. Where the schema wants text after all, `parameters` asks for the words as
they stand in the file.
"""

import json
import re
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

from ruamel.yaml import YAML, error, events

from emosafe_lib.study.errors import ParameterError

MAX_FILE_BYTES = 64_000
MAX_DEPTH = 20
SECRET_KEY = re.compile(r"(?i)(^|_)(api_?key|token|secret|password|passwd|credentials?)$")
SECRET_VALUE = re.compile(r"\b(sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{12,})")


def json_value(word: str) -> object:
    """What a word without quotes means: a number, true, false or null as JSON writes them, else itself; `~` is null."""
    try:
        return None if word in ("", "~") else json.loads(word, parse_constant=str)
    except ValueError:
        return word


def read_yaml(path: Path, bare: Callable[[str], object] = json_value) -> dict:
    """Read one parameter file strictly; `bare` says what a word without quotes means.

    Raises
    ------
    ParameterError : absent, too large, not UTF-8, not a mapping, or using YAML that this package refuses
    """
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(path, "no such file", f"name one of: {known}")
    raw = path.read_bytes()
    if len(raw) > MAX_FILE_BYTES:
        raise ParameterError(path, f"{len(raw)} bytes", f"a parameter file holds at most {MAX_FILE_BYTES}")
    try:
        nodes = plain_nodes(raw.decode("utf-8"))
        data = value_at(next(nodes, None), nodes, bare)
        next(nodes, None)  # so that what stands behind the mapping is looked at
    except UnicodeDecodeError as wrong:
        raise ParameterError(path, f"not UTF-8 at byte {wrong.start}", "save it as UTF-8") from None
    except (error.YAMLError, ValueError, OverflowError) as wrong:  # the last two: an escape that is no character
        line = f"line {mark.line + 1}: " if (mark := getattr(wrong, "problem_mark", None)) else ""
        raise ParameterError(path, f"{line}{getattr(wrong, 'problem', wrong)}", "write plain YAML") from None
    if not isinstance(data, dict):
        raise ParameterError(path, "is not a mapping of keys to values", "start with a line such as `name: sample`")
    return data


def plain_nodes(text: str) -> Iterator[events.Event]:
    """The values and keys of a YAML text and the ends of its collections, in order, as ruamel.yaml meets them.

    Raises
    ------
    MarkedYAMLError : at the first that is not plain, before anything behind it is read
    """
    depth = documents = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        documents += isinstance(event, events.DocumentStartEvent)
        depth += isinstance(event, events.CollectionStartEvent) - isinstance(event, events.CollectionEndEvent)
        refuse(event, getattr(event, "anchor", None) is not None, "anchors and aliases are not allowed")
        refuse(event, getattr(event, "tag", None) is not None, "tags are not allowed")
        refuse(event, documents > 1, "a second document is not allowed")
        refuse(event, depth > MAX_DEPTH, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, events.NodeEvent | events.CollectionEndEvent):
            yield event


def refuse(event: events.Event, broken: bool, rule: str) -> None:
    """Raise MarkedYAMLError at the event's line if it breaks a rule."""
    if broken:
        raise error.MarkedYAMLError(problem=rule, problem_mark=event.start_mark)


def value_at(event: events.Event | None, following: Iterator[events.Event], bare: Callable[[str], object]) -> object:
    """The value that starts at an event; it takes what belongs to it from those that follow. None in an empty file."""
    if event is None:
        return None
    if isinstance(event, events.ScalarEvent):
        return bare(event.value) if event.implicit[0] else event.value
    inside = takewhile(lambda each: not isinstance(each, events.CollectionEndEvent), following)
    if isinstance(event, events.SequenceStartEvent):
        return [value_at(each, following, bare) for each in inside]
    found: dict[str, object] = {}
    for key in inside:
        refuse(key, not isinstance(key, events.ScalarEvent), "a key must be text")
        refuse(key, key.value in found, f"key {key.value[:60]!r} appears twice")
        found[key.value] = value_at(next(following), following, bare)
    return found


def refuse_secrets(data: object, where: object, key: str = "") -> None:
    """Raise ParameterError if a key or value looks like a credential; the value itself is never shown."""
    if isinstance(data, dict):
        for name, value in data.items():
            inner = f"{key}.{name}".lstrip(".")
            if SECRET_KEY.search(str(name)):
                raise ParameterError(where, f"{inner} looks like a secret", "put keys in environment variables")
            refuse_secrets(value, where, inner)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            refuse_secrets(value, where, f"{key}[{number}]")
    elif isinstance(data, str) and SECRET_VALUE.search(data):
        raise ParameterError(where, f"{key}: the value looks like a key", "put keys in environment variables")
