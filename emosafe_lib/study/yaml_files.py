"""One strict reader of parameter files: YAML that means what a person reads, without tags, aliases or secrets."""

import re
from pathlib import Path

import yaml

from emosafe_lib.study.errors import ParameterError

MAX_FILE_BYTES = 64_000
SECRET_KEY = re.compile(r"(?i)(^|_)(api_?key|token|secret|password|passwd|credentials?)$")
SECRET_VALUE = re.compile(r"\b(sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[0-9A-Z]{12,})")


class StrictLoader(yaml.SafeLoader):
    """YAML with JSON's types: no dates, yes/no, octal or sixty-based numbers, tags, aliases or repeated keys."""

    yaml_implicit_resolvers: dict = {}

    def compose_node(self, parent, index):
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.constructor.ConstructorError(None, None, "tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("tag:yaml.org,2002:null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|false)$", list("tf")),
    ("tag:yaml.org,2002:int", r"^-?(?:0|[1-9][0-9]*)$", list("-0123456789")),
    ("tag:yaml.org,2002:float", r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", list("-0123456789")),
):
    StrictLoader.add_implicit_resolver(tag, re.compile(pattern), first)


def read_yaml(path: Path) -> dict:
    """Read one parameter file strictly.

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
        data = yaml.load(raw.decode("utf-8"), Loader=StrictLoader)
    except UnicodeDecodeError as error:
        raise ParameterError(path, f"not UTF-8 at byte {error.start}", "save it as UTF-8") from None
    except yaml.YAMLError as error:
        line = f"line {mark.line + 1}: " if (mark := getattr(error, "problem_mark", None)) else ""
        raise ParameterError(path, f"{line}{getattr(error, 'problem', error)}", "write plain YAML") from None
    except RecursionError:
        raise ParameterError(path, "nested too deeply", "write plain YAML") from None
    if not isinstance(data, dict):
        raise ParameterError(path, "is not a mapping of keys to values", "start with a line such as `name: sample`")
    return data


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
