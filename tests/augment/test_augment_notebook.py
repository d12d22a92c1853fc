"""Notebook 02 where no re-interpretation becomes a row: it says so, finishes, and hands an empty table on."""

import json

import finished_study
import pytest
import toy
from augment_cases import flags, row, rows

from emosafe_lib.study.rows import read_rows

UNSAFE = {"safety": "unsafe", "categories": flags("suicide_self_harm"), "category_known": [True] * 6}
NOTHING = {"a share of nothing": "{max_share: 0}", "no recorded reply": "{provider: replay, max_share: 0.5}"}


@pytest.mark.parametrize("augmentation", NOTHING.values(), ids=NOTHING)
def test_where_nothing_is_accepted_the_stage_finishes_with_an_empty_table(
    augmentation, tmp_path, monkeypatch, outputs, capsys
):
    checkout = toy.checkout(tmp_path / "toy")
    (checkout / "params" / "study" / "toy.yaml").write_text(toy.STUDY + f"augmentation: {augmentation}\n")
    monkeypatch.setenv("EMOSAFE_ROOT", str(checkout))
    monkeypatch.setenv("MPLBACKEND", "agg")
    merged = rows(8, row(90, split="test", **UNSAFE), row(91, **UNSAFE))
    finished_study.finish("01_data_merge", merged=merged)
    page = json.loads((toy.ROOT / "notebooks" / "02_chatgpt_augmentation.ipynb").read_text())
    names = {"display": lambda table: None}
    for cell in page["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            exec('study = "toy"' if "parameters" in cell["metadata"].get("tags", []) else source, names)
    base = outputs / "toy"
    card = json.loads((base / "augmentation_card.json").read_text())
    assert card["accepted"] == 0 and card["second_judge_agreement"] is None
    assert set(card["diversity"].values()) == {None}
    assert capsys.readouterr().out.count(names["reinterpretation"].NOTHING_ACCEPTED) >= 4
    made = base / "02_chatgpt_augmentation" / "reinterpretations.parquet"
    assert len(read_rows(made)) == 0
    together = read_rows(base / "01_data_merge" / "rows.parquet", made)
    assert together.dtypes.equals(read_rows(base / "01_data_merge" / "rows.parquet").dtypes) and len(together) == 10
