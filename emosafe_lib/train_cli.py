"""One training run from the command line, for several processes: what `accelerate launch` starts.

    accelerate launch --multi_gpu --num_processes 2 -m emosafe_lib.train_cli --study real --model nano-4 \\
        --task safety --seed 0 --rows ROWS.parquet --folder RUNS

accelerate's `--multi_gpu` is also what starts several processes on CPUs; its `--cpu` starts one, whatever their number.
Each process takes its share of the batches and gradients are averaged, so N processes with one batch each take the
steps of one process that accumulates N batches. Given notebook 04's folder, the finished run is found there and not
trained again.
"""

import argparse
import json
import sys
from pathlib import Path

from emosafe_lib.errors import EmosafeError
from emosafe_lib.params import load_model, load_study
from emosafe_lib.taxonomy import TASKS


def main(arguments: list[str] | None = None) -> int:
    """Train, and print the losses per epoch from the main process; 1 and one line on standard error on failure."""
    parser = argparse.ArgumentParser(prog="emosafe train", description=__doc__.splitlines()[0])
    for name in ("study", "model", "rows", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        from accelerate import PartialState

        from emosafe_lib.finetune import finetune
        from emosafe_lib.rows import read_rows

        model, study = load_model(options.model), load_study(options.study)
        rows = read_rows(Path(options.rows))
        result = finetune(model, study, rows, options.task, options.seed, Path(options.folder))
    except EmosafeError as error:
        print(error, file=sys.stderr)
        return 1
    if PartialState().is_main_process:
        print(json.dumps(result.history))
    return 0


if __name__ == "__main__":
    sys.exit(main())
