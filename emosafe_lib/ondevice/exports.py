"""What an exported folder must hold before anything in it is run: strangers send them, and disks cut them short.

A seal says whose folder it is, but anybody can seal one. So whatever decides an answer is checked as data from outside:
the seal's facts have types and ranges, a config has sizes that its weights can fill and no key by which a library would
fetch or run something, and what fails all the same fails in one line. Nothing heavy is imported here: `emosafe classify`
reads an ONNX export with onnxruntime, tokenizers and numpy alone.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from emosafe_lib.evaluation.calibration import TEMPERATURE_RANGE
from emosafe_lib.evaluation.operating import MOST_POINTS
from emosafe_lib.models.seals import read_object, read_seal
from emosafe_lib.study.errors import EmosafeError, ModelError
from emosafe_lib.study.memory import out_of_memory
from emosafe_lib.study.taxonomy import TASK_LABELS

ONNX_FILES = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
MIXED = "bf16+fp32"
RUNTIMES = ("torch", MIXED, *ONNX_FILES)
WEIGHTS = ("model.safetensors", *ONNX_FILES.values())
DESCRIPTIONS = ("config.json", "tokenizer.json", "tokenizer_config.json")
KINDS = (("safety",), ("categories",), ("safety", "categories"), ("categories", "safety"))
POOLINGS = ("usual", "mean")
FEWEST_TOKENS, MOST_TOKENS = 8, 8192  # of a message, as in a study's `finetuning.max_length`
MOST_LOGIT = 1e6  # beyond it is no answer of a network but damage
MOST_ROWS = 10**9
MOST_SIZE = 2**24  # of whatever a config counts: the longest context known has 10 million tokens
REMEDY = "restore the whole folder, or export it again"
ATTENTION = (None, "eager", "sdpa")  # every other word may name a kernel that is fetched from the hub
# Keys and files by which a library would import code, fetch a kernel or another model, or unpack weights its own way.
HOOKS = ("auto_map", "custom_pipelines", "quantization_config", "compression_config", "use_kernels", "kernel_config")
HOOKING_FILES = ("adapter_config.json", "model.safetensors.index.json")


def weights_of(runtime: str) -> str:
    """The file of weights that a runtime reads."""
    return ONNX_FILES.get(runtime, "model.safetensors")


def read_facts(folder: Path, runtime: str) -> dict:
    """The seal of an exported task, checked; of the files of weights, only the runtime's own is read.

    Raises
    ------
    ModelError : no export, a file missing or changed, or a fact that is absent, of another type or out of range
    """
    facts = read_checked(folder, unread={*WEIGHTS} - {weights_of(runtime)})
    if weights_of(runtime) not in facts["files"]:
        how = "make it with `emosafe onnx`" if runtime in ONNX_FILES else REMEDY
        raise ModelError(folder / weights_of(runtime), "is not exported", how)
    return facts


def read_checked(folder: Path, unread: Collection[str] = WEIGHTS) -> dict:
    """The seal of an exported task with what it says checked, whatever files of weights there are.

    Raises
    ------
    ModelError : as for `read_facts`
    """
    facts = read_seal(folder, unread)
    for name in DESCRIPTIONS:
        if name not in facts["files"]:
            raise ModelError(folder / name, "is not exported", REMEDY)
    labels = TASK_LABELS.get(facts["task"]) if isinstance(facts.get("task"), str) else None
    if labels is None:
        raise ModelError(folder, f"its seal names no task out of {', '.join(TASK_LABELS)}", REMEDY)
    for name, holds in rules(facts, labels).items():
        if not holds:
            raise ModelError(folder, f"its seal has no {name} that can be used", REMEDY)
    check_config(folder, facts)
    return facts


def rules(facts: dict, labels: tuple[str, ...]) -> dict[str, bool]:
    """What a seal must say about a task with these labels, by the name of the fact: whether it does."""
    fitted = facts["fitted"] if isinstance(facts.get("fitted"), dict) else {}
    held = tasks_of(facts)
    bf16 = facts.get("bf16", {"bound": 0})
    own = {
        "safety": {
            "temperature": is_number(fitted.get("temperature"), *TEMPERATURE_RANGE),
            "alarms": is_curve(facts.get("alarms")),
        },
        "categories": {"thresholds": are_numbers(fitted.get("thresholds"), len(labels), 0, 1)},
    }
    return own[facts["task"]] | {
        "labels": facts.get("labels") == list(labels),
        "tasks": held in KINDS and facts["task"] in held,
        "model": is_name(facts.get("model")),
        "pooling": facts.get("pooling") in POOLINGS if is_name(facts.get("pooling")) else False,
        "tokenizer": is_name(facts.get("tokenizer")),
        "validation_macro_f1": is_number(facts.get("validation_macro_f1"), 0, 1),
        "max_length": is_size(fitted.get("max_length"), FEWEST_TOKENS, MOST_TOKENS),
        "log_weights": are_numbers(fitted.get("log_weights"), len(labels), -100, 100),
        "bf16 bound": isinstance(bf16, dict) and is_number(bf16.get("bound"), 0, MOST_LOGIT),
    }


def is_curve(curve: object) -> bool:
    """Whether a value is a curve of operating points, as `operating.fit_curve` makes one."""
    if not isinstance(curve, dict):
        return False
    totals = [curve.get("unsafe"), curve.get("others")]
    groups, points = [curve.get("unsafe_groups"), curve.get("other_groups")], curve.get("points")
    if not all(is_size(total, 0, MOST_ROWS) for total in totals):
        return False
    if not all(is_size(held, min(1, total), total) for held, total in zip(groups, totals, strict=True)):
        return False
    if not (isinstance(points, list) and len(points) <= MOST_POINTS and all(is_point(each, totals) for each in points)):
        return False
    return all(a[0] > b[0] and a[1] <= b[1] and a[2] <= b[2] for a, b in pairwise(points))


def is_point(point: object, totals: list[int]) -> bool:
    """Whether a value is a threshold with two counts that are within their totals."""
    if not (isinstance(point, list) and len(point) == 3 and is_number(point[0], 0, 1)):
        return False
    return all(is_size(count, 0, total) for count, total in zip(point[1:], totals, strict=True))


def tasks_of(facts: dict) -> tuple[str, ...]:
    """The tasks that an export holds, by the seal of one of them: both, unless its study asked for levels alone."""
    names = facts.get("tasks", [*TASK_LABELS])
    return tuple(names) if isinstance(names, list) and all(map(is_name, names)) else ()


def is_number(value: object, low: float, high: float) -> bool:
    """Whether a value is a number, and no truth value, within bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_size(value: object, low: int, high: int) -> bool:
    """Whether a value is a whole number within bounds."""
    return isinstance(value, int) and is_number(value, low, high)


def are_numbers(values: object, count: int, low: float, high: float) -> bool:
    """Whether a value is a list of so many numbers within bounds."""
    return isinstance(values, list) and len(values) == count and all(is_number(value, low, high) for value in values)


def is_name(value: object) -> bool:
    """Whether a value is a short text that may be printed."""
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def check_config(folder: Path, facts: dict) -> None:
    """Raise ModelError where config.json or tokenizer_config.json holds a hook, a size out of range or other labels."""
    config, tokens = (read_object(folder / name, REMEDY) for name in ("config.json", "tokenizer_config.json"))
    for name, values in (("config.json", config), ("tokenizer_config.json", tokens)):
        for key, value in entries(values):
            if key in HOOKS or ("attn_implementation" in key and value not in ATTENTION):
                raise ModelError(folder / name, f"has the key {key}, which may fetch or run something", REMEDY)
    for key, value in entries(config):
        if isinstance(value, int) and abs(value) > MOST_SIZE:
            raise ModelError(folder / "config.json", f"{key[:60]!a} is beyond {MOST_SIZE}", REMEDY)
    names = config.get("id2label")
    if names != {str(number): label for number, label in enumerate(facts["labels"])}:
        raise ModelError(folder / "config.json", "id2label names other labels than the task's", REMEDY)
    if config.get("num_labels", len(names)) != len(names):
        raise ModelError(folder / "config.json", "num_labels is not the number of labels", REMEDY)
    for name in HOOKING_FILES:
        if (folder / name).exists():
            raise ModelError(folder / name, "has no place in an export", "remove it")


def entries(value: object) -> Iterator[tuple[str, object]]:
    """All keys of a nested JSON value with what they hold; of a list in it, the items under the list's key."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        for each in inner if isinstance(inner, list) else [inner]:
            yield key, each
            yield from entries(each)


@contextmanager
def one_line(where: Path, what: str) -> Iterator[None]:
    """Whatever a library raises over a stranger's file, as one line: its class is told, and what it says is not.

    Raises
    ------
    ModelError : the block raised, or memory ran out in it
    """
    try:
        yield
    except (EmosafeError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of tokenizers is no Exception
        if out_of_memory(error):
            raise ModelError(where, "needs more memory than there is for it", "use a machine with more") from None
        raise ModelError(where, f"{what} ({type(error).__name__})", REMEDY) from None
