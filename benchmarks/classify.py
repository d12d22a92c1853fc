"""Rows per second of classifying, against the transformers pipeline at its best batch size, in one run.

Both read the same texts with the same trained weights, each side in a process of its own. The peer is
`pipeline("text-classification")` as it comes, at the batch size at which it is fastest here. The model is trained as the
sample study trains it; texts are sample texts joined until their lengths follow the real sources' (log-normal, median
about 35 tokens, cut at 256). Rates are given by the clock and by processor time: on a machine that others use too, only
the second is a fair comparison. `same_labels` is the share of texts to which both sides give the same label. What int8,
and bf16 with close calls in fp32, cost in macro-F1 is measured on the sample's test rows.

Whoever asks about one message waits for a program to start: `first answer` is a whole process, from its start to its end,
of `emosafe classify` with each ONNX graph and of the pipeline, with the memory that it took at its peak.

    python benchmarks/classify.py            # writes benchmarks/results/classify.json
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
from reporting import machine, publish, ratio, rounds, versions

from emosafe_lib.study.machine import peak_memory_mb

RESULTS = Path(__file__).parent / "results" / "classify.json"
CASES = ("minilm", "nano-4")
PIPELINE_BATCHES = (1, 2, 4, 8, 16, 32, 128)
RUNTIMES = ("torch", "bf16+fp32", "onnx", "onnx-int8")
LONGEST, TOKENS_PER_WORD = 256, 1.3
PROBED_ROWS, PROBES = 100, 2
THREADS = os.environ.get("OMP_NUM_THREADS", "1")  # of each side, but for first answers, which come as they come
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
    """Train the trinary classifier, export it with its ONNX files, and note what each runtime costs in macro-F1."""
    from emosafe_lib.finetuning import finetune
    from emosafe_lib.ondevice import export, onnx_graphs
    from emosafe_lib.ondevice import runtimes as ondevice_runtimes
    from emosafe_lib.study.parameters import load_model, load_study
    from emosafe_lib.study.rows import take

    model, study, rows = load_model(case), load_study("sample"), sample()
    settings = study.finetuning.model_copy(update={"max_length": LONGEST})
    study = study.model_copy(update={"finetuning": settings})
    result = finetune.finetune(model, study, rows, "safety", 0, folder / "runs")
    export.export(model, {"safety": result}, rows, LONGEST, folder / case)
    onnx_graphs.add_onnx(folder / case)
    compared = ondevice_runtimes.compare_runtimes(folder / case, take(rows, "test", originals_only=True))
    compared.to_json(folder / f"{case}.json", orient="records")


def read_with_pipeline(folder: Path, batch: int):
    """A function that labels messages with the transformers pipeline; nothing of our checks of an export is in its time."""
    from transformers import AutoTokenizer, pipeline

    from emosafe_lib.models.classifier import classifier_class
    from emosafe_lib.ondevice.exported import family_of

    facts = json.loads((folder / "sealed.json").read_text(encoding="utf-8"))
    network_class = classifier_class(facts["pooling"], family_of(folder))
    network, tokenizer = network_class.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    read = pipeline("text-classification", model=network, tokenizer=tokenizer, device="cpu")
    options = {"batch_size": batch, "truncation": True, "max_length": LONGEST}
    return lambda messages: [answer["label"] for answer in read(messages, **options)]


def read_with_ours(folder: Path, runtime: str):
    """A function that labels messages with one of our runtimes."""
    from emosafe_lib.ondevice.classify import TOKENS_PER_BATCH
    from emosafe_lib.ondevice.runtimes import open_task
    from emosafe_lib.study.taxonomy import SAFETY_LEVELS

    part = open_task(folder, runtime)
    return lambda messages: [
        SAFETY_LEVELS[best] for best in part.probabilities(messages, TOKENS_PER_BATCH)[0].argmax(axis=1)
    ]


def measure(folder: Path, side: str, rows: int) -> dict:
    """Rows per second of one side in this process, after a short pass to warm up, and its labels."""
    from emosafe_lib.models.backbone import quiet
    from emosafe_lib.models.precision import use_threads
    from emosafe_lib.study.parameters import load_model

    use_threads(load_model(folder.parent.name))
    messages = texts(rows)
    make = read_with_ours if side in RUNTIMES else read_with_pipeline
    kind = side if side in RUNTIMES else int(side)
    with quiet():
        read = make(folder, kind)
        read(messages[:16])
        started = time.perf_counter(), time.process_time()
        labels = read(messages)
        clock, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"clock": rows / clock, "processor": rows / processor, "labels": labels}


def in_own_process(folder: Path, side: str, rows: int) -> dict:
    """`measure` in a fresh process, in which every side has as many threads."""
    command = [sys.executable, __file__, "--one", str(folder), side, "--rows", str(rows)]
    environment = os.environ | {"OMP_NUM_THREADS": THREADS}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def answer_once(folder: Path, side: str) -> None:
    """One message, as whoever starts a program for it would read it; prints the peak memory of this process in MiB."""
    if side in RUNTIMES:
        from emosafe_lib import cli

        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            if cli.main(["classify", "--model", str(folder), "--runtime", side, MESSAGE]):
                raise SystemExit("emosafe classify failed")
    else:
        read_with_pipeline(folder / "safety", int(side))([MESSAGE])
    print(peak_memory_mb())


def first_answer(folder: Path, side: str) -> dict[str, float]:
    """Seconds and peak MiB of a fresh process that answers once."""
    started = time.perf_counter()
    said = subprocess.check_output([sys.executable, __file__, "--first", str(folder), side], text=True)
    return {"s": time.perf_counter() - started, "MiB at the peak": float(said.splitlines()[-1])}


def first_answers(case: str, folder: Path, repeats: int) -> list[dict]:
    """Medians of interleaved first answers, the ONNX graphs against the pipeline, as rows of the results file."""
    import pandas as pd

    *runtimes, peer = sides = ("onnx", "onnx-int8", "1")
    runs = rounds({side: partial(first_answer, folder, side) for side in sides}, repeats + 1)
    counted = {side: pd.DataFrame(found[1:]) for side, found in runs.items()}  # the first fills the page cache
    return [
        {"case": f"{case} {ours}, first answer", "ours": round(counted[ours][unit].median(), 2), "unit": unit}
        | {"peer": round(theirs.median(), 2), "peer_name": "transformers pipeline('text-classification')"}
        | {"ratio": round(ratio(theirs, counted[ours][unit]), 2), "limit_share": None, "repeats": repeats}
        for ours in runtimes
        for unit, theirs in counted[peer].items()
    ]


def best_batch(folder: Path) -> str:
    """The pipeline's fastest batch size here, by the best of its probes; they go round, lest one meets a bad minute."""
    rates = {str(batch): [] for batch in PIPELINE_BATCHES}
    for _ in range(PROBES):
        for batch, found in rates.items():
            found.append(in_own_process(folder, batch, PROBED_ROWS)["processor"])
    return max(rates, key=lambda batch: max(rates[batch]))


def compare(case: str, folder: Path, rows: int, repeats: int) -> list[dict]:
    """Medians of interleaved runs, as rows of the results file; runtimes are those that suit this processor."""
    from emosafe_lib.ondevice.runtimes import runtimes_here

    make_export(case, folder)
    at = folder / case / "safety"
    best, runtimes = best_batch(at), runtimes_here(at)
    sides = [best, *runtimes]
    runs = rounds({side: partial(in_own_process, at, side, rows) for side in sides}, repeats)
    labels = {side: found[0]["labels"] for side, found in runs.items()}
    peer_name = f"transformers pipeline('text-classification'), batch {best}, its best of {list(PIPELINE_BATCHES)}"
    pairs = [(runtime, best, peer_name) for runtime in runtimes]
    pairs += [("onnx-int8", "torch", "fp32 PyTorch, in batches")]
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
    found += first_answers(case, folder / case, repeats)
    return found + costs(case, json.loads((folder / f"{case}.json").read_text()))


def costs(case: str, compared: list[dict]) -> list[dict]:
    """Size and macro-F1 of every runtime that this processor can run beside fp32 PyTorch, on the sample's test rows."""
    plain, *others = [row for row in compared if row["basis"] == "measured"]
    kinds = {"file_mb": "MiB of the file", "macro_f1": "macro-F1 on the sample's test rows"}
    return [
        {"case": f"{case} {row['runtime']}, {key}", "ours": round(row[key], 4), "peer": round(plain[key], 4)}
        | {"unit": unit, "peer_name": "fp32 PyTorch", "ratio": round(row[key] / plain[key], 3), "limit_share": None}
        | {"same_labels": row["agreement"], "rows": row["rows"]}
        for row in others
        for key, unit in kinds.items()
    ]


def main() -> None:
    """Run the comparison and write the results by rename."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--first", nargs=2, metavar=("FOLDER", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        answer_once(Path(options.first[0]), options.first[1])
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
