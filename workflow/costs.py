"""What a model asks for, computed before anything is paid: tokens, operations, memory and hours on a device."""

import math
from pathlib import Path
from typing import NamedTuple

from emosafe_lib.finetuning.plan import trainings_of
from emosafe_lib.finetuning.trainer import epochs_of
from emosafe_lib.models import capacity
from emosafe_lib.models.capacity import count_parameters, on_meta
from emosafe_lib.prompting.scoring import SHARD_ROWS, shots_of, ways_of_asking
from emosafe_lib.prompting.wordings import INSTRUCTIONS, VERBALIZERS, questions_of
from emosafe_lib.study import stage
from emosafe_lib.study.errors import EmosafeError
from emosafe_lib.study.parameters import ModelParams, StudyParams
from workflow.receipts import read_or_empty
from workflow.resources import run_folders

CHARACTERS_PER_TOKEN = 4
FRAME_TOKENS = 16  # a chat template around one question and its answer
SHOWN_TOKENS = 64  # an exemplar's message in a few-shot prompt, at most
TRAINED_BYTES = 16  # weight, gradient and Adam's two moments in fp32
GB, USABLE_MEMORY = 1e9, 0.9


class Hardware(NamedTuple):
    """A device: operations a second at its peak in bf16, the share of it that we count on, memory, operations a second that
    we count on in fp32 where a CPU multiplies a model in it (None: as in bf16), and where all that comes from.
    """

    peak: float
    share: float
    memory_gb: float
    source: str
    fp32_rate: float | None = None

    @property
    def on_cpu(self) -> bool:
        """Whether everything lies there in fp32, unquantized."""
        return self.fp32_rate is not None


# GPUs: dense bf16 without sparsity and memory as in NVIDIA's data sheets; the share is what well-batched transformers
# reach in practice without tuning. CPU: measured products, and what of them the real study reached. The first one had no
# matrix units and is counted as a whole; of the second one core is, since two jobs run there side by side.
PLAIN_CPU, AMX_CPU = "2 CPU cores", "1 of 2 CPU cores, AMX"
HARDWARE = {
    PLAIN_CPU: Hardware(120e9, 0.4, 24, "measured, fp32", fp32_rate=48e9),
    AMX_CPU: Hardware(935e9, 0.25, 24, "measured, bf16", fp32_rate=120e9),
    "RTX 4090": Hardware(165e12, 0.3, 24, "data sheet"),
    "A100 80GB": Hardware(312e12, 0.3, 80, "data sheet"),
    "H100 SXM": Hardware(989e12, 0.3, 80, "data sheet"),
}


def rate(device: Hardware, model: ModelParams, kind: str) -> float:
    """Operations a second that a model's "prompting" or "finetuning" is counted with on a device."""
    in_bf16 = model.training.mixed_precision if kind == "finetuning" else model.dtype != "float32"
    return device.peak * device.share if in_bf16 or not device.on_cpu else device.fp32_rate


class Rows(NamedTuple):
    """Rows that the stages meet, the mean tokens of a text before any cap (None: unknown, so the cap is taken), and how
    often a pass of training meets a row on average.
    """

    train: int
    validation: int
    test: int
    text_tokens: float | None
    times: float = 1.0


def rows_of(study: StudyParams) -> Rows | None:
    """Rows by split from the data card of an earlier run; None where notebook 01 has not run."""
    for base in run_folders(study):
        if told := read_or_empty(base / "data_card.json"):
            counts = {name: sum(classes.values()) for name, classes in told["safety"].items()}
            counts["train"] += accepted(base)
            times = times_met(told["sources"], study.finetuning.repeats)
            return Rows(counts["train"], counts["validation"], counts["test"], mean_tokens(base), times)
    return None


def times_met(sources: dict[str, dict], repeats: dict[str, int]) -> float:
    """How often a pass meets a row on average, if sources have the same share in every split; `sources` is a data card's."""
    rows = {name: facts["rows"] for name, facts in sources.items()}
    return sum(repeats.get(name, 1) * count for name, count in rows.items()) / sum(rows.values())


def accepted(base: Path) -> int:
    """Re-interpretations that notebook 02 added to the training rows; 0 where it has not run."""
    return read_or_empty(base / "augmentation_card.json").get("accepted", 0)


def mean_tokens(base: Path) -> float | None:
    """Mean length of the merged texts in tokens, by characters; None where the rows are not at hand."""
    path = base / "01_data_merge" / "rows.parquet"
    if not path.is_file():
        return None
    import pandas as pd

    return float(pd.read_parquet(path, columns=["text"])["text"].str.len().mean() / CHARACTERS_PER_TOKEN)


def capped(rows: Rows | None, split: str, cap: int | None) -> float:
    """Rows of a split under a study's cap; NaN where neither is known."""
    known = [number for number in (getattr(rows, split, None), cap) if number is not None]
    return float(min(known)) if known else math.nan


def text_tokens(rows: Rows | None, cap: int) -> float:
    """Tokens of one text: the mean of the merged texts, at most the cap, which stands in where they are not at hand."""
    return min(cap, rows.text_tokens) if rows and rows.text_tokens else float(cap)


def prompt_tokens(task: str, variant: str, shots: int) -> tuple[float, float]:
    """Tokens of the prefix, before its exemplars are cut to a context, and of all questions with their answers."""
    prefix, questions = len(INSTRUCTIONS[task, variant]) / CHARACTERS_PER_TOKEN, questions_of(task, variant)
    if shots:
        turns = len(questions) * shots * len(VERBALIZERS[task])
        prefix += turns * (SHOWN_TOKENS + FRAME_TOKENS)
    asked = sum(len(words) / CHARACTERS_PER_TOKEN + FRAME_TOKENS for words in {q.words for q in questions})
    asked += sum(len(q.cue) for q in questions) / CHARACTERS_PER_TOKEN
    return prefix, asked


def prompting_tokens(study: StudyParams, model: ModelParams, rows: Rows | None) -> float:
    """Tokens that notebook 03 sends through a model: each message once with all questions, the prefix once a shard and
    once for the content-free inputs.
    """
    settings = study.prompting
    parts = capped(rows, "test", settings.evaluation_rows), capped(rows, "validation", settings.validation_rows)
    messages, total = sum(parts), 0.0
    readings = 1 + (0 if math.isnan(messages) else sum(math.ceil(n / SHARD_ROWS) for n in parts))
    for way in ways_of_asking(settings):
        prefix, asked = prompt_tokens(way["task"], way["variant"], shots_of(settings, way["setting"]))
        if model.family == "encoder":
            prefix, asked = 0.0, 0.0
        prefix = min(prefix, model.context_tokens)
        total += readings * prefix + messages * (text_tokens(rows, settings.max_text_tokens) + asked)
    return total


def finetuning_tokens(study: StudyParams, model: ModelParams, rows: Rows | None) -> tuple[float, float]:
    """Tokens that notebook 04 trains on and those that it only reads (validation each epoch, test, features); none for a
    model that a server answers for.
    """
    if not stage.concerns("04_lora_finetuning", model):
        return 0.0, 0.0
    settings = study.finetuning
    length = text_tokens(rows, settings.max_length)
    train = capped(rows, "train", settings.train_rows)
    validation = capped(rows, "validation", settings.validation_rows)
    test = capped(rows, "test", settings.evaluation_rows)
    trained, read = 0.0, length * (train + validation + test)
    step = model.training.tokens_per_batch * model.training.accumulation
    left_out = len(settings.left_out_sources or study.data.sources) if settings.left_out == "fine-tuned" else 0
    for run in [*trainings_of(settings), *({} for _ in range(left_out))]:
        seen = length * min(train, run.get("budget") or train) * (rows.times if rows else 1.0)
        epochs = settings.epochs if math.isnan(seen) else epochs_of(settings, math.ceil(seen / step))
        trained += epochs * seen
        read += length * (epochs * validation + test)
        read += seen + length * validation if model.training.head == "probe" else 0.0
    return trained, read


def trainable_parameters(model: ModelParams, counts: dict[str, int]) -> int:
    """Parameters that training changes: all, or LoRA's two factors at every linear layer of the blocks."""
    if model.training.method == "full":
        return counts["total"]
    from torch import nn

    network = on_meta(model)
    head, wanted = network.get_output_embeddings(), model.training.lora.target_modules
    sides = [
        module.in_features + module.out_features
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module is not head
        if wanted == "all-linear" or name.rpartition(".")[2] in ([wanted] if isinstance(wanted, str) else wanted)
    ]
    return model.training.lora.rank * sum(sides)


def memory_gb(model: ModelParams, counts: dict[str, int], trained: int, fp32: bool) -> tuple[float, float]:
    """Computed GB for scoring and for fine-tuning, at the parameter file's token budgets and its dtype, or in fp32.

    Scoring holds weights, keys and values and one layer's activations; training holds what is trained beside what
    `training_bytes` counts. A model that a server answers for is not fine-tuned.
    """
    config = capacity.configuration(model)
    stored = "bfloat16" if model.dtype == "float16" else model.dtype
    dtype = "float32" if fp32 else model.quantization if model.quantization != "none" else stored
    scoring = capacity.weight_bytes(counts, dtype) + capacity.cache_bytes(config, dtype, 1, model.tokens_per_batch)
    scoring += capacity.activation_bytes(config, dtype, 1, model.tokens_per_batch)
    if not stage.concerns("04_lora_finetuning", model):
        return scoring / GB, 0.0
    return scoring / GB, (trained * TRAINED_BYTES + training_bytes(model, config, counts, dtype)) / GB


def training_bytes(model: ModelParams, config, counts: dict[str, int], dtype: str) -> float:
    """Bytes of frozen weights and of the activations that a step of training keeps: those of all layers, since nothing is
    recomputed, except over packed weights.
    """
    tokens = model.training.tokens_per_batch
    if dtype == model.quantization:
        return packed_training_bytes(config, counts, dtype, tokens)
    weights = 0 if model.training.method == "full" else capacity.weight_bytes(counts, dtype)
    return weights + capacity.activation_bytes(config, dtype, 1, tokens) * config.num_hidden_layers


def packed_training_bytes(config, counts: dict[str, int], dtype: str, tokens: int) -> float:
    """The same over packed weights: peft's `prepare_model_for_kbit_training` casts all that is not packed to float32, and
    activations with it; of a layer only its input is kept, and the rest is computed once more, one layer at a time.

    A classifier has no output table; a tied one is its input table and stays.
    """
    output_table = 0 if config.tie_word_embeddings else counts["embedding"] // 2
    plain = counts["total"] - counts["linear"] - output_table
    weights = counts["linear"] * capacity.LINEAR_BITS[dtype] / 8 + plain * 4
    inputs = config.num_hidden_layers * tokens * config.hidden_size * 4
    return weights + inputs + capacity.activation_bytes(config, "float32", 1, tokens)


def costs(study: StudyParams, models: dict[str, ModelParams], hardware: str):
    """What each model asks for, one row a model, all computed.

    Returns
    -------
    columns model, parameters_m, scoring_gb, training_gb, devices (by memory alone), prompting_tokens_m,
    finetuning_tokens_m (trained and read), prompting_pflop, finetuning_pflop, prompting_hours, finetuning_hours (of one
    device), basis ("computed"); NaN where rows or sizes are unknown
    """
    import pandas as pd

    rows, device = rows_of(study), HARDWARE[hardware]
    table = [cost_of(study, model, rows, device) for model in models.values()]
    return pd.DataFrame(table).assign(basis="computed")


def cost_of(study: StudyParams, model: ModelParams, rows: Rows | None, device: Hardware) -> dict:
    """One row of `costs`; a model whose size cannot be counted offline keeps its tokens only."""
    study = study.for_model(model.name)
    asked = prompting_tokens(study, model, rows)
    trained, read = finetuning_tokens(study, model, rows)
    row = {"model": model.name, "parameters_m": math.nan, "scoring_gb": math.nan, "training_gb": math.nan}
    row |= {"devices": math.nan, "prompting_tokens_m": asked / 1e6, "finetuning_tokens_m": (trained + read) / 1e6}
    row |= {f"{kind}_{unit}": math.nan for unit in ("pflop", "hours") for kind in ("prompting", "finetuning")}
    try:
        counts = count_parameters(model)
    except EmosafeError:
        return row
    inner, changed = counts["non_embedding"], trainable_parameters(model, counts)
    scoring, training = memory_gb(model, counts, changed, device.on_cpu)
    per_token = 6 if model.training.method == "full" else 4
    flop = {"prompting": 2 * inner * asked, "finetuning": inner * (per_token * trained + 2 * read)}
    row |= {"parameters_m": counts["total"] / 1e6, "scoring_gb": scoring, "training_gb": training}
    row["devices"] = math.ceil(max(scoring, training) / (USABLE_MEMORY * device.memory_gb))
    row |= {f"{name}_pflop": value / 1e15 for name, value in flop.items()}
    return row | {f"{name}_hours": value / rate(device, model, name) / 3600 for name, value in flop.items()}
