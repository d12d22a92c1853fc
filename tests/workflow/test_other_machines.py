"""The reduced study through `emosafe run study`, as on another machine: it ends with its pages, and with a row or a reason
for every precision. `tests/machines` asks the same of more machines in small.
"""

import json
import os

import chaos
import pandas as pd
import pytest
from simulated import AVX2, broken_package

from emosafe_lib.models import precision
from emosafe_lib.models.capacity import LINEAR_BITS

MACHINES = ["avx2, bitsandbytes broken", "this machine's own"]


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_a_study_ends_with_its_pages_and_a_row_or_a_reason_for_every_precision(tmp_path, monkeypatch, machine):
    lesser = machine != MACHINES[-1]
    if not lesser and not precision.half_precision():
        pytest.skip(
            "this machine has no bf16 either: the other case differs in bitsandbytes alone, as tests/machines does"
        )
    if lesser:
        paths = [str(broken_package(tmp_path / "site", "OSError")), os.environ.get("PYTHONPATH", "")]
        for name, value in (AVX2 | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}).items():
            monkeypatch.setenv(name, value)
    world, log = chaos.real_world(tmp_path), tmp_path / "run.log"
    status = chaos.start(world, log).wait(timeout=chaos.RUN_SECONDS)
    assert status == 0, log.read_text()[-2000:]
    base = world.outputs / world.study
    assert (base / "index.html").is_file()
    table = pd.read_csv(base / "06_on_device" / "measured.csv", keep_default_na=False)
    basis = table.groupby("dtype")["basis"].unique().map(list).to_dict()
    assert set(basis) == set(LINEAR_BITS) and basis["float32"] == basis["int8"] == ["measured"]
    assert (table["reason"].str.len() > 0).eq(table["basis"] == "not measured").all()
    noted = [gap for path in base.rglob("manifest.json") for gap in json.loads(path.read_text())["not_measured"]]
    missing = {gap["name"] for gap in noted if gap["kind"] == "precision"}
    assert missing == {f"{row.model} {row.dtype}" for row in table[table["basis"] == "not measured"].itertuples()}
    assert not [gap for gap in noted if gap["kind"] in ("figure", "check") or gap["name"] == "ONNX graphs"], noted
    if lesser:
        assert basis["int4"] == basis["bfloat16"] == ["not measured"]
        assert "OSError" in table.loc[table["dtype"] == "int4", "reason"].iloc[0]
