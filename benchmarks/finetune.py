"""Useful tokens per second and peak memory of training, against the Hugging Face Trainer's defaults, in one run.

Both train the same network on the same rows for one epoch on this machine, in turn, each in a process of its own, so
that peak memory is its own: LoRA on nano-4's settings and on SmolLM2-135M (the package's weights, peft's adapters on both
sides; the aim is twice the peer's useful tokens), and the whole of MiniLM. The peer is Trainer as it comes, but for its
threads: eight rows a batch in random order, another one each round, padded to the longest, in fp32. Both sides have the
threads of the model's file. Ours multiplies in bfloat16 where that file says so and the processor can; `limit_share` is of
the peak of matrix products in the `precision` in which ours did, measured in the same process right after it. Ours takes
fewer and larger steps: `steps` has both.
Rows are random tokens whose lengths follow a log-normal as the real sources' do (median 35 tokens, cut at 256), so no
real text is needed. Useful tokens are those of the rows; padding counts for nobody. Speed is given twice, by the clock
and by processor time: on a machine that others use too, only the second is a fair comparison.

Where there is a GPU, one LoRA step of the true 1B and 8B shapes is measured too, with random weights: seconds and peak
memory, beside what litgpt has published for its own LoRA runs on an A10G. Memory can be compared; seconds cannot across
cards and rows of other lengths, so they have no ratio. The tests run the same functions on a CPU with tiny shapes.

    python benchmarks/finetune.py            # writes benchmarks/results/finetune.json, and finetune_gpu.json on a GPU
    python benchmarks/finetune.py --gpu      # the GPU part alone
    python benchmarks/finetune.py --smoke    # does it run? SmolLM2's widths in two layers, a few rows, nothing written
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from reporting import clocked, in_own_process, machine, publish, ratio, rounds, versions

RESULTS = Path(__file__).parent / "results" / "finetune.json"
SHAPE = {"layers": 6, "hidden": 320, "heads": 5, "kv_heads": 5, "intermediate": 864, "vocabulary": 4096}
CASES = {"nano-4": 200, "minilm": 200, "smollm2-135m": 80}  # rows: half a minute to three a run
SMOKE = {"smollm2-135m-smoke": 16}
GPU_RESULTS = RESULTS.with_name("finetune_gpu.json")
GPU_CASES = (("llama-1b", "none"), ("llama-8b", "none"), ("llama-8b", "int4"))
# As litgpt trains: one row a batch, of 512 tokens at most. Ours are all of 512, the longest it can meet.
STEP_ROWS, STEP_TOKENS, STEPS = 1, 512, 10
# Minutes and GB of whole LoRA runs in bf16 on one A10G, two epochs over 2,000 rows, by litgpt's own table in
# config_hub/finetune/README.md.
LITGPT = {"llama-1b": (4.2, 4.5), "llama-8b": (13.4, 19.7)}
LITGPT_ROWS = 2 * 2000


def lengths(rows: int) -> np.ndarray:
    """Tokens per row, shape (rows,): log-normal, median 35, between 4 and 256."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(35), 0.9, rows), 4, 256).astype(int)


def token_rows(rows: int, vocabulary: int) -> list[list[int]]:
    """Random token ids of those lengths, no control tokens among them."""
    random = np.random.default_rng(1)
    return [random.integers(1000, vocabulary, length).tolist() for length in lengths(rows)]


def params_of(case: str):
    """The parameters of the model to train. Random weights stand for nano-4's settings: 7 million, in six layers, 320 wide;
    and for SmolLM2's in a smoke run.
    """
    from emosafe_lib.study.parameters import ShapeParams, load_model

    model = load_model(case.removesuffix("-smoke"))
    if case == "nano-4":
        shape = ShapeParams(**SHAPE)
    elif case in SMOKE:
        shape = model.shape.model_copy(update={"layers": 2})
    else:
        return model
    return model.model_copy(update={"weights": "random", "path": "", "weights_sha256": None, "shape": shape})


def network_of(case: str):
    """The network to train, adapters beside it where the model's file says LoRA, and its parameters."""
    from transformers import AutoModelForSequenceClassification, set_seed

    from emosafe_lib.finetuning.network import add_lora
    from emosafe_lib.models.backbone import load_network
    from emosafe_lib.models.precision import trained_dtype, use_threads

    set_seed(0)
    model = params_of(case)
    use_threads(model)
    network = load_network(model, AutoModelForSequenceClassification, dtype=trained_dtype(model), num_labels=3)
    return (add_lora(network, model) if model.training.method == "lora" else network), model


def row_table(count: int):
    """A table of rows with random levels; the texts stay empty, the tokens are made elsewhere."""
    import pandas as pd

    levels = np.random.default_rng(2).integers(0, 3, count)
    return pd.DataFrame(
        {"id": [str(n) for n in range(count)], "safety": np.array(["safe", "borderline", "unsafe"])[levels]}
    )


def train_ours(network, model, ids: list[list[int]], arguments) -> tuple[float, float, int]:
    """Seconds and steps of one epoch with token-budget batches."""
    from datasets import Dataset

    from emosafe_lib.finetuning.network import fast_steps
    from emosafe_lib.finetuning.objective import marked_targets
    from emosafe_lib.finetuning.plan import Plan
    from emosafe_lib.finetuning.trainer import BudgetTrainer
    from emosafe_lib.models.backbone import load_tokenizer
    from emosafe_lib.study.parameters import FinetuningParams, load_model

    rows = row_table(len(ids))
    plan = Plan(model, FinetuningParams(), "safety", 0, "", rows, rows[:8], rows[:8])
    columns = {"input_ids": ids, "length": list(map(len, ids)), "truncated": np.zeros(len(ids), bool)}
    data = Dataset.from_dict(columns | {"labels": marked_targets(rows, "safety")})
    tokenizer = load_tokenizer(load_model(model.name))
    parts = {"train": data, "validation": data.select(range(8))}
    with fast_steps(network, model):
        return seconds(BudgetTrainer(model=network, args=arguments, plan=plan, data=parts, tokenizer=tokenizer))


def train_peer(network, model, ids: list[list[int]], arguments) -> tuple[float, float, int]:
    """Seconds and steps of one epoch with the Trainer's defaults: random order, batches of eight, padded to the longest."""
    import torch
    from transformers import Trainer

    labels = row_table(len(ids))["safety"].map({"safe": 0, "borderline": 1, "unsafe": 2}).tolist()
    pad = network.config.pad_token_id
    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]

    def collate(batch):
        rows = [torch.tensor(row["input_ids"]) for row in batch]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        return {
            "input_ids": padded,
            "attention_mask": (padded != pad).long(),
            "labels": torch.tensor([r["labels"] for r in batch]),
        }

    return seconds(Trainer(model=network, args=arguments, train_dataset=data, data_collator=collate))


def settings(folder: str, learning_rate: float, seed: int):
    """What both share: AdamW, one epoch, nothing saved or logged on the way; all else is the Trainer's default."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        learning_rate=learning_rate,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
    )


def seconds(trainer) -> tuple[float, float, int]:
    """Seconds of `trainer.train()`, by the clock and of processor time, and its steps."""
    _, clock, processor = clocked(trainer.train)
    return clock, processor, trainer.state.global_step


def measure(case: str, side: str, rows: int, seed: int) -> dict:
    """One epoch of one side, in this process: useful tokens per second, peak memory, and the share of the peak of matrix
    products on the same threads.
    """
    import torch

    from emosafe_lib.nano.pretrain import gemm_peak
    from emosafe_lib.study.machine import peak_memory_mb

    network, model = network_of(case)
    ids = token_rows(rows, network.config.vocab_size)
    for weight in network.parameters():
        weight.detach().sum()  # weights that nobody has read yet lie in their file, and not in memory
    before = peak_memory_mb()
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(folder, model.training.learning_rate, seed)
        clock, processor, steps = (train_ours if side == "ours" else train_peer)(network, model, ids, arguments)
    peak, limit = peak_memory_mb(), gemm_peak(getattr(torch, precision_of(case) if side == "ours" else "float32"))
    weights = sum(p.numel() for n, p in network.named_parameters() if "embed" not in n)
    passes = 4 if model.training.method == "lora" else 6  # a frozen weight has no gradient of its own
    tokens = sum(map(len, ids))
    return {
        "clock": tokens / clock,
        "processor": tokens / processor,
        "peak_mb": peak,
        "training_mb": peak - before,
        "limit_share": passes * weights * tokens / processor / limit,
        "gemm_gflops": limit / 1e9,
        "steps": steps,
        "threads": torch.get_num_threads(),
    }


def precision_of(case: str) -> str:
    """The torch dtype in which ours multiplies."""
    from emosafe_lib.models.precision import mixes_precision

    return "bfloat16" if mixes_precision(params_of(case)) else "float32"


def compare(case: str, rows: int, repeats: int) -> list[dict]:
    """Median of interleaved runs of both sides, as rows of the results file."""
    seeds = {side: iter(range(repeats)) for side in ("ours", "peer")}

    def run(side: str) -> dict:
        return in_own_process(__file__, "--one", case, side, "--rows", rows, "--seed", next(seeds[side]))

    runs = rounds({side: partial(run, side) for side in seeds}, repeats)
    middle = {
        side: {key: statistics.median(run[key] for run in found) for key in found[0]} for side, found in runs.items()
    }
    ours, peer = middle["ours"], middle["peer"]
    name = "transformers.Trainer defaults: 8 rows, random order, padded to longest"
    kinds = {
        "speed, processor time": ("processor", "useful tokens per processor second"),
        "speed, clock": ("clock", "useful tokens/s"),
        "memory": ("peak_mb", "MB peak of the process"),
        "memory of training": ("training_mb", "MB above the loaded model"),
    }
    found = []
    for kind, (key, unit) in kinds.items():
        over, under = ("peer", "ours") if key.endswith("mb") else ("ours", "peer")
        better = ratio(*([run[key] for run in runs[side]] for side in (over, under)))
        share = round(ours["limit_share"], 3) if key == "processor" else None
        facts = {"precision": precision_of(case), "gemm_gflops": round(ours["gemm_gflops"], 1)}
        facts |= {"threads": ours["threads"], "steps": [ours["steps"], peer["steps"]]}
        rounded = {"ours": round(ours[key], 1), "peer": round(peer[key], 1)}
        found.append(
            {"case": f"{case} {kind}", **rounded, "unit": unit, "peer_name": name, "ratio": round(better, 2)}
            | {"limit_share": share, "repeats": repeats, "rows": rows}
            | facts
        )
    return found


def step_params(name: str, quantization: str, device: str = "cuda"):
    """A true shape's parameters, to be filled with random weights."""
    from emosafe_lib.study.parameters import load_model

    return load_model(name).model_copy(update={"weights": "random", "quantization": quantization, "device": device})


def step_network(model):
    """The network of `step_params` with adapters and a fresh head, made as the package's training makes it."""
    from transformers import AutoModelForSequenceClassification

    from emosafe_lib.finetuning.network import add_lora
    from emosafe_lib.models.backbone import load_network, quiet
    from emosafe_lib.models.precision import pick_quantization
    from emosafe_lib.ondevice.measure import saved_and_loaded

    with quiet():
        if pick_quantization(model) == "none":
            network = load_network(model, AutoModelForSequenceClassification, num_labels=3)
        else:
            network = saved_and_loaded(model)
        return add_lora(network, model).train()


def step_of(network, model, rows: int, tokens: int):
    """A function that takes one LoRA step on random rows: forward, loss, backward, AdamW."""
    import torch

    from emosafe_lib.finetuning.objective import loss_per_row
    from emosafe_lib.models.precision import pick_device

    device = pick_device(model)
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=model.training.learning_rate)
    ids = torch.randint(1, network.config.vocab_size, (rows, tokens), device=device)
    labels, weights = torch.eye(3, device=device)[:1].repeat(rows, 1), torch.ones(3, device=device)

    def step() -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = loss_per_row(logits.float(), labels, torch.ones_like(labels), weights, "safety").mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure_step(model, rows: int = STEP_ROWS, tokens: int = STEP_TOKENS, steps: int = STEPS) -> dict:
    """Median seconds of a LoRA step and peak memory in GB, in this process, after one step that makes AdamW's state."""
    from emosafe_lib.models.precision import hardware
    from emosafe_lib.ondevice.measure import forget_peak, on_gpu, peak_mb

    gpu = on_gpu(model)
    step = step_of(step_network(model), model, rows, tokens)
    step()
    forget_peak(gpu)
    spent = [clocked(step)[1] for _ in range(steps)]  # a step waits for the device, to know its loss
    return {"seconds": statistics.median(spent), "peak_gb": peak_mb(gpu) * 2**20 / 1e9} | hardware(model)


def step_rows(name: str, quantization: str) -> list[dict]:
    """Memory and seconds of a LoRA step beside litgpt's, as rows of the results file."""
    found, (minutes, gigabytes) = in_own_process(__file__, "--step", name, quantization), LITGPT[name]
    kind = found["quantization"] if found["quantization"] != "none" else found["dtype"]
    shared = {"rows": STEP_ROWS, "tokens": STEP_TOKENS, "limit_share": None, "fallbacks": found["fallbacks"]}
    peer = "litgpt, LoRA in bf16 on one A10G as published in its config_hub/finetune/README.md"
    return [
        {"case": f"{name} {kind} LoRA step, memory", "ours": round(found["peak_gb"], 2), "peer": gigabytes}
        | {"unit": "GB peak on the GPU", "peer_name": peer, "ratio": round(gigabytes / found["peak_gb"], 2)}
        | shared,
        {"case": f"{name} {kind} LoRA step, seconds", "ours": round(found["seconds"] / STEP_ROWS, 4)}
        | {"peer": round(minutes * 60 / LITGPT_ROWS, 4), "unit": "s a row", "ratio": None}
        | {"peer_name": f"{peer}: its whole run by its rows, another card and shorter rows"}
        | shared,
    ]


def on_the_gpu() -> None:
    """Measure the LoRA steps that fit this GPU, and write them to a file of their own; what does not fit says why."""
    import torch

    from emosafe_lib.ondevice.measure import hindrances

    rows, left_out = [], {}
    for name, quantization in GPU_CASES:
        dtype = "bfloat16" if quantization == "none" else quantization
        reason = hindrances(step_params(name, quantization))[dtype]
        if reason:
            left_out[f"{name} {dtype}"] = reason
        else:
            rows += step_rows(name, quantization)
    where = machine() | {"gpu": torch.cuda.get_device_name()}
    packages = versions("torch", "transformers", "peft")
    report = {"machine": where, "versions": packages, "rows": rows, "left_out": left_out}
    publish(report, GPU_RESULTS)
    print(json.dumps(rows, indent=1))


def main() -> None:
    """Run the comparison and write the results by rename."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="in place of each case's own number")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a small case, once, only printed")
    parser.add_argument("--gpu", action="store_true", help="only the LoRA steps on a GPU")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=2, metavar=("MODEL", "QUANTIZATION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure_step(step_params(*options.step))))
        return
    if options.gpu:
        if not torch.cuda.is_available():
            parser.error("there is no GPU here")
        on_the_gpu()
        return
    if options.one:
        print(json.dumps(measure(*options.one, options.rows, options.seed)))
        return
    cases, repeats = (SMOKE, 1) if options.smoke else (CASES, options.repeats)
    rows = [row for case, own in cases.items() for row in compare(case, options.rows or own, repeats)]
    packages = versions("torch", "transformers", "peft", "accelerate")
    publish({"machine": machine(), "versions": packages, "rows": rows}, RESULTS, only_print=options.smoke)
    if options.smoke:
        return
    print(json.dumps(rows, indent=1))
    if torch.cuda.is_available():
        on_the_gpu()


if __name__ == "__main__":
    main()
