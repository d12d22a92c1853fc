"""Exact label scores with every token touched once, against lm-evaluation-harness and a plain loop, in one run.

The same network, the same token ids of prompt, texts and labels for all three: shapes of the ladder with random weights,
a few-shot prefix of about 1,000 tokens, texts of about 110 tokens made of everyday words. The peers' work is
proportional to the number of texts, so in each pair a peer scores its share of them and its time is scaled up, while
ours always scores all of them, prefix included. Pairs alternate in order, with both limits in the same round; what is
given is their median, by the clock and by processor time: on a machine that others use too, only the second is a fair
comparison.

The forward-only limit is the same number of tokens, at the same place behind the same prefix, through the network in
equal sequences: no padding, no tree, no output layer. Ours may pass it, since its last layer works at the read places
alone. The stricter one lets the tokens look at no prefix at all, which no exact way can do: attention to 1,000 tokens
costs a narrow network as much as all its weights.

    python benchmarks/scoring.py                       # writes benchmarks/results/scoring.json, a quarter of an hour or more
    python benchmarks/scoring.py --quick --print       # a minute, tiny sizes, writes nothing
"""

import argparse
import logging
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":  # whoever imports a function from here keeps the usual way of waiting
    # Threads that wait in a loop would be counted as work where others use the machine too.
    os.environ["OMP_WAIT_POLICY"] = "passive"

import numpy as np
import pandas as pd
import torch
from reporting import clocked, machine, publish, versions

from emosafe_lib.models import backbone
from emosafe_lib.models.batching import budget_batches
from emosafe_lib.prompting import shared_prefix, wordings
from emosafe_lib.study.parameters import ShapeParams, load_model

RESULTS = Path(__file__).parent / "results" / "scoring.json"
# Behind everything else, so that a peer moves none of our versions.
PEERS = Path(__file__).parent / ".peers"
CONTEXT = 8192
KINDS = ("clock", "processor")
HARNESS, LOOP = "lm-evaluation-harness, hf backend", "transformers, one sequence a label"
WORDS = (
    "table window river garden paper kettle morning station bicycle cousin letter kitchen market yellow winter engine "
    "carpet museum orange ticket pencil basket forest button harbour lantern notebook teacher bridge pocket singer cloud"
).split()
# Two layers as wide as the 1B's: what growth with the prefix looks like where weights outweigh attention.
WIDE = ShapeParams(layers=2, hidden=2048, heads=32, kv_heads=8, intermediate=8192, vocabulary=4096)
TRUE_SHAPES = ("llama-1b", "llama-8b")


@dataclass(frozen=True)
class Case:
    """One comparison: a shape, a task in one wording, a prefix of about so many tokens (0: the zero-shot one), and texts
    per peer.
    """

    shape: str
    task: str
    variant: str
    prefix_tokens: int
    harness_texts: int
    loop_texts: int

    @property
    def name(self) -> str:
        setting = f"few-shot {self.prefix_tokens}" if self.prefix_tokens else "zero-shot"
        return f"{self.shape} {self.task} {self.variant} {setting}"


CASES = (
    Case("nano-3", "safety", "guard", 1000, 40, 20),
    Case("nano-3", "categories", "form", 1000, 20, 10),
    Case("nano-3", "categories", "guard", 1000, 20, 10),
    Case("nano-3", "safety", "guard", 0, 100, 40),
    Case("nano-4", "safety", "guard", 1000, 10, 5),
    Case("nano-4", "categories", "form", 1000, 5, 3),
    Case("nano-4", "categories", "guard", 1000, 5, 3),
    Case("nano-4", "safety", "guard", 0, 40, 20),
)


@dataclass(frozen=True)
class Setup:
    """A network, a prompt and messages as token ids."""

    network: object
    prompt: wordings.Prompt
    messages: list


def network_of(shape: ShapeParams):
    """A LLaMA of a shape; its random weights are large enough that labels differ clearly."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    changes = {"weights": "random", "shape": shape, "context_tokens": CONTEXT, "device": "cpu"}
    model = load_model("nano-3").model_copy(update=changes)
    return backbone.load_network(model, AutoModelForCausalLM, initializer_range=0.1)


def tokenizer_of(shape: str):
    """The ladder's tokenizer."""
    return backbone.load_tokenizer(load_model(shape))


def text_of(random, tokenizer, tokens: int) -> str:
    """Everyday words in random order, about so many tokens."""
    words = random.choice(WORDS, tokens)
    sizes = [len(wordings.encode_plain(tokenizer, f" {word}")) for word in words]
    return " ".join(words[: max(1, int(np.searchsorted(np.cumsum(sizes), tokens)))])


def messages_of(tokenizer, count: int) -> list[list[int]]:
    """Token ids of texts of 80 to 140 tokens."""
    random = np.random.default_rng(1)
    return [wordings.encode_plain(tokenizer, text_of(random, tokenizer, n)) for n in random.integers(80, 141, count)]


def prompt_of(tokenizer, task: str, prefix_tokens: int, variant: str = "guard") -> wordings.Prompt:
    """The study's prompt with as many made-up exemplars as bring its prefix nearest to so many tokens."""
    random, turns = np.random.default_rng(2), []
    found = [wordings.build_prompt(tokenizer, task, variant)]
    while len(found[-1].prefix) < prefix_tokens:
        number, words = len(turns), wordings.VERBALIZERS[task]
        question, answer = number % len(wordings.QUESTIONS[task]), words[number % len(words)]
        turns.append(wordings.Turn(f"r{number}", f"g{number}", text_of(random, tokenizer, 48), question, answer))
        found.append(wordings.build_prompt(tokenizer, task, variant, turns))
    return min(found, key=lambda prompt: abs(len(prompt.prefix) - prefix_tokens)) if prefix_tokens else found[0]


def ours(setup: Setup, messages) -> np.ndarray:
    """Scores (n, questions, answers) by the package."""
    return shared_prefix.label_log_probabilities(setup.network, setup.prompt, messages)


def loop(setup: Setup, messages) -> np.ndarray:
    """The same the plain way."""
    return np.stack([shared_prefix.plain_log_probabilities(setup.network, setup.prompt, ids) for ids in messages])


def harness(model, setup: Setup, messages) -> np.ndarray:
    """The same by the harness: its request engine, given token ids, so that tokenisation is in nobody's time."""
    prompt = setup.prompt
    requests = [
        (("", ""), [*prompt.prefix, *ids, *suffix], list(answer))
        for ids in messages
        for suffix in prompt.suffixes
        for answer in prompt.answers
    ]
    answered = model._loglikelihood_tokens(requests, disable_tqdm=True)
    shape = (len(messages), len(prompt.suffixes), len(prompt.answers))
    return np.array([value for value, _ in answered]).reshape(shape)


def harness_of(network, tokenizer):
    """The harness around a network that is loaded already."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=1, max_length=CONTEXT)


def best_batch(model, setup: Setup, sizes=(1, 4, 16), texts: int | None = None) -> int:
    """The batch size with which the harness is fastest on a few texts, by the better of two processor times."""
    texts, spent = texts or (6 if len(setup.prompt.suffixes) == 1 else 3), {}
    harness(model, setup, setup.messages[:1])  # the first call belongs to no size
    for size in (*sizes, *sizes):
        model.batch_size_per_gpu = size
        *_, seconds = clocked(lambda: harness(model, setup, setup.messages[:texts]))
        spent[size] = min(seconds, spent.get(size, seconds))
    model.batch_size_per_gpu = min(spent, key=spent.get)
    return model.batch_size_per_gpu


@torch.inference_mode()
def forward_only(setup: Setup, with_prefix: bool) -> None:
    """As many tokens as ours feeds, in equal sequences, through the network and nothing else."""
    tree = shared_prefix.plant(setup.prompt.suffixes, setup.prompt.answers)
    count, ids = len(setup.messages), setup.messages
    length = round(sum(map(len, ids)) / count) + len(tree.ids)
    rows = len(budget_batches([length] * count, shared_prefix.CPU_TOKENS)[0])
    prefix = shared_prefix.read_prefix(setup.network, setup.prompt.prefix)
    tokens = torch.zeros((count, length), dtype=torch.int64) + torch.tensor(ids[0][0])
    mask = torch.zeros(1, 1, length, length).masked_fill_(~torch.ones(length, length).tril().bool(), float("-inf"))
    places = torch.arange(length).expand(rows, -1)
    if not with_prefix:
        for start in range(0, count, rows):
            setup.network.base_model(tokens[start : start + rows], use_cache=False)
        return
    with shared_prefix.own_attention(setup.network):
        for start in range(0, count, rows):
            part = tokens[start : start + rows]
            where = places[: len(part)] + prefix.length
            shared = {"attention_mask": mask, "position_ids": where, "shared_prefix": prefix}
            setup.network.base_model(part, use_cache=False, **shared)


def pairs(setup: Setup, peer, peer_texts: int, count: int) -> tuple[list[dict], np.ndarray]:
    """Interleaved pairs: ours on all texts, the peer on its share of them, its times scaled to all; beside them both limits'
    times, in the same minutes; and the peer's scores.
    """
    found, scored = [], []
    for number, part in enumerate(np.array_split(np.arange(peer_texts), count)):
        share = [setup.messages[row] for row in part]
        jobs = {"ours": lambda: ours(setup, setup.messages), "peer": lambda share=share: peer(setup, share)}
        jobs |= {"limit": lambda: forward_only(setup, True), "strict": lambda: forward_only(setup, False)}
        done = {side: clocked(jobs[side]) for side in list(jobs)[:: 1 if number % 2 == 0 else -1]}
        scale = len(setup.messages) / len(part)
        scored.append(done["peer"][0])
        scales = {"ours": 1, "peer": scale, "limit": 1, "strict": 1}
        found.append({kind: {side: scales[side] * done[side][n] for side in jobs} for n, kind in enumerate(KINDS, 1)})
    return found, np.concatenate(scored)


def compare(case: Case, texts: int, count: int, networks: dict) -> list[dict]:
    """One case against both peers, as rows of the results file."""
    tokenizer = tokenizer_of(case.shape)
    if case.shape not in networks:
        networks[case.shape] = network_of(load_model(case.shape).shape)
    network = networks[case.shape]
    setup = Setup(
        network, prompt_of(tokenizer, case.task, case.prefix_tokens, case.variant), messages_of(tokenizer, texts)
    )
    model = harness_of(network, tokenizer)
    batch = best_batch(model, setup)
    exact = ours(setup, setup.messages)
    rows = []
    peers = {
        f"{HARNESS}, batch {batch}": (lambda s, m: harness(model, s, m), case.harness_texts, count),
        LOOP: (loop, case.loop_texts, count),
    }
    for name, (peer, peer_texts, times_each) in peers.items():
        peer_texts = min(peer_texts, texts)
        found, scored = pairs(setup, peer, peer_texts, min(times_each, peer_texts))
        same = exact[:peer_texts].argmax(axis=2) == scored.argmax(axis=2)
        facts = {
            "largest_difference": float(np.abs(exact[:peer_texts] - scored).max()),
            "label_agreement": float(same.mean()),
            "prefix_tokens": len(setup.prompt.prefix),
            "texts": texts,
            "peer_texts": peer_texts,
            "pairs": len(found),
        }
        for kind in KINDS:
            each = pd.DataFrame([times[kind] for times in found])
            mine, theirs = each[["ours", "peer"]].median()
            numbers = {"ours": round(mine, 2), "peer": round(theirs, 2), "unit": f"s per {texts} texts, {kind}"}
            over = each.div(each["ours"], axis=0).median().round(3)
            shares = {"limit_share": over["limit"], "limit_share_without_prefix": over["strict"]}
            rows.append(
                {"case": case.name, **numbers, "peer_name": name, "ratio": round(over["peer"], 1)} | shares | facts
            )
    return rows


def timed(setup: Setup, repeats: int) -> tuple[float, float]:
    """Median seconds of ours, by the clock and of processor time."""
    spent = [clocked(lambda: ours(setup, setup.messages))[1:] for _ in range(repeats)]
    return tuple(statistics.median(column) for column in zip(*spent, strict=True))


def growth_row(case: str, setup: Setup, seconds: tuple[float, float], peer: float | None, name: str) -> dict:
    """One point of a curve; the times are of scoring all its texts."""
    clock, processor = seconds
    return {
        "case": case,
        "ours": round(processor, 3),
        "ours_clock": round(clock, 3),
        "peer": None if peer is None else round(peer, 2),
        "peer_name": name,
        "unit": "processor s",
        "ratio": None if peer is None else round(peer / processor, 1),
        "limit_share": None,
        "texts": len(setup.messages),
        "prefix_tokens": len(setup.prompt.prefix),
    }


def growth_with_texts(network, tokenizer, sizes) -> list[dict]:
    """Time against the number of texts; the peer column is the first point scaled up, which is what linear means."""
    prompt, rows = prompt_of(tokenizer, "safety", 1000), []
    messages = messages_of(tokenizer, max(sizes))
    for size in sizes:
        setup = Setup(network, prompt, messages[:size])
        seconds = timed(setup, 5 if size <= 1000 else 1)
        even = rows[0]["ours"] * size / sizes[0] if rows else None
        rows.append(growth_row(f"growth with texts {size}", setup, seconds, even, "proportional to the first point"))
    return rows


def growth_with_prefix(label: str, network, tokenizer, lengths, texts: int, peer_texts: int) -> list[dict]:
    """Time against the prefix's length; the harness scores a few texts at its best batch size, scaled.

    `growth` is the time over the first length's, `growth_by_arithmetic` the same for the operations that exact attention
    to the prefix takes: no exact way stays below it by doing less.
    """
    prompt, messages = prompt_of(tokenizer, "safety", 1000), messages_of(tokenizer, texts)
    model, rows, work = harness_of(network, tokenizer), [], []
    for length in lengths:
        prefix = (prompt.prefix * (length // len(prompt.prefix) + 1))[:length]
        setup = Setup(network, replace(prompt, prefix=prefix), messages)
        peer = None
        if peer_texts:
            best_batch(model, setup, (1, 4), peer_texts)
            tries = [clocked(lambda setup=setup: harness(model, setup, messages[:peer_texts]))[2] for _ in range(3)]
            peer = statistics.median(tries) * texts / peer_texts
        rows.append(growth_row(f"growth with prefix {label} {length}", setup, timed(setup, 5), peer, HARNESS))
        work.append(operations(setup))
        rows[-1] |= {
            "growth": round(rows[-1]["ours"] / rows[0]["ours"], 2),
            "growth_by_arithmetic": round(work[-1] / work[0], 2),
        }
    return rows


def operations(setup: Setup) -> float:
    """Floating-point operations of the layers: twice the weights a token, and attention to what each token sees.

    A message's token sees half its message on average; the tree's own few steps are left out.
    """
    config, prefix = setup.network.config, len(setup.prompt.prefix)
    nodes = len(shared_prefix.plant(setup.prompt.suffixes, setup.prompt.answers).ids)
    lengths = [len(ids) for ids in setup.messages]
    seen = sum((n + nodes) * prefix + n * n / 2 + nodes * n for n in lengths) + prefix**2 / 2
    tokens = sum(lengths) + nodes * len(lengths) + prefix
    return 2 * body_weights(setup.network) * tokens + 4 * config.num_hidden_layers * config.hidden_size * seen


def gemm_peak(device: str, dtype, size: int) -> float:
    """Floating-point operations per second of a large square matrix product."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        *_, seconds = timed_on(device, lambda: torch.mm(left, right))
        best = max(best, 2 * size**3 / seconds)
    return best


def timed_on(device: str, work) -> tuple[object, float]:
    """What a function returns and its seconds by the clock, the device's queue drained before and after."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    found = work()
    wait()
    return found, time.perf_counter() - started


def true_shape(name: str, shape: ShapeParams, device: str, dtype, texts: int, gemm_size: int = 8192) -> dict:
    """Texts per second of a true shape with random weights, and the share of the measured peak of matrix products."""
    from transformers import AutoModelForCausalLM

    model = load_model("llama-1b").model_copy(update={"weights": "random", "shape": shape, "context_tokens": CONTEXT})
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(backbone.shape_config(model), dtype=dtype).eval()
    random = np.random.default_rng(3)
    ids = [random.integers(0, shape.vocabulary, length).tolist() for length in [1000, 25, *[110] * texts]]
    prompt = wordings.Prompt("safety", "made", tuple(ids[0]), (tuple(ids[1]),), ((1,), (2, 3), (4, 5)))
    setup = Setup(network, prompt, ids[2:])
    shared_prefix.label_log_probabilities(network, prompt, setup.messages[:8])
    _, seconds = timed_on(device, lambda: shared_prefix.label_log_probabilities(network, prompt, setup.messages))
    peak = gemm_peak(device, dtype, gemm_size)
    return {
        "case": f"{name} true shape {device}",
        "ours": round(texts / seconds, 1),
        "peer": round(peak / 1e12, 2),
        "peer_name": "measured matrix product, TFLOP/s",
        "unit": "texts/s",
        "ratio": None,
        "limit_share": round(operations(setup) / seconds / peak, 3),
        "texts": texts,
        "prefix_tokens": 1000,
    }


def body_weights(network) -> int:
    """Weights that every token meets: all but the embeddings and the output layer."""
    return sum(p.numel() for p in network.base_model.parameters()) - network.get_input_embeddings().weight.numel()


def devices() -> dict:
    """What it ran on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return machine() | {"threads": torch.get_num_threads(), "gpu": gpu}


def shown(row: dict) -> str:
    """A row of the results as one line."""
    extras = (
        "largest_difference label_agreement limit_share limit_share_without_prefix pairs growth growth_by_arithmetic"
    )
    more = ", ".join(f"{key} {row[key]:.3g}" for key in extras.split() if row.get(key) is not None)
    return f"{row['case']}: ours {row['ours']}, {row['peer_name']} {row['peer']} {row['unit']}, x{row['ratio']}; {more}"


def main() -> None:
    """Run the comparisons; results are written unless they shall only be printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="one makes processor times steadiest")
    parser.add_argument("--only", default="", help="cases whose name contains this, no curves")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--print", action="store_true", help="write no file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.path.append(str(PEERS))
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows, networks = [], {}

    def keep(found: list[dict]) -> None:
        rows.extend(found)
        print(*map(shown, found), sep="\n", flush=True)

    for case in CASES:
        if options.only in case.name:
            case = replace(case, harness_texts=4, loop_texts=2) if options.quick else case
            keep(compare(case, 20 if options.quick else options.texts, 2 if options.quick else options.pairs, networks))
    if not options.only:
        tokenizer = tokenizer_of("nano-3")
        keep(growth_with_texts(networks["nano-3"], tokenizer, (100, 200) if options.quick else (100, 1000, 10_000)))
        lengths, texts = ((0, 1000), 20) if options.quick else ((0, 500, 1000, 2000, 4000), options.texts)
        for shape, step in (("nano-3", 1), ("nano-4", 2)):
            keep(growth_with_prefix(shape, networks[shape], tokenizer, lengths[::step], texts, 2))
        networks.clear()
        wide = network_of(WIDE)
        keep(growth_with_prefix("1B-wide layers", wide, tokenizer, lengths[::2], texts // 2, 0))
        if torch.cuda.is_available():
            for name in TRUE_SHAPES:
                keep([true_shape(name, load_model(name).shape, "cuda", torch.bfloat16, 2000)])
    if not options.print and not options.quick:
        packages = versions("torch", "transformers", "lm_eval")
        publish({"machine": devices(), "versions": packages, "rows": rows}, RESULTS)


if __name__ == "__main__":
    main()
