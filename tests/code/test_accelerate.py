"""Two processes on one machine learn what one process learns that accumulates two batches a step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import yaml

from emosafe_lib import batching, models
from emosafe_lib.rows import write_rows

SCRIPT = """
import sys
from pathlib import Path
from emosafe_lib import models, train_cli
models.ASSETS = Path(sys.argv.pop(1))
sys.exit(train_cli.main(sys.argv[1:]))
"""


def prepare(folder: Path) -> None:
    """A tiny model, rows and parameter files; dropout is off, since processes draw it apart."""
    tiny_models.make_llama(folder / "llama")
    write_rows(tiny_models.make_rows(), folder / "rows.parquet")
    (folder / "run.py").write_text(SCRIPT)
    (folder / "made.yaml").write_text(
        yaml.safe_dump(json.loads(tiny_models.study_params(epochs=3.0).model_dump_json(exclude_none=True)))
    )
    for name, accumulation in (("one", 2), ("two", 1)):
        training = {"accumulation": accumulation, "lora": {"dropout": 0.0}}
        model = tiny_models.model_params("llama", training=training).model_copy(update={"name": name})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(model.model_dump_json(exclude_none=True))))


def losses(folder: Path, name: str, processes: int) -> list[dict]:
    """The history of a run with so many processes."""
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch = launch if processes > 1 else []
    given = ["--study", folder / "made.yaml", "--model", folder / f"{name}.yaml", "--task", "safety"]
    given += ["--rows", folder / "rows.parquet", "--folder", folder / f"runs-{name}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(models.__file__).parents[1])}
    command = [sys.executable, *launch, folder / "run.py", folder, *given]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("[{")][-1])


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path):
    prepare(tmp_path)
    rows = tiny_models.make_rows()
    tokenizer = tiny_models.make_tokenizer(tmp_path / "again")
    lengths = batching.encode(tokenizer, rows.loc[rows["split"] == "train", "text"], 32).lengths
    assert len(batching.budget_batches(lengths, 64)) % 2 == 0, "an odd batch would be dealt twice"
    one, two = losses(tmp_path, "one", 1), losses(tmp_path, "two", 2)
    for key in ("train_loss", "validation_loss"):
        assert np.allclose([epoch[key] for epoch in one], [epoch[key] for epoch in two], rtol=1e-4), (one, two)
