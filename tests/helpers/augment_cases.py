"""Rows, parameters and a process that the tests of augmentation and its benchmark share."""

import sys
from pathlib import Path

import pandas as pd

from emosafe_lib.study.parameters import AugmentationParams
from emosafe_lib.study.taxonomy import CATEGORIES, ROW_COLUMNS

NOUNS = (
    "bridge|kettle|ledger|garden|ticket|window|choir|engine|pillow|market|ladder|harbour|violin|carpet|lantern|orchard"
)
VERBS = "haunts|worries|follows|tires|annoys|puzzles|upsets|bothers|drains|confuses|irks|troubles|shakes|grieves|nags"
WORKER = """
import sys
from emosafe_lib.augment import reinterpretation
from emosafe_lib.study import rows
from emosafe_lib.study.parameters import AugmentationParams
params = AugmentationParams.model_validate_json(sys.argv[2])
reinterpretation.reinterpret(rows.read_rows(sys.argv[1]), params, sys.argv[3])
"""


def text_of(number: int) -> str:
    """A harmless sentence of fifteen words that no other number has."""
    nouns, verbs = NOUNS.split("|"), VERBS.split("|")
    one, two, verb = nouns[number % 16], nouns[number // 16 % 16], verbs[number // 256 % 15]
    return f"Whenever I pass the {one} near our {two} it {verb} me and I count {number} times."


def row(number: int, **changes) -> dict:
    """One training row, borderline, about which no category is known."""
    base = {
        "id": f"t:{number:05d}",
        "text": text_of(number),
        "source": "t",
        "source_label": "x",
        "emotion": None,
        "safety": "borderline",
        "categories": [False] * 6,
        "category_known": [False] * 6,
        "group": f"t:{number:05d}",
        "split": "train",
        "origin": "synthetic",
        "parent_id": None,
    }
    return base | changes


def rows(count: int, *others: dict) -> pd.DataFrame:
    """`count` plain rows and some others."""
    return pd.DataFrame([*(row(number) for number in range(count)), *others], columns=list(ROW_COLUMNS))


def flags(*names: str) -> list[bool]:
    """Six booleans, true for these categories."""
    return [name in names for name in CATEGORIES]


def live(url: str, **changes) -> AugmentationParams:
    """Parameters for the loopback server: rumination of borderline rows, quick to give up."""
    base = {
        "provider": "openai",
        "model": "test-model",
        "base_url": url,
        "prices": [1.0, 2.0],
        "max_share": 0.5,
        "attempts": 3,
        "deadline_seconds": 5.0,
        "attempt_seconds": 0.4,
        "concurrency": 4,
        "requests_per_minute": 1_000_000,
        "tokens_per_minute": 1_000_000_000,
        "batch_poll_seconds": 0.02,
    }
    return AugmentationParams(**(base | changes))


def command_of(rows_file: Path, params: AugmentationParams, journal_dir: Path) -> list[str]:
    """The command of a run in a process of its own, which can be killed."""
    return [sys.executable, "-c", WORKER, str(rows_file), params.model_dump_json(), str(journal_dir)]
