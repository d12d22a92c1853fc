"""All settings of a study and of a model, written from the schema for whoever looks for one.

A list that is kept by hand goes stale with the next setting. So `params/README.md` and the two commented files beside it
are made from `parameters`, where every default, range and meaning stands once, and a test compares them.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from emosafe_lib.study.errors import ParameterError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.parameters import (
    FOLDERS,
    NAME,
    RELATIVE_PATH,
    WEIGHTS_PATH,
    ModelParams,
    StudyParams,
    settings_of,
)
from emosafe_lib.study.paths import project_root

BEGIN, END = "<!-- settings:begin -->", "<!-- settings:end -->"
FILES = {StudyParams: "all-study-settings.yaml", ModelParams: "all-model-settings.yaml"}
TYPES = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "null": "null",
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
PATTERNS = {NAME: "a name of a-z, 0-9, ., - and _", RELATIVE_PATH: "a relative path", WEIGHTS_PATH: "as described"}
HEAD = """\
# All settings of a file in {folder}/, with their defaults. Copy the lines that you change: what a file does not name keeps
# its default. Written by `make params` from emosafe_lib/study/parameters.py.

"""


def value_of(spec: dict) -> object:
    """What a listing shows: the default, or an example where there is none."""
    return (spec.get("examples") or [spec.get("default")])[0]


def written(value: object) -> str:
    """A value as a parameter file has it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value)
    return value if plain else json.dumps(value)


def kind_of(spec: dict) -> str:
    """The values that a setting takes, in words: type, range, choices."""
    if "anyOf" in spec:
        return " or ".join(map(kind_of, spec["anyOf"]))
    if "$ref" in spec:
        return "the settings below"
    if "enum" in spec:
        return f"one of {', '.join(spec['enum'])}"
    if spec["type"] == "array":
        return list_of(spec)
    if spec["type"] == "object":
        each = spec.get("additionalProperties") or next(iter(spec["patternProperties"].values()))
        return f"for each name, {kind_of(each)}"
    words = PATTERNS.get(
        spec.get("pattern"), f"text like `{spec['pattern']}`" if "pattern" in spec else TYPES[spec["type"]]
    )
    return (words + range_of(spec)).removesuffix(", ")


def list_of(spec: dict) -> str:
    """A list in words."""
    fixed = f" of {spec['minItems']}" if "maxItems" in spec else ", not empty" if spec.get("minItems") else ""
    return f"a list{fixed}, each {kind_of(spec['items'])}"


def range_of(spec: dict) -> str:
    """The bounds of a number, or of a text's length, such as ` from 0 to 1`."""
    low, high = spec.get("minimum"), spec.get("maximum")
    if spec["type"] == "integer" and "exclusiveMaximum" in spec:
        high = spec["exclusiveMaximum"] - 1
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if spec["type"] == "string":
        return f" of at most {spec['maxLength']} characters" if "maxLength" in spec and "pattern" not in spec else ""
    return ", " + " and ".join(f"{word} {spec[key]}" for key, word in BOUNDS.items() if key in spec)


def meaning_of(spec: dict) -> str:
    """What a setting is for and what it takes, in one line."""
    if "$ref" in spec:
        return spec["description"]
    return f"{spec['description']} ({kind_of(spec)}{'; required' if spec['required'] else ''})"


def as_yaml(settings: dict[str, dict], section: str = "") -> Iterator[str]:
    """The lines of a commented file: every setting of a section with its value; optional sections are commented out."""
    for path, spec in settings.items():
        above, _, name = path.rpartition(".")
        if above != section:
            continue
        inner = list(as_yaml(settings, path))
        yield from textwrap.wrap(meaning_of(spec), 100, initial_indent="# ", subsequent_indent="# ")
        if "$ref" in spec:
            yield from [f"{name}:", *(f"  {line}" for line in inner)]
            continue
        yield f"{name}: {written(value_of(spec))}"
        if inner:
            item = next(line for line in inner if not line.startswith("#")) if spec["type"] == "array" else ""
            yield from [
                f"# {name}:",
                *(f"#   {'- ' if line == item else '  ' if item else ''}{line}" for line in inner),
            ]


def as_tables(settings: dict[str, dict]) -> Iterator[str]:
    """The lines of a page in Markdown: one table a section."""
    for section in ["", *(path for path, spec in settings.items() if spec["section"])]:
        if section:
            yield from [f"**`{section}`**: {settings[section]['description']}", ""]
        yield from ["| setting | default | values | meaning |", "|---|---|---|---|"]
        for path, spec in settings.items():
            if path.rpartition(".")[0] == section and "$ref" not in spec:
                default = "required" if spec["required"] else f"`{written(spec['default'])}`"
                yield f"| `{path}` | {default} | {kind_of(spec)} | {spec['description']} |"
        yield ""


def pages() -> dict[Path, str]:
    """The files that list all settings, by their path, as they should be.

    Raises
    ------
    ParameterError : there is no checkout
    """
    folder, tables, found = project_root() / "params", [], {}
    for schema, name in FILES.items():
        settings, place = settings_of(schema), FOLDERS[schema]
        found[folder / name] = HEAD.format(folder=place) + "\n".join([*as_yaml(settings), ""])
        tables += [f"## A file in `{place}/`", "", f"With comments, to copy from: [{name}]({name}).", ""]
        tables += as_tables(settings)
    before, _, rest = (folder / "README.md").read_text(encoding="utf-8").partition(BEGIN)
    page = "\n".join([before + BEGIN, *tables[:-1], END])
    return found | {folder / "README.md": page + rest.partition(END)[2]}


def main(arguments: list[str] | None = None) -> int:
    """`emosafe params [WORD ...]`: settings with default, values and meaning; with --write, the files that list them."""
    parser = argparse.ArgumentParser(prog="emosafe params", description="Find a setting of a study or a model.")
    parser.add_argument("words", nargs="*", help="only settings whose path or meaning holds all these words")
    parser.add_argument("--write", action="store_true", help="write params/README.md and the files beside it")
    options = parser.parse_args(arguments)
    if options.write:
        for path, text in pages().items():
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
        return 0
    found = [
        f"{path}: {written(value_of(spec))}  # in a file of {folder}/\n    {meaning_of(spec)}"
        for schema, folder in FOLDERS.items()
        for path, spec in settings_of(schema).items()
        if "$ref" not in spec and all(word.lower() in f"{path} {spec['description']}".lower() for word in options.words)
    ]
    if not found:
        raise ParameterError("params", "no setting holds these words", "use fewer; `emosafe params` lists all settings")
    print("\n".join(found))
    return 0
