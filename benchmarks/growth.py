"""Seconds and memory against rows: own data through the library steps of notebooks 01 to 04, and `emosafe classify`.

Whoever brings ten times the rows wants to know what that costs, and whether a stream of messages stays as small as it
began. Every figure comes from a process of its own, whose peak memory is its own, after a pass over a few rows that are
not counted: imports and the loading of libraries do not grow. An exponent is b in seconds = a * rows^b, by least squares
on the logarithms of processor seconds: 1 is linear. A study's settings cap what its slow steps read, so 02 to 04 grow
less than the rows do: `capped by` names these caps, which are those that `real` has for nano-1. The step of 04 is one
training run with its scores; of the exported nano-1 classifies the ONNX graph in fp32, both tasks.

Texts are those of `classify.py`, from the embedded synthetic sample. In own data each text's words are shuffled, or parts
of one passage would all be near-duplicates; levels and categories are drawn by lot, since nobody reads the scores.

    python benchmarks/growth.py              # writes benchmarks/results/growth.json
    python benchmarks/growth.py --rows 100,1000 --repeats 1 --print
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from classify import texts
from reporting import exponent, machine_and_load, publish, versions

RESULTS = Path(__file__).parent / "results" / "growth.json"
ROWS, WARM_ROWS, MODEL = (1_000, 10_000, 100_000), 80, "nano-1"
STREAM, BOUND = "classify", 1.2  # so many times the memory for the most messages as for the fewest is still bounded
CAPS = {"02": ("augmentation", "max_rows"), "03": ("prompting", "evaluation_rows", "validation_rows")}
CAPS["04"] = ("finetuning", "train_rows", "validation_rows", "min_steps")


def write_inputs(home: Path, rows: int) -> None:
    """A JSONL file of so many messages, and a CSV file of so many labelled rows."""
    from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS

    random, messages = np.random.default_rng(rows), texts(rows)
    with open(home / f"messages-{rows}.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in messages)
    with open(home / f"own-{rows}.csv", "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["text", "safety", *CATEGORIES])
        for text in messages:
            shuffled, flags = " ".join(random.permutation(text.split())), random.random(len(CATEGORIES)) < 0.3
            table.writerow([shuffled, random.choice(SAFETY_LEVELS), *flags.astype(int)])


def study(home: Path, rows: int):
    """The settings that the real study has for this model, on own data alone."""
    from emosafe_lib.study.parameters import DataParams, OwnSourceParams, load_study

    own = OwnSourceParams(name="mine", file="own.csv").model_copy(update={"file": str(home / f"own-{rows}.csv")})
    data = DataParams(sources=["mine"], own_sources=[own], max_class_share=1.0, balance_sources=False)
    return load_study("real").for_model(MODEL).model_copy(update={"data": data})


def caps(step: str) -> dict:
    """The settings that cap what a step reads; none caps a merge or a stream."""
    section, *names = CAPS.get(step[:2], ("data",))
    found = getattr(study(Path(), 0), section)
    return {"capped by": {f"{section}.{name}": getattr(found, name) for name in names}} if names else {}


def merge_own(home: Path, rows: int) -> None:
    """Own data from its file to the merged rows."""
    from emosafe_lib.data import merge
    from emosafe_lib.study.rows import write_rows

    write_rows(merge.merge(study(home, rows).data).rows, home / f"rows-{rows}.parquet")


def tell_again(home: Path, rows: int) -> None:
    """Re-interpretations by the offline templates."""
    from emosafe_lib.augment.reinterpretation import reinterpret
    from emosafe_lib.study.rows import read_rows, write_rows

    merged = read_rows(home / f"rows-{rows}.parquet")
    with tempfile.TemporaryDirectory() as journal:
        found = reinterpret(merged, study(home, rows).augmentation, Path(journal)).rows
    write_rows(found, home / f"told-{rows}.parquet")


def prompt(home: Path, rows: int) -> None:
    """Every way of asking that the study knows, on validation and test rows, but that of five exemplars a class: whether
    they fit into this model's context hangs on which rows are drawn.
    """
    from emosafe_lib.models.precision import use_threads
    from emosafe_lib.prompting import backends, scoring
    from emosafe_lib.study.parameters import load_model
    from emosafe_lib.study.rows import read_rows, take

    model = load_model(MODEL)
    settings = study(home, rows).prompting.model_copy(update={"five_shots": False})
    use_threads(model)
    merged, backend = read_rows(home / f"rows-{rows}.parquet"), backends.open_backend(model)
    parts = {"validation": settings.validation_rows, "test": settings.evaluation_rows}
    for asked in scoring.pose_all(backend, settings, merged)[0]:
        for split, cap in parts.items():
            scoring.score_rows(backend, asked, take(merged, split, cap, human_only=True))


def train(home: Path, rows: int, folder: Path | None = None) -> None:
    """One training run of both tasks, scored on validation and test rows; exported where a folder is given."""
    from emosafe_lib.finetuning.finetune import finetune
    from emosafe_lib.ondevice.export import export
    from emosafe_lib.study.parameters import load_model
    from emosafe_lib.study.rows import read_rows
    from emosafe_lib.study.taxonomy import TASKS

    model, chosen = load_model(MODEL), study(home, rows)
    merged = read_rows(home / f"rows-{rows}.parquet", home / f"told-{rows}.parquet")
    with tempfile.TemporaryDirectory() as runs:
        results = {task: finetune(model, chosen, merged, task, 0, Path(runs)) for task in TASKS}
        if folder:
            export(model, results, merged, chosen.finetuning.max_length, folder)


def classify(home: Path, rows: int) -> None:
    """`emosafe classify` on a file, its results thrown away."""
    from emosafe_lib import cli

    command = ["classify", "--model", str(home / "exported"), "--runtime", "onnx"]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        if cli.main([*command, "--file", str(home / f"messages-{rows}.jsonl")]):
            raise SystemExit("emosafe classify failed")


STEPS = {"01 merge": merge_own, "02 re-telling": tell_again, "03 prompting": prompt, "04 fine-tuning": train}
STEPS[STREAM] = classify


def measure(step: str, home: Path, rows: int) -> dict:
    """Seconds of a step, by the clock and of processor time, and the peak memory of this process in MiB."""
    from emosafe_lib.study.machine import peak_memory_mb

    STEPS[step](home, WARM_ROWS)
    started = time.perf_counter(), time.process_time()
    STEPS[step](home, rows)
    clock, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"seconds": clock, "processor_seconds": processor, "peak_mb": peak_memory_mb()}


def in_own_process(step: str, home: Path, rows: int) -> dict:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--one", step, str(home), "--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(step: str, runs: dict[int, dict], settings: dict) -> list[dict]:
    """A step's figures by its numbers of rows, as rows of the results file; the last two say how they grow."""
    figures = {rows: {key: round(value, 3) for key, value in run.items()} for rows, run in runs.items()}
    found = [{"case": f"{step}, {n} rows", "ours": run.pop("seconds"), "unit": "s"} | run for n, run in figures.items()]
    few, most = min(runs), max(runs)
    if few < most:
        slope = exponent(list(runs), [run["processor_seconds"] for run in runs.values()])
        memory = round(runs[most]["peak_mb"] / runs[few]["peak_mb"], 3)
        found.append({"case": f"{step}, exponent", "ours": slope, "unit": "b in processor seconds = a * rows^b"})
        found.append({"case": f"{step}, peak memory of {most} rows by that of {few}", "ours": memory, "unit": "times"})
        found[-1] |= {"bounded": memory <= BOUND} if step == STREAM else {}
    return [case | {"peer": None, "peer_name": "", "ratio": None, "limit_share": None} | settings for case in found]


def benchmark(home: Path, sizes: list[int], repeats: int) -> list[dict]:
    """All steps at all sizes, medians of some runs each."""
    for rows in {WARM_ROWS, *sizes}:
        write_inputs(home, rows)
    found = []
    for step in STEPS:
        if step == STREAM:
            train(home, WARM_ROWS, home / "exported")
        runs = {rows: [in_own_process(step, home, rows) for _ in range(repeats)] for rows in sizes}
        middle = {
            rows: {key: statistics.median(run[key] for run in each) for key in each[0]} for rows, each in runs.items()
        }
        for case in table(step, middle, caps(step)):
            print(case, file=sys.stderr, flush=True)
            found.append(case)
    return found


def main() -> None:
    """Measure all steps and write the results by rename."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda given: sorted({int(n) for n in given.split(",")}), default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--print", action="store_true", help="print instead of writing the result file")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]), options.rows[0])))
        return
    with tempfile.TemporaryDirectory() as home:
        rows = benchmark(Path(home), options.rows, options.repeats)
    threads = {"threads": os.environ.get("OMP_NUM_THREADS", "default")}
    packages = versions("python", "torch", "transformers", "peft", "datasets", "onnxruntime", "tokenizers")
    publish({"machine": machine_and_load() | threads, "versions": packages, "rows": rows}, RESULTS, options.print)


if __name__ == "__main__":
    main()
