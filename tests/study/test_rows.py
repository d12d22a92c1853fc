"""Rows travel through Parquet and `datasets` without a cell, a type or a file changing."""

import os
import subprocess
import sys

import pandas as pd
import pytest
import tiny_models

from emosafe_lib.data.card import rows_sha256
from emosafe_lib.study.errors import MergeError
from emosafe_lib.study.rows import as_dataset, as_table, held_by, read_rows, row_features, write_rows
from emosafe_lib.study.taxonomy import CATEGORIES, ROW_COLUMNS, SAFETY_LEVELS, SPLITS

ROWS = tiny_models.make_rows()[list(ROW_COLUMNS)]


def with_nothing_as_none(rows):
    return rows.astype(object).where(rows.notna(), None)


def test_a_round_trip_gives_the_same_rows_in_the_same_order(tmp_path):
    back = with_nothing_as_none(read_rows(write_rows(ROWS, tmp_path / "rows.parquet")))
    assert back["id"].tolist() == ROWS["id"].tolist() and list(back) == list(ROW_COLUMNS)
    assert rows_sha256(back) == rows_sha256(with_nothing_as_none(ROWS))


def test_difficult_cells_survive(tmp_path):
    hard = ["None", "NA", "007", "", "a\nb", "👨‍👩‍👧", "=1+1"]
    rows = ROWS.iloc[: len(hard)].assign(text=hard, emotion=[None, "", *hard[2:]])
    back = read_rows(write_rows(rows, tmp_path / "rows.parquet"))
    assert back["text"].tolist() == hard and with_nothing_as_none(back)["emotion"].tolist() == [None, "", *hard[2:]]


def test_labels_are_classes_on_disk_and_words_in_the_table(tmp_path):
    path = write_rows(ROWS, tmp_path / "rows.parquet")
    assert pd.read_parquet(path)["safety"].iloc[0] == SAFETY_LEVELS.index(ROWS["safety"].iloc[0])
    features = as_dataset(ROWS).features
    assert features == row_features() and tuple(features["split"].names) == SPLITS
    assert features["categories"].length == len(CATEGORIES)
    assert as_table(as_dataset(ROWS))["safety"].tolist() == ROWS["safety"].tolist()


def test_a_file_without_rows_has_the_same_types(tmp_path):
    full, none = (write_rows(part, tmp_path / f"{len(part)}.parquet") for part in (ROWS, ROWS.iloc[:0]))
    assert read_rows(full, none).dtypes.equals(read_rows(full).dtypes) and len(read_rows(none)) == 0


@pytest.mark.parametrize(
    ("column", "value"), [("safety", "dangerous"), ("split", None), ("origin", ""), ("text", None), ("group", None)]
)
def test_a_cell_that_no_row_may_hold_is_refused_by_id_and_column(tmp_path, column, value):
    rows = ROWS.assign(**{column: [value, *ROWS[column][1:]]})
    with pytest.raises(MergeError, match=f"id {ROWS['id'].iloc[0]}, column {column}: is empty or no value"):
        write_rows(rows, tmp_path / "rows.parquet")
    assert not list(tmp_path.iterdir())


def test_files_of_another_kind_are_refused(tmp_path):
    ROWS.drop(columns="group").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(MergeError, match="a.parquet: columns missing: group"):
        read_rows(tmp_path / "a.parquet")
    ROWS.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(MergeError, match="b.parquet: columns of another type: .*safety.*; rerun notebook 01"):
        read_rows(tmp_path / "b.parquet")


def test_reading_and_writing_leave_no_file_in_a_cache_and_print_nothing(tmp_path):
    write_rows(ROWS, tmp_path / "rows.parquet")
    (tmp_path / "home").mkdir()
    code = (
        "import sys; from emosafe_lib.study.rows import read_rows, write_rows\n"
        "write_rows(read_rows(sys.argv[1]), sys.argv[1])"
    )
    home = {name: str(tmp_path / "home") for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows.parquet")], env=os.environ | home, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list((tmp_path / "home").rglob("*"))


def test_a_source_holds_its_rows_those_it_shares_and_what_was_told_anew_of_either():
    rows = pd.DataFrame(
        [
            ("a", "one", "calm", None),
            ("b", "two", "one=calm | two=mild", None),
            ("c", "two", "four=x | one.1=calm | one1=calm", None),
            ("d", "two", "reinterpretation: anger", "b"),
            ("e", "two", "reinterpretation: anger", "c"),
            ("f", "two", "unsafe; one=1", None),
        ],
        columns=["id", "source", "source_label", "parent_id"],
    )
    assert rows["id"][held_by(rows, "one")].tolist() == ["a", "b", "d"]
    assert rows["id"][held_by(rows, "one.1")].tolist() == ["c", "e"]
    assert rows["id"][held_by(rows, "two")].tolist() == ["b", "c", "d", "e", "f"]
