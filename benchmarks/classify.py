"""Rows per second of a classifier's runtimes, against the transformers pipeline at its best batch size, in one run.

All read the same texts with the same trained weights, each side in a process of its own. The peers are
`pipeline("text-classification")` as it comes, in fp32, and the same pipeline over the fp32 ONNX graph, as optimum sets it
up; each at the batch size at which it is fastest here. The model is trained on a few rows of the sample; texts are
sample texts joined until their lengths follow the real sources' (log-normal, median about 35 tokens, cut at 128). Rates are
given by the clock and by processor time: on a machine that others use too, only the second is a fair comparison.
`same_labels` is the share of texts to which both sides give the same label; what int8, and bf16 with close calls in fp32,
cost in macro-F1 is in notebook 06.

Whoever asks about one message waits for a program to start: `first answer` is a whole process, from its start to its end,
of `emosafe classify` with each ONNX graph and of the pipeline, with the memory that it took at its peak. The export has
both tasks, as notebook 04 makes it, so that ours reads the message with two networks; the pipeline reads it with one.

    python benchmarks/classify.py                           # writes benchmarks/results/classify.json
    python benchmarks/classify.py --cases nano-4 --results nano-4.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
from reporting import clocked, in_own_process, machine, publish, ratio, rounds, versions

from emosafe_lib.study.machine import peak_memory_mb

RESULTS = Path(__file__).parent / "results" / "classify.json"
CASES, TRAIN_ROWS = ("minilm",), 200
PIPELINE_BATCHES = (1, 2, 4, 8, 16, 32)
RUNTIMES = ("torch", "bf16+fp32", "onnx", "onnx-int8")
LONGEST, TOKENS_PER_WORD = 128, 1.3  # the sample study cuts there
PROBED_ROWS, PROBES = 60, 2
THREADS = os.environ.get("OMP_NUM_THREADS", "1")  # of each side, but for first answers, which come as they come
OVER_ONNX = "onnx:"  # in front of a batch size: the pipeline over the ONNX graph
# What `make` sets for its own; whoever types `emosafe classify` has neither.
OF_MAKE = ("GLIBC_TUNABLES", "OMP_NUM_THREADS")
MESSAGE = "I passed my exam and called my sister to tell her."


def sample():
    """The embedded sample's merged rows."""
    from emosafe_lib.data import merge
    from emosafe_lib.study.parameters import load_study

    return merge.merge(load_study("sample").data).rows


def texts(rows: int) -> list[str]:
    """Sample texts, joined and cut to log-normal lengths; the same ones each time."""
    from emosafe_lib.models.backbone import ASSETS

    lines = (ASSETS / "sample" / "sample.jsonl").read_text(encoding="utf-8").splitlines()
    words = " ".join(json.loads(line)["text"] for line in lines).split()
    random = np.random.default_rng(0)
    counts = np.clip(random.lognormal(np.log(35), 0.9, rows) / TOKENS_PER_WORD, 3, LONGEST).astype(int)
    starts = random.integers(0, len(words) - LONGEST, rows)
    return [" ".join(words[start : start + count]) for start, count in zip(starts, counts, strict=True)]


def make_export(case: str, folder: Path) -> None:
    """Train a classifier a task for one pass over a few rows, and export both with their ONNX files."""
    from emosafe_lib.finetuning import finetune
    from emosafe_lib.ondevice import export, onnx_graphs
    from emosafe_lib.study.parameters import load_model, load_study
    from emosafe_lib.study.taxonomy import TASKS

    model, study, rows = load_model(case), load_study("sample"), sample()
    changes = {
        "max_length": LONGEST,
        "train_rows": TRAIN_ROWS,
        "validation_rows": TRAIN_ROWS,
        "min_steps": 1,
        "epochs": 1.0,
    }
    settings = study.finetuning.model_copy(update=changes)
    study = study.model_copy(update={"finetuning": settings})
    results = {task: finetune.finetune(model, study, rows, task, 0, folder / "runs") for task in TASKS}
    export.export(model, results, rows, LONGEST, folder / case)
    onnx_graphs.add_onnx(folder / case)


def over_onnx(network, folder: Path):
    """The network with its forward pass by onnxruntime, on as many threads as PyTorch has: what optimum's classes do."""
    import onnxruntime
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def forward(input_ids, attention_mask, **_):
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return SequenceClassifierOutput(logits=torch.from_numpy(session.run(None, inputs)[0]))

    network.forward = forward
    return network


def read_with_pipeline(folder: Path, side: str):
    """A function that labels messages with the transformers pipeline; nothing of our checks of an export is in its time."""
    from transformers import AutoTokenizer, pipeline

    from emosafe_lib.models.classifier import classifier_class
    from emosafe_lib.ondevice.exported import family_of

    facts = json.loads((folder / "sealed.json").read_text(encoding="utf-8"))
    network_class = classifier_class(facts["pooling"], family_of(folder))
    network, tokenizer = network_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    network = over_onnx(network, folder) if side.startswith(OVER_ONNX) else network
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    read = pipeline("text-classification", model=network, tokenizer=tokenizer, device="cpu")
    batch = int(side.removeprefix(OVER_ONNX))
    options = {"batch_size": batch, "truncation": True, "max_length": LONGEST}
    return lambda messages: [answer["label"] for answer in read(messages, **options)]


def read_with_ours(folder: Path, runtime: str):
    """A function that labels messages with one of our runtimes."""
    from emosafe_lib.ondevice.runtimes import open_task
    from emosafe_lib.study.taxonomy import SAFETY_LEVELS

    part = open_task(folder, runtime)
    return lambda messages: [SAFETY_LEVELS[best] for best in part.probabilities(messages)[0].argmax(axis=1)]


def measure(folder: Path, side: str, rows: int) -> dict:
    """Rows per second of one side in this process, after a short pass to warm up, and its labels."""
    from emosafe_lib.models.backbone import quiet
    from emosafe_lib.models.precision import use_threads
    from emosafe_lib.study.parameters import load_model

    use_threads(load_model(folder.parent.name))
    messages = texts(rows)
    make = read_with_ours if side in RUNTIMES else read_with_pipeline
    with quiet():
        read = make(folder, side)
        read(messages[:16])
        labels, clock, processor = clocked(lambda: read(messages))
    return {"clock": rows / clock, "processor": rows / processor, "labels": labels}


def answer_once(folder: Path, side: str) -> None:
    """One message, as whoever starts a program for it would read it; prints the peak memory of this process in MiB."""
    if side in RUNTIMES:
        from emosafe_lib import cli

        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            if cli.main(["classify", "--model", str(folder), "--runtime", side, MESSAGE]):
                raise SystemExit("emosafe classify failed")
    else:
        read_with_pipeline(folder / "safety", side)([MESSAGE])
    print(peak_memory_mb())


def first_answer(folder: Path, side: str) -> dict[str, float]:
    """Seconds and peak MiB of a fresh process that answers once, as in a shell where nothing is set."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    started = time.perf_counter()
    said = subprocess.check_output([sys.executable, __file__, "--first", str(folder), side], text=True, env=environment)
    return {"s": time.perf_counter() - started, "MiB at the peak": float(said.splitlines()[-1])}


def first_answers(case: str, folder: Path, repeats: int) -> list[dict]:
    """Medians of interleaved first answers, the ONNX graphs against the pipeline, as rows of the results file."""
    import pandas as pd

    *runtimes, peer = sides = ("onnx", "onnx-int8", "1")
    runs = rounds({side: partial(first_answer, folder, side) for side in sides}, repeats + 1)
    counted = {side: pd.DataFrame(found[1:]) for side, found in runs.items()}  # the first fills the page cache
    return [
        {
            "case": f"{case} {ours}, first answer in both tasks",
            "ours": round(counted[ours][unit].median(), 2),
            "unit": unit,
        }
        | {"peer": round(theirs.median(), 2), "peer_name": "transformers pipeline('text-classification')"}
        | {"ratio": round(ratio(theirs, counted[ours][unit]), 2), "limit_share": None, "repeats": repeats}
        for ours in runtimes
        for unit, theirs in counted[peer].items()
    ]


def best_batch(folder: Path, over: str = "") -> str:
    """A pipeline's fastest batch size here, by the best of its probes; they go round, lest one meets a bad minute."""
    rates = {f"{over}{batch}": [] for batch in PIPELINE_BATCHES}
    for _ in range(PROBES):
        for side, found in rates.items():
            found.append(measure(folder, side, PROBED_ROWS)["processor"])
    return max(rates, key=lambda side: max(rates[side]))


def compare(case: str, folder: Path, rows: int, repeats: int) -> list[dict]:
    """Medians of interleaved runs, as rows of the results file; runtimes are those that suit this processor."""
    from emosafe_lib.models.precision import half_precision
    from emosafe_lib.models.seals import read_seal
    from emosafe_lib.ondevice.exports import MIXED, WEIGHTS

    make_export(case, folder)
    at = folder / case / "safety"
    run = partial(in_own_process, __file__, OMP_NUM_THREADS=THREADS)
    best, over = (run("--probe", at, kind) for kind in ("", OVER_ONNX))
    mixes = half_precision() and "bf16" in read_seal(at, unread=WEIGHTS)
    runtimes = [runtime for runtime in RUNTIMES if mixes or runtime != MIXED]
    sides = [best, over, *runtimes]
    runs = rounds({side: partial(run, "--one", at, side, "--rows", rows) for side in sides}, repeats)
    labels = {side: found[0]["labels"] for side, found in runs.items()}
    name = "transformers pipeline('text-classification') in fp32{}, batch {}, its best of " + f"{[*PIPELINE_BATCHES]}"
    pairs = [(runtime, best, name.format("", best)) for runtime in runtimes]
    pairs += [
        (runtime, over, name.format(" over the fp32 ONNX graph", over.removeprefix(OVER_ONNX)))
        for runtime in runtimes
        if runtime.startswith("onnx")
    ]
    pairs += [("onnx-int8", "torch", "ours in fp32 PyTorch")]
    found = []
    for ours, peer, name in pairs:
        same = float(np.mean([a == b for a, b in zip(labels[ours], labels[peer], strict=True)]))
        for key, unit in (("processor", "rows per processor second"), ("clock", "rows/s")):
            mine, theirs = ([run[key] for run in runs[side]] for side in (ours, peer))
            found.append(
                {"case": f"{case} {ours}, {key}", "ours": round(statistics.median(mine), 1), "unit": unit}
                | {"peer": round(statistics.median(theirs), 1), "peer_name": name}
                | {"ratio": round(ratio(mine, theirs), 2), "limit_share": None}
                | {"same_labels": round(same, 4), "rows": rows, "repeats": repeats}
            )
    return found + first_answers(case, folder / case, repeats)


def main() -> None:
    """Run the comparison and write the results by rename."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--probe", nargs=2, metavar=("FOLDER", "OVER"), help=argparse.SUPPRESS)
    parser.add_argument("--first", nargs=2, metavar=("FOLDER", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        answer_once(Path(options.first[0]), options.first[1])
        return
    if options.probe:
        print(json.dumps(best_batch(Path(options.probe[0]), options.probe[1])))
        return
    if options.one:
        print(json.dumps(measure(Path(options.one[0]), options.one[1], options.rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for case in options.cases for row in compare(case, Path(folder), options.rows, options.repeats)]
    packages = ("torch", "transformers", "onnxruntime", "tokenizers")
    report = {"machine": machine() | {"threads": THREADS}, "versions": versions(*packages), "rows": rows}
    publish(report, options.results)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
