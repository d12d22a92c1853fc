"""`make plan`: what a study will ask for, before anybody pays for it, and what earlier runs of it really took.

The graph and the number of jobs come from Snakemake itself. Sizes are counted on PyTorch's meta device, so that a 70 B
model can be planned on a laptop without its weights. Tokens follow from the study's rows and settings, operations from
tokens and sizes (2 N a token forwards, 4 N for LoRA, 6 N for full training; Kaplan et al. 2020, arXiv 2001.08361,
section 2.1; LoRA spares the gradients of frozen weights), hours from operations and a stated share of a device's peak.
All of that is computed and marked so; what manifests measured stands beside it and corrects what a scheduler is asked.
Hours that this checkout's own runs took go before computed ones in a plan for a CPU; those of the committed reference do
not, since another machine made it.
"""

import argparse
import math
import os

from networkx import DiGraph

from emosafe_lib.models.precision import bf16_slowness
from emosafe_lib.study import paths
from emosafe_lib.study import stage as stages
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model, load_study
from emosafe_lib.study.paths import settled
from workflow.costs import AMX_CPU, CHARACTERS_PER_TOKEN, HARDWARE, PLAIN_CPU, Rows, costs, rows_of
from workflow.graph import Job, critical_path, drawing, graph_of
from workflow.receipts import RECEIPT, read_or_empty
from workflow.resources import is_own, measured

OWN, REFERENCE = "yours", "the reference"
# The stages of a model: the column of their memory, and how the columns of their work begin.
COSTED = {"03_prompting_baselines": ("scoring_gb", "prompting"), "04_lora_finetuning": ("training_gb", "finetuning")}


def comparison(study: StudyParams, models: dict[str, ModelParams], table):
    """Computed beside measured, one row a stage and model that has run with these parameters.

    Returns
    -------
    columns stage, model, computed_gb, measured_gb (the process, with Python and its libraries), computed_minutes (on
    the hardware of `table`, from `costs`), measured_minutes, overhead_s (the runner's, where its receipt is at hand), run
    (`OWN`, or `REFERENCE` for the committed one)
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
        found.append(row | {"run": OWN if is_own(manifest, study) else REFERENCE})
    return pd.DataFrame(found)


def overhead_seconds(study: StudyParams, stage: str, model: str | None) -> float:
    """Seconds that the runner added to a notebook's own work, from the stage's receipt; NaN without one."""
    receipt = read_or_empty(paths.stage_folder(study.name, stage, model) / RECEIPT)
    return receipt.get("overhead_seconds", math.nan)


def job_hours(table, beside, graph: DiGraph, on_cpu: bool) -> dict[Job, float]:
    """Hours of every job, nothing where they are unknown.

    `table` (from `costs`) has those of a model's stages. What this checkout's own runs measured, in `beside` (from
    `comparison`), goes first in a plan for a CPU; one for a GPU takes from it the stages of the whole study, which run on a
    CPU anyhow. For these alone the reference run stands in.
    """
    hours = {
        (stage, row["model"]): row[f"{kind}_hours"]
        for row in table.to_dict("records")
        for stage, (_, kind) in COSTED.items()
    }
    for row in beside.itertuples():
        if not row.model or (on_cpu and row.run == OWN):
            hours[row.stage, row.model] = row.measured_minutes / 60
    known = {name: value for name, value in hours.items() if not math.isnan(value)}
    return {job: known.get((job.stage, job.model), 0.0) for job in graph}


def report(study_name: str, models: list[str], hardware: str, cores: int) -> str:
    """The whole plan as text."""
    study = load_study(study_name)
    names = models or study.models
    loaded = {name: load_model(name) for name in names}
    graph, device = graph_of(study_name, names, cores), HARDWARE[hardware]
    table = costs(study, loaded, hardware)
    beside = comparison(study, loaded, table)
    hours = job_hours(table, beside, graph, on_cpu=device.on_cpu)
    path, longest = critical_path(graph, hours)
    now = sum(job.runs_now for job in graph)
    parts = [f"Plan of the study {study.name!r}: {len(graph)} jobs, {now} of them to run now", *drawing(graph), ""]
    basis = "as measured by earlier runs here, else computed" if device.on_cpu else "computed for the models' stages"
    parts += [f"Critical path, {longest:.2f} h ({basis}): " + " → ".join(job.label for job in path)]
    unknown = [job.label for job in path if not hours[job] and job.stage in stages.STAGES]
    parts += [f"  (counted as nothing, since unknown: {', '.join(unknown)})"] if unknown else []
    parts += [f"All jobs one after the other: {sum(hours.values()):.2f} h", ""]
    parts += [
        f"Per model, computed for {hardware}: {device.peak / 1e12:g} TFLOP/s at peak ({device.source}), {device.share:.0%} "
        f"of it counted on, {device.memory_gb:g} GB; hours are those of one device"
    ]
    parts += [printed(table), *notes(study, rows_of(study), table), ""]
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
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="emosafe run plan", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--study", default="sample", type=settled, help="its name in params/study, or a path that ends in .yaml"
    )
    parser.add_argument("--models", default="", help="names separated by spaces; the study's own where empty")
    parser.add_argument(
        "--hardware",
        default="",
        choices=["", *HARDWARE],
        help="the machine to plan for; by default an A100 if a model asks for a GPU, else a CPU like this one",
    )
    parser.add_argument(
        "--cores", type=int, default=2, help="CPU cores that the study would use; no hours depend on it"
    )
    chosen = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1"}  # sizes come from declared shapes or weights at hand
    models = chosen.models.replace(",", " ").split()
    hardware = chosen.hardware or hardware_for(models or load_study(chosen.study).models)
    print(report(chosen.study, models, hardware, chosen.cores))
    return 0


def hardware_for(models: list[str]) -> str:
    """What a plan is for where nobody says: a GPU if a model asks for one, else a CPU like this one."""
    if any(load_model(name).resources.gpus for name in models):
        return "A100 80GB"
    return AMX_CPU if bf16_slowness() < 1 else PLAIN_CPU
