"""`make plan`: what a study will ask for, before anybody pays for it, and what earlier runs of it really took.

The graph and the number of jobs come from Snakemake itself. Sizes are counted on PyTorch's meta device, so that a 70 B
model can be planned on a laptop without its weights. Tokens follow from the study's rows and settings, operations from
tokens and sizes (2 N a token forwards, 4 N for LoRA, 6 N for full training; Kaplan et al. 2020, arXiv 2001.08361,
section 2.1; LoRA spares the gradients of frozen weights), hours from operations and a stated share of a device's peak.
All of that is computed and marked so; what manifests measured stands beside it and corrects what a scheduler is asked.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from emosafe_lib import stage as stages
from emosafe_lib.engine import snakemake_arguments
from emosafe_lib.errors import EmosafeError, StageError
from emosafe_lib.params import ModelParams, ResourceParams, StudyParams, load_model, load_study, project_root, settled

CHARACTERS_PER_TOKEN = 4
FRAME_TOKENS = 16  # a chat template around one question and its answer
SHOWN_TOKENS = 64  # an exemplar's message in a few-shot prompt, at most
TRAINED_BYTES = 16  # weight, gradient and Adam's two moments in fp32
STUDY_RESOURCES = ResourceParams(memory_mb=4000, minutes=240)
GB, USABLE_MEMORY = 1e9, 0.9
MEMORY_SLACK, SPARE_MB, TIME_SLACK, SPARE_MINUTES = 1.25, 1000, 2.0, 10
# The stages of a model: the column of their memory, and how the columns of their work begin.
COSTED = {"03_prompting_baselines": ("scoring_gb", "prompting"), "04_lora_finetuning": ("training_gb", "finetuning")}
RULES = {name.partition("_")[2]: name for name in stages.STAGES}
DOT_NODE = re.compile(r'^\s*(\d+)\[label = "(.*?)".*style="([^"]*)"', re.MULTILINE)
DOT_EDGE = re.compile(r"^\s*(\d+) -> (\d+)", re.MULTILINE)


class Hardware(NamedTuple):
    """A device: operations a second at its peak for the dtype that we use, the share of it that we count on, memory, and
    whether everything runs there in fp32, unquantized.
    """

    peak: float
    share: float
    memory_gb: float
    source: str
    fp32: bool = False


# GPUs: dense bf16 without sparsity and memory as in NVIDIA's data sheets; the share is what well-batched transformers
# reach in practice without tuning. CPU: fp32 matrix products measured on two cores, and the share that training reached.
HARDWARE = {
    "2 CPU cores": Hardware(120e9, 0.4, 24, "measured fp32", fp32=True),
    "RTX 4090": Hardware(165e12, 0.3, 24, "data sheet"),
    "A100 80GB": Hardware(312e12, 0.3, 80, "data sheet"),
    "H100 SXM": Hardware(989e12, 0.3, 80, "data sheet"),
}


class Job(NamedTuple):
    """One node of the graph."""

    stage: str
    model: str
    runs_now: bool

    @property
    def label(self) -> str:
        """How progress lines name it."""
        return f"{self.stage} {self.model}".strip()


class Graph(NamedTuple):
    """Jobs by Snakemake's number, and for each the numbers of those that it waits for."""

    jobs: dict[int, Job]
    needs: dict[int, list[int]]


class Rows(NamedTuple):
    """Rows that the stages meet, and the mean tokens of a text before any cap (None: unknown, so the cap is taken)."""

    train: int
    validation: int
    test: int
    text_tokens: float | None


def graph_of(study: str, models: list[str], cores: int) -> Graph:
    """The jobs of a study as Snakemake sees them, those that would run now marked.

    Raises
    ------
    StageError : Snakemake refuses the study
    """
    from emosafe_lib.execute import what_to_run

    told = snakemake_arguments(project_root(), cores, study=study, models=",".join(models))
    command = [sys.executable, "-m", "snakemake", *told, *what_to_run(load_study(study), models), "--dag"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageError("plan", f"Snakemake refused the study ({last[:200]})", "see `make study`")
    return read_dot(done.stdout)


def read_dot(text: str) -> Graph:
    """The graph in Snakemake's dot output, without the rule that only gathers."""
    jobs = {}
    for number, label, style in DOT_NODE.findall(text):
        rule, _, wildcards = label.partition("\\n")
        if rule != "all":
            jobs[int(number)] = Job(RULES.get(rule, rule), wildcards.removeprefix("model: "), "dashed" not in style)
    needs = {number: [] for number in jobs}
    for first, second in DOT_EDGE.findall(text):
        if int(second) in needs:
            needs[int(second)].append(int(first))
    return Graph(jobs, needs)


def critical_path(graph: Graph, hours: dict[Job, float]) -> tuple[list[Job], float]:
    """The chain of jobs that takes longest, and its hours: no number of machines makes the study faster than it."""

    @cache
    def longest(number: int) -> tuple[float, tuple[int, ...]]:
        before = max((longest(other) for other in graph.needs[number]), default=(0.0, ()))
        return before[0] + hours.get(graph.jobs[number], 0.0), (*before[1], number)

    total, chain = max((longest(number) for number in graph.jobs), default=(0.0, ()))
    return [graph.jobs[number] for number in chain], total


def drawing(graph: Graph) -> list[str]:
    """The graph as lines, level by level; jobs of one notebook stand together."""

    @cache
    def level(number: int) -> int:
        return 1 + max((level(other) for other in graph.needs[number]), default=0)

    lines = []
    for depth in sorted({level(number) for number in graph.jobs}):
        here = [graph.jobs[number] for number in graph.jobs if level(number) == depth]
        for stage in dict.fromkeys(job.stage for job in here):
            models = [job.model for job in here if job.stage == stage and job.model]
            lines.append(f"  {depth}. {stage}" + (f" × {len(models)}: {', '.join(models)}" if models else ""))
    return lines


def rows_of(study: StudyParams) -> Rows | None:
    """Rows by split from the data card of an earlier run; None where notebook 01 has not run."""
    for base in run_folders(study):
        card = base / "data_card.json"
        if card.is_file():
            splits = json.loads(card.read_text(encoding="utf-8"))["safety"]
            counts = {name: sum(classes.values()) for name, classes in splits.items()}
            counts["train"] += accepted(base)
            return Rows(counts["train"], counts["validation"], counts["test"], mean_tokens(base))
    return None


def accepted(base: Path) -> int:
    """Re-interpretations that notebook 02 added to the training rows; 0 where it has not run."""
    card = base / "augmentation_card.json"
    return json.loads(card.read_text(encoding="utf-8"))["accepted"] if card.is_file() else 0


def mean_tokens(base: Path) -> float | None:
    """Mean length of the merged texts in tokens, by characters; None where the rows are not at hand."""
    path = base / "01_data_merge" / "rows.parquet"
    if not path.is_file():
        return None
    import pandas as pd

    return float(pd.read_parquet(path, columns=["text"])["text"].str.len().mean() / CHARACTERS_PER_TOKEN)


def run_folders(study: StudyParams) -> list[Path]:
    """Where earlier runs of a study may have left manifests: its outputs, then the reference run."""
    return [stages.outputs_root() / study.name, project_root() / "outputs" / "reference" / study.name]


def capped(rows: Rows | None, split: str, cap: int | None) -> float:
    """Rows of a split under a study's cap; NaN where neither is known."""
    known = [number for number in (getattr(rows, split, None), cap) if number is not None]
    return float(min(known)) if known else math.nan


def text_tokens(rows: Rows | None, cap: int) -> float:
    """Tokens of one text: the mean of the merged texts, at most the cap, which stands in where they are not at hand."""
    return min(cap, rows.text_tokens) if rows and rows.text_tokens else float(cap)


def prompt_tokens(task: str, variant: str, setting: str, shots: int) -> tuple[float, float]:
    """Tokens of the prefix, before its exemplars are cut to a context, and of all questions with their answers."""
    from emosafe_lib.prompts import INSTRUCTIONS, VERBALIZERS, questions_of

    prefix, questions = len(INSTRUCTIONS[task, variant]) / CHARACTERS_PER_TOKEN, questions_of(task, variant)
    if setting == "few-shot":
        turns = len(questions) * shots * len(VERBALIZERS[task])
        prefix += turns * (SHOWN_TOKENS + FRAME_TOKENS)
    asked = sum(len(words) / CHARACTERS_PER_TOKEN + FRAME_TOKENS for words in {q.words for q in questions})
    asked += sum(len(q.cue) for q in questions) / CHARACTERS_PER_TOKEN
    return prefix, asked


def prompting_tokens(study: StudyParams, model: ModelParams, rows: Rows | None) -> float:
    """Tokens that notebook 03 sends through a model: each message once with all questions, the prefix once a shard and
    once for the content-free inputs.
    """
    from emosafe_lib.scoring import SHARD_ROWS, ways_of_asking

    settings = study.prompting
    parts = capped(rows, "test", settings.evaluation_rows), capped(rows, "validation", settings.validation_rows)
    messages, total = sum(parts), 0.0
    readings = 1 + (0 if math.isnan(messages) else sum(math.ceil(n / SHARD_ROWS) for n in parts))
    for way in ways_of_asking(settings):
        prefix, asked = prompt_tokens(way["task"], way["variant"], way["setting"], settings.shots_per_class)
        if model.family == "encoder":
            prefix, asked = 0.0, 0.0
        prefix = min(prefix, model.context_tokens)
        total += readings * prefix + messages * (text_tokens(rows, settings.max_text_tokens) + asked)
    return total


def finetuning_tokens(study: StudyParams, model: ModelParams, rows: Rows | None) -> tuple[float, float]:
    """Tokens that notebook 04 trains on and those that it only reads (validation each epoch, test, features); none for a
    model that a server answers for.
    """
    from emosafe_lib.finetune import runs_of
    from emosafe_lib.training import epochs_of

    if not stages.concerns("04_lora_finetuning", model):
        return 0.0, 0.0
    settings = study.finetuning
    length = text_tokens(rows, settings.max_length)
    train = capped(rows, "train", settings.train_rows)
    validation = capped(rows, "validation", settings.validation_rows)
    test = capped(rows, "test", settings.evaluation_rows)
    trained, read = 0.0, length * (train + validation + test)
    step = model.training.tokens_per_batch * model.training.accumulation
    for run in runs_of(settings):
        seen = length * min(train, run.get("budget") or train)
        epochs = settings.epochs if math.isnan(seen) else epochs_of(settings, math.ceil(seen / step))
        trained += epochs * seen
        read += length * (epochs * validation + test)
    return trained, read


def trainable_parameters(model: ModelParams, counts: dict[str, int]) -> int:
    """Parameters that training changes: all, or LoRA's two factors at every linear layer of the blocks."""
    if model.training.method == "full":
        return counts["total"]
    from torch import nn

    from emosafe_lib.capacity import on_meta

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

    Scoring holds weights, keys and values and one layer's activations; training holds weights, what is trained, and the
    activations of all layers, since nothing is recomputed. A model that a server answers for is not fine-tuned.
    """
    from emosafe_lib import capacity

    config = capacity.configuration(model)
    stored = "bfloat16" if model.dtype == "float16" else model.dtype
    dtype = "float32" if fp32 else model.quantization if model.quantization != "none" else stored
    weights = capacity.weight_bytes(counts, dtype)
    scoring = weights + capacity.cache_bytes(config, dtype, 1, model.tokens_per_batch)
    scoring += capacity.activation_bytes(config, dtype, 1, model.tokens_per_batch)
    kept = capacity.activation_bytes(config, dtype, 1, model.training.tokens_per_batch) * config.num_hidden_layers
    base = 0 if model.training.method == "full" else weights
    if not stages.concerns("04_lora_finetuning", model):
        return scoring / GB, 0.0
    return scoring / GB, (base + trained * TRAINED_BYTES + kept) / GB


def costs(study: StudyParams, models: dict[str, ModelParams], hardware: str):
    """What each model asks for, one row a model, all computed.

    Returns
    -------
    columns model, parameters_m, scoring_gb, training_gb, devices (by memory alone), prompting_tokens_m,
    finetuning_tokens_m (trained and read), gb and fp32_gb (the larger of both notebooks), prompting_pflop,
    finetuning_pflop, prompting_hours, finetuning_hours (of one device), basis ("computed"); NaN where rows or sizes are
    unknown
    """
    import pandas as pd

    rows, device = rows_of(study), HARDWARE[hardware]
    table = [cost_of(study, model, rows, device) for model in models.values()]
    return pd.DataFrame(table).assign(basis="computed")


def cost_of(study: StudyParams, model: ModelParams, rows: Rows | None, device: Hardware) -> dict:
    """One row of `costs`; a model whose size cannot be counted offline keeps its tokens only."""
    from emosafe_lib.capacity import count_parameters

    asked = prompting_tokens(study, model, rows)
    trained, read = finetuning_tokens(study, model, rows)
    row = {"model": model.name, "parameters_m": math.nan, "scoring_gb": math.nan, "training_gb": math.nan}
    row |= {"devices": math.nan, "prompting_tokens_m": asked / 1e6, "finetuning_tokens_m": (trained + read) / 1e6}
    row |= {"gb": math.nan, "fp32_gb": math.nan}
    row |= {f"{kind}_{unit}": math.nan for unit in ("pflop", "hours") for kind in ("prompting", "finetuning")}
    try:
        counts = count_parameters(model)
    except EmosafeError:
        return row
    inner, changed = counts["non_embedding"], trainable_parameters(model, counts)
    scoring, training = memory_gb(model, counts, changed, device.fp32)
    row |= {name: max(memory_gb(model, counts, changed, fp32)) for name, fp32 in (("gb", False), ("fp32_gb", True))}
    per_token = 6 if model.training.method == "full" else 4
    flop = {"prompting": 2 * inner * asked, "finetuning": inner * (per_token * trained + 2 * read)}
    row |= {"parameters_m": counts["total"] / 1e6, "scoring_gb": scoring, "training_gb": training}
    row["devices"] = math.ceil(max(scoring, training) / (USABLE_MEMORY * device.memory_gb))
    row |= {f"{name}_pflop": value / 1e15 for name, value in flop.items()}
    return row | {f"{name}_hours": value / (device.peak * device.share) / 3600 for name, value in flop.items()}


def by_hardware(table):
    """Hours of both notebooks of each model on each device, and how many of it their memory fills; computed.

    Returns
    -------
    columns model, then one a device: "hours (devices)"
    """
    import pandas as pd

    work = table[["prompting_pflop", "finetuning_pflop"]].sum(axis=1, min_count=2)
    columns = {"model": table["model"]}
    for name, device in HARDWARE.items():
        hours = work * 1e15 / (device.peak * device.share) / 3600
        devices = (table["fp32_gb" if device.fp32 else "gb"] / (USABLE_MEMORY * device.memory_gb)).apply(math.ceil)
        columns[name] = [f"{'–' if h != h else f'{h:,.3g}'} h ({n})" for h, n in zip(hours, devices, strict=True)]
    return pd.DataFrame(columns)


def measured(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> dict | None:
    """The manifest of an earlier run of this stage with these very parameters on rows of the same data, or None.

    A run that took up work of a killed one measured what was left of it, and counts as none.
    """
    wanted = {"01_data_merge": (None, []), stage: (model, models)}
    for base in run_folders(study):
        for name, (of, among) in wanted.items():
            path = (base / of.name if of else base) / name / "manifest.json"
            manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if manifest.get("parameters") != stages.parameters_of(name, study, of, among):
                break
        else:
            if not manifest.get("resumed"):
                return manifest
    return None


def resources(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> ResourceParams:
    """What to ask a scheduler for: what the model's parameter file declares (`STUDY_RESOURCES` for a stage of the whole
    study), corrected by an earlier run with the same parameters. What was declared anew since that run is asked for as
    it stands: whoever raises a limit has seen it hit.

    A measured peak is that of the notebook's process; a job also holds the runner and its engine.
    """
    declared, earlier = (model.resources if model else STUDY_RESOURCES), measured(stage, study, model, models)
    if earlier is None or (model and earlier.get("resources") not in (None, declared.model_dump())):
        return declared
    memory = math.ceil(earlier["peak_memory_mb"] * MEMORY_SLACK / 100) * 100 + SPARE_MB
    minutes = math.ceil(earlier["seconds"] / 60 * TIME_SLACK) + SPARE_MINUTES
    return declared.model_copy(update={"memory_mb": memory, "minutes": minutes})


def comparison(study: StudyParams, models: dict[str, ModelParams], table):
    """Computed beside measured, one row a stage and model that has run with these parameters.

    Returns
    -------
    columns stage, model, computed_gb, measured_gb (the process, with Python and its libraries), computed_minutes (on
    the hardware of `table`, from `costs`), measured_minutes, overhead_s (the runner's, where its receipt is at hand),
    machine
    """
    import pandas as pd

    found, computed, all_models = [], table.set_index("model"), list(models)
    pairs = [(stage, name) for stage in stages.STAGES for name in (all_models if stage in COSTED else [None])]
    for stage, name in pairs:
        manifest = measured(stage, study, models[name] if name else None, all_models)
        if manifest is None:
            continue
        row = {"stage": stage, "model": name or "", "computed_gb": math.nan, "computed_minutes": math.nan}
        if name:
            memory, kind = COSTED[stage]
            row["computed_gb"] = computed.at[name, memory]
            row["computed_minutes"] = 60 * computed.at[name, f"{kind}_hours"]
        row |= {"measured_gb": manifest["peak_memory_mb"] * 2**20 / 1e9, "measured_minutes": manifest["seconds"] / 60}
        row["overhead_s"] = overhead_seconds(study, stage, name)
        found.append(row | {"machine": f"{manifest['versions'].get('cpus', '?')} cpus"})
    return pd.DataFrame(found)


def overhead_seconds(study: StudyParams, stage: str, model: str | None) -> float:
    """Seconds that the runner added to a notebook's own work, from the stage's receipt; NaN without one."""
    path = stages.stage_folder(study.name, stage, model) / "receipt.json"
    return json.loads(path.read_text(encoding="utf-8"))["overhead_seconds"] if path.is_file() else math.nan


def job_hours(study: StudyParams, models: dict[str, ModelParams], table, graph: Graph) -> dict[Job, float]:
    """Hours of every job: computed for a model's stages; for the others as measured, where they have been."""
    computed, hours = table.set_index("model"), {}
    for job in graph.jobs.values():
        if job.stage in COSTED:
            value = computed.at[job.model, f"{COSTED[job.stage][1]}_hours"]
        else:
            manifest = measured(job.stage, study, None, list(models)) if job.stage in stages.STAGES else None
            value = manifest["seconds"] / 3600 if manifest else math.nan
        hours[job] = 0.0 if math.isnan(value) else value
    return hours


def report(study_name: str, models: list[str], hardware: str, cores: int) -> str:
    """The whole plan as text."""
    study = load_study(study_name)
    names = models or study.models
    loaded = {name: load_model(name) for name in names}
    graph, device = graph_of(study_name, names, cores), HARDWARE[hardware]
    table = costs(study, loaded, hardware)
    hours = job_hours(study, loaded, table, graph)
    path, longest = critical_path(graph, hours)
    now = sum(job.runs_now for job in graph.jobs.values())
    parts = [f"Plan of the study {study.name!r}: {len(graph.jobs)} jobs, {now} of them to run now", *drawing(graph), ""]
    parts += ["Critical path, " + f"{longest:.2f} h: " + " → ".join(job.label for job in path)]
    unknown = [job.label for job in path if not hours[job]]
    parts += [f"  (counted as nothing, since never measured: {', '.join(unknown)})"] if unknown else []
    parts += [f"All jobs one after the other: {sum(hours.values()):.2f} h", ""]
    parts += [
        f"Per model, computed for {hardware}: {device.peak / 1e12:g} TFLOP/s at peak ({device.source}), {device.share:.0%} "
        f"of it counted on, {device.memory_gb:g} GB; hours are those of one device"
    ]
    parts += [printed(table.drop(columns=["gb", "fp32_gb"])), *notes(study, rows_of(study), table), ""]
    parts += ["The same on other hardware, computed: hours of one device (devices that the memory fills)"]
    parts += [printed(by_hardware(table.dropna(subset=["parameters_m"]))), ""]
    beside = comparison(study, loaded, table)
    if len(beside):
        parts += ["Computed beside measured, where a manifest with these parameters exists", printed(beside)]
    else:
        parts += ["No manifest of an earlier run with these parameters, so nothing measured stands beside."]
    return "\n".join(parts)


def printed(table) -> str:
    """A table for a terminal: four significant digits, a dash where unknown."""
    return table.to_string(index=False, na_rep="–", float_format=lambda value: f"{value:,.4g}")


def notes(study: StudyParams, rows: Rows | None, table) -> list[str]:
    """What the numbers rest on, in words."""
    said = []
    if rows is None:
        said.append(
            f"No data card: rows are the study's caps; `make stage STAGE=01_data_merge STUDY={study.name}` counts"
        )
    if rows is None or rows.text_tokens is None:
        said.append("Merged texts are not at hand: every text counts as long as the study allows")
    else:
        said.append(
            f"A text has {rows.text_tokens:.0f} tokens on average, at {CHARACTERS_PER_TOKEN} characters a token"
        )
    unknown = table.loc[table["parameters_m"].isna(), "model"].tolist()
    if unknown:
        said.append(f"No shape and no weights at hand, so no size: {', '.join(unknown)}")
    return said


def main(arguments: list[str] | None = None) -> int:
    """Print the plan; 1 and one line on an expected failure."""
    parser = argparse.ArgumentParser(prog="python -m emosafe_lib.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="sample", type=settled)
    parser.add_argument("--models", default="", help="names separated by spaces; the study's own where empty")
    parser.add_argument("--hardware", default="", choices=["", *HARDWARE])
    parser.add_argument("--cores", type=int, default=2)
    chosen = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1"}  # sizes come from declared shapes or weights at hand
    models = chosen.models.replace(",", " ").split()
    try:
        gpus = any(load_model(name).resources.gpus for name in models or load_study(chosen.study).models)
        print(report(chosen.study, models, chosen.hardware or ("A100 80GB" if gpus else "2 CPU cores"), chosen.cores))
    except EmosafeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
