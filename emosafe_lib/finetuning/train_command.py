"""Training from the command line, for models that need several processes: what `accelerate launch` starts.

    accelerate launch --config_file workflow/profiles/accelerate/llama-70b.yaml -m emosafe_lib.cli train \
        --study real --model llama-70b

This trains the runs of notebook 04 from the study's own rows into the notebook's own folder, so that the notebook finds
them finished, if it runs on the same kind of device in the same precision. What a study with `left_out: fine-tuned`
trains without one of its sources stays the notebook's. Each process takes its share
of the batches and gradients are averaged: N processes with one batch each take the steps of one process that accumulates
N batches. A run that was killed goes on with as many processes as it began with; another number is refused, while a
finished run is read by any. On CPUs, accelerate's `--multi_gpu` starts several processes; its `--cpu` starts one,
whatever their number.
"""

import argparse
import json
from pathlib import Path

from emosafe_lib.finetuning.finetune import finetune
from emosafe_lib.finetuning.plan import runs_of
from emosafe_lib.models.precision import pick_device
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.paths import outputs_root
from emosafe_lib.study.rows import read_rows, tasks_asked
from emosafe_lib.study.stage import resolve
from emosafe_lib.study.taxonomy import TASKS
from emosafe_lib.study.tries import end_tries

STAGE = "04_lora_finetuning"
ROWS = ("01_data_merge/rows.parquet", "02_chatgpt_augmentation/reinterpretations.parquet")


def places(options: argparse.Namespace, study: StudyParams, model: ModelParams) -> tuple[list[Path], Path]:
    """The row files and the folder of runs: as given, else those of the study's notebooks.

    Raises
    ------
    StageError : a row file is not there
    """
    base = outputs_root() / study.name
    rows = [Path(path) for path in options.rows] if options.rows else [base / name for name in ROWS]
    for path in rows:
        if not path.is_file():
            raise StageError(path, "is not there", "run notebooks 01 and 02 first, or name files with --rows")
    folder = base / ".work" / f"{STAGE}-{model.name}" / "runs"
    return rows, Path(options.folder) if options.folder else folder


def parser() -> argparse.ArgumentParser:
    """The options; without --task, all of the study's runs."""
    top = argparse.ArgumentParser(prog="emosafe train", description=__doc__.splitlines()[0])
    top.add_argument("--study", required=True, help="its name in params/study, or a path that ends in .yaml")
    top.add_argument("--model", required=True, help="its name in params/models, or a path that ends in .yaml")
    top.add_argument("--rows", nargs="+", help="row files; the study's own where omitted")
    top.add_argument("--folder", help="where runs are kept; notebook 04's own where omitted")
    top.add_argument("--task", choices=TASKS, help="one run of this task; all of the study's runs where omitted")
    top.add_argument("--seed", type=int, help="of the one run that --task names; 0 where omitted")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Train, and print the losses per epoch from the main process."""
    top = parser()
    options = top.parse_args(arguments)
    if options.seed is not None and not options.task:
        top.error("--seed is the seed of one run: name its --task too")
    from accelerate import PartialState

    study, model, _ = resolve(STAGE, options.study, options.model)
    # Before weights are loaded: it gives each process a GPU of its own, and FSDP a group to spread them over.
    PartialState(cpu=pick_device(model).type == "cpu")
    paths, folder = places(options, study, model)
    if not options.folder:
        end_tries(folder.parent)  # the time until this one began is no work of the notebook's
    rows = read_rows(*paths)
    asked = (
        [{"task": options.task, "seed": options.seed or 0}]
        if options.task
        else runs_of(study.finetuning, tasks_asked(rows))
    )
    for one in asked:
        result = finetune(model, study, rows, folder=folder, **one)
        if PartialState().is_main_process:
            print(json.dumps(result.history), flush=True)
    return 0
