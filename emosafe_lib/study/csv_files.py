"""Tables on disk that people open in a spreadsheet.

Two dangers live there. A cell that starts with `=` or `@` runs as a formula, so text cells are disarmed. And an empty
cell is read as zero by many a formula, so a number that is undefined is written as the word `undefined`.
"""

from pathlib import Path

import pandas as pd

from emosafe_lib.study.files import replacing

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
NUMBER_COLUMNS = ("value", "low", "high", "p", "p_holm")
UNDEFINED_WORD = "undefined"


def spreadsheet_safe(table: pd.DataFrame) -> pd.DataFrame:
    """A copy in which text that would run as a formula starts with an apostrophe; numbers stay numbers."""
    return table.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_STARTS) else cell)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as spreadsheet-safe CSV, by rename; NaN in a column of `NUMBER_COLUMNS` becomes `undefined`."""
    safe = spreadsheet_safe(table)
    for column in [name for name in NUMBER_COLUMNS if name in safe]:
        numbers = safe[column]
        safe[column] = numbers.map(lambda value: UNDEFINED_WORD if pd.isna(value) else f"{value:.6g}").astype(object)
    with replacing(path) as partial:
        safe.to_csv(partial, index=False, lineterminator="\n", float_format="%.6g")
    return Path(path)


def read_csv(path: Path) -> pd.DataFrame:
    """Read what `write_csv` wrote: `undefined` is NaN again, an empty text cell is empty text."""
    table = pd.read_csv(path, keep_default_na=False, na_values={name: [UNDEFINED_WORD] for name in NUMBER_COLUMNS})
    numeric = [name for name in ("parameters", *NUMBER_COLUMNS) if name in table]
    table[numeric] = table[numeric].apply(pd.to_numeric, errors="coerce")
    return table
