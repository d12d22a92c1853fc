"""Seconds and memory against rows: own data through the library steps of notebooks 01 to 04, and `emosafe classify`.

Whoever brings ten times the rows wants to know what that costs, and whether a stream of messages stays as small as it
began. Every figure comes from a process of its own, after a pass over a few rows that is not counted, since imports do
not grow. An exponent is b in processor seconds = a * rows^b from one size to the next: 1 is linear. The settings are those
of the real study for nano-1, without balance between sources and five shots, in one wording. Some of them cap what 02, 03
and 04 read, or say how little 04 may do, so these grow less than their rows do: `capped by` names them. Of 04 one training
run of each task is taken, with its scores; classify reads a file in both tasks with the exported ONNX graphs in fp32.

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
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from operator import attrgetter
from pathlib import Path

# A second thread that waits for the next small product in a loop would be counted as work.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from classify import texts
from reporting import clocked, exponents, in_own_process, machine, publish, rounds, versions

from emosafe_lib import cli
from emosafe_lib.study.machine import peak_memory_mb

RESULTS = Path(__file__).parent / "results" / "growth.json"
ROWS, WARM_ROWS, MODEL = (1_000, 10_000, 100_000), 80, "nano-1"
STREAM, BOUND = "classify", 1.2  # so many times the memory for the most messages as for the fewest is still bounded
CAPS = {"02": "augmentation.max_rows", "03": "prompting.evaluation_rows prompting.validation_rows"}
CAPS["04"] = "finetuning.train_rows finetuning.validation_rows finetuning.min_steps"


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
    found = {name: attrgetter(name)(study(Path(), 0)) for name in CAPS.get(step[:2], "").split()}
    return {"capped by": found} if found else {}


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
    """Zero- and few-shot in the study's first wording, on validation and test rows; other wordings would grow alike."""
    from emosafe_lib.models.precision import use_threads
    from emosafe_lib.prompting import backends, scoring
    from emosafe_lib.study.parameters import load_model
    from emosafe_lib.study.rows import read_rows, take

    use_threads(load_model(MODEL))
    merged, backend = read_rows(home / f"rows-{rows}.parquet"), backends.open_backend(load_model(MODEL))
    # Whether five of each class fit into this model's context hangs on which rows are drawn.
    settings = study(home, rows).prompting
    settings = settings.model_copy(update={"five_shots": False, "variants": settings.variants[:1]})
    for asked in scoring.pose_all(backend, settings, merged)[0]:
        for split, cap in (("validation", settings.validation_rows), ("test", settings.evaluation_rows)):
            scoring.score_rows(backend, asked, take(merged, split, cap, originals_only=True))


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
    command = ["classify", "--model", str(home / "exported"), "--runtime", "onnx"]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        if cli.main([*command, "--file", str(home / f"messages-{rows}.jsonl")]):
            raise SystemExit("emosafe classify failed")


STEPS = {"01 merge": merge_own, "02 re-telling": tell_again, "03 prompting": prompt, "04 fine-tuning": train}
STEPS[STREAM] = classify


def measure(step: str, home: Path, rows: int) -> dict:
    """Seconds of a step, by the clock and of processor time, and the peak memory of this process in MiB."""
    STEPS[step](home, WARM_ROWS)
    _, clock, processor = clocked(lambda: STEPS[step](home, rows))
    return {"seconds": clock, "processor_seconds": processor, "peak_mb": peak_memory_mb()}


def table(step: str, runs: dict[int, dict], settings: dict) -> list[dict]:
    """A step's figures by its numbers of rows, as rows of the results file; the last two say how they grow."""
    figures = {rows: {key: round(value, 3) for key, value in run.items()} for rows, run in runs.items()}
    found = [{"case": f"{step}, {n} rows", "ours": run.pop("seconds"), "unit": "s"} | run for n, run in figures.items()]
    few, most = min(runs), max(runs)
    if few < most:
        slopes = exponents(list(runs), [run["processor_seconds"] for run in runs.values()])
        slope = {"ours": slopes[-1], "unit": "b in processor seconds = a * rows^b"}
        found.append({"case": f"{step}, exponent of the last two sizes"} | slope | {"exponents": slopes})
        memory = round(runs[most]["peak_mb"] / runs[few]["peak_mb"], 3)
        found.append({"case": f"{step}, peak memory of {most} rows by that of {few}", "ours": memory, "unit": "times"})
        more = (runs[most]["peak_mb"] - runs[few]["peak_mb"]) / (most - few) * 1e5
        found[-1] |= {"mib_per_100k_rows": round(more, 2)}
        found[-1] |= {"bounded": memory <= BOUND} if step == STREAM else {}
    return [case | {"peer": None, "peer_name": "", "ratio": None, "limit_share": None} | settings for case in found]


def benchmark(home: Path, sizes: list[int], repeats: int) -> Iterator[dict]:
    """All steps at all sizes, medians of some runs each, as rows of the results file."""
    for rows in sorted({WARM_ROWS, *sizes}):
        write_inputs(home, rows)
    for step in STEPS:
        if step == STREAM:
            train(home, WARM_ROWS, home / "exported")
        run = partial(in_own_process, __file__, "--one", step, home, "--rows")
        every = rounds({rows: partial(run, rows) for rows in sizes}, repeats)
        runs = {n: {key: statistics.median(run[key] for run in each) for key in each[0]} for n, each in every.items()}
        found = table(step, runs, caps(step))
        print(*found, sep="\n", file=sys.stderr, flush=True)
        yield from found


def main() -> None:
    """Measure all steps and write the results by rename."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=lambda given: sorted({int(n) for n in given.split(",")}), default=list(ROWS))
    parser.add_argument("--repeats", type=int, default=3, help="of steps that take minutes; no peer, no ratio")
    parser.add_argument("--print", action="store_true", help="print instead of writing the result file")
    parser.add_argument("--one", nargs=2, metavar=("STEP", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]), options.rows[0])))
        return
    with tempfile.TemporaryDirectory() as home:
        rows = list(benchmark(Path(home), options.rows, options.repeats))
    threads = {"threads": os.environ.get("OMP_NUM_THREADS", "default")}
    packages = versions("python", "torch", "transformers", "peft", "datasets", "onnxruntime", "tokenizers")
    publish({"machine": machine() | threads, "versions": packages, "rows": rows}, RESULTS, options.print)


if __name__ == "__main__":
    main()
