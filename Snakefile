# What needs what. Each rule runs one notebook; `emosafe_lib/execute.py` says when it counts as done.
#
# A rule's output is the stage's receipt alone: Snakemake removes declared outputs before a job and after a failure, and a
# reader's last good notebook and page must survive both. What a stage depends on of ours (parameters, notebook, library
# modules, data and weights that come with the package) enters as one digest, so that a change reruns exactly the stages
# that read it. What a job asks of a scheduler is what its parameter file declares, corrected by what an earlier run with
# the same parameters measured.

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from emosafe_lib.execute import INDEXED, stage_digest
from emosafe_lib.params import load_model, load_study
from emosafe_lib.plan import resources
from emosafe_lib.stage import concerns, outputs_root

STUDY = str(config.get("study", "sample"))
PARAMS = load_study(STUDY)
MODELS = config["models"].split(",") if config.get("models") else PARAMS.models
NAMES = ",".join(MODELS)
LAST = config.get("until") or "index"
BASE = f"{outputs_root()}/{PARAMS.name}"
RUN = f"{shlex.quote(sys.executable)} -m emosafe_lib.execute"
# `exec` makes the stage Snakemake's own child, so that it notices when Snakemake dies.
STAGE = f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage --study {shlex.quote(STUDY)}"
THIS_MODEL, ALL_MODELS, AFTER = "--model {wildcards.model}", f"--models {NAMES}", "--after {input:q}"


def model(wildcards):
    return load_model(wildcards.model) if wildcards.get("model") else None


def digest(stage):
    return lambda wildcards: stage_digest(stage, PARAMS, model(wildcards), MODELS)


def ask(stage, name):
    return lambda wildcards: getattr(resources(stage, PARAMS, model(wildcards), MODELS), name)


def size(name):
    shape = load_model(name).shape
    return shape.layers * shape.hidden**2 if shape else 0


def asked_minutes(name):
    return resources("04_lora_finetuning", PARAMS, load_model(name), MODELS).minutes


# The longest first: started last, it would keep one core busy and leave the others idle. Training before prompting, of
# which there is less; encoders, which declare no shape, are prompted in seconds.
BY_SIZE = sorted(MODELS, key=size)
BY_MINUTES = sorted(MODELS, key=lambda name: (asked_minutes(name), size(name)))


def per_model(stage):
    concerned = [name for name in MODELS if concerns(stage, load_model(name))]
    return expand(f"{BASE}/{{model}}/{stage}/receipt.json", model=concerned)


TARGETS = {
    "01_data_merge": f"{BASE}/01_data_merge/receipt.json",
    "02_chatgpt_augmentation": f"{BASE}/02_chatgpt_augmentation/receipt.json",
    "03_prompting_baselines": per_model("03_prompting_baselines"),
    "04_lora_finetuning": per_model("04_lora_finetuning"),
    "05_scaling_analysis": f"{BASE}/05_scaling_analysis/receipt.json",
    "06_on_device": f"{BASE}/06_on_device/receipt.json",
    "index": f"{BASE}/{INDEXED}",
}

localrules: all, index
wildcard_constraints: model="[a-z0-9][a-z0-9_-]*"


rule all:
    input: TARGETS[LAST]


rule data_merge:
    output: TARGETS["01_data_merge"]
    params: digest=digest("01_data_merge")
    threads: workflow.cores
    resources: mem_mb=ask("01_data_merge", "memory_mb"), runtime=ask("01_data_merge", "minutes")
    shell: f"{STAGE} 01_data_merge {AFTER}"


rule chatgpt_augmentation:
    input: TARGETS["01_data_merge"]
    output: TARGETS["02_chatgpt_augmentation"]
    params: digest=digest("02_chatgpt_augmentation")
    threads: workflow.cores
    resources: mem_mb=ask("02_chatgpt_augmentation", "memory_mb"), runtime=ask("02_chatgpt_augmentation", "minutes")
    shell: f"{STAGE} 02_chatgpt_augmentation {AFTER}"


rule prompting_baselines:
    input: TARGETS["02_chatgpt_augmentation"]
    output: f"{BASE}/{{model}}/03_prompting_baselines/receipt.json"
    params: digest=digest("03_prompting_baselines")
    threads: ask("03_prompting_baselines", "threads")
    priority: lambda wildcards: BY_SIZE.index(wildcards.model)
    resources:
        mem_mb=ask("03_prompting_baselines", "memory_mb"),
        runtime=ask("03_prompting_baselines", "minutes"),
        gpu=ask("03_prompting_baselines", "gpus")
    shell: f"{STAGE} 03_prompting_baselines {THIS_MODEL} {AFTER}"


rule lora_finetuning:
    input: TARGETS["02_chatgpt_augmentation"]
    output: f"{BASE}/{{model}}/04_lora_finetuning/receipt.json"
    params: digest=digest("04_lora_finetuning")
    threads: ask("04_lora_finetuning", "threads")
    priority: lambda wildcards: len(MODELS) + BY_MINUTES.index(wildcards.model)
    resources:
        mem_mb=ask("04_lora_finetuning", "memory_mb"),
        runtime=ask("04_lora_finetuning", "minutes"),
        gpu=ask("04_lora_finetuning", "gpus")
    shell: f"{STAGE} 04_lora_finetuning {THIS_MODEL} {AFTER}"


rule scaling_analysis:
    input: TARGETS["03_prompting_baselines"], TARGETS["04_lora_finetuning"]
    output: TARGETS["05_scaling_analysis"]
    params: digest=digest("05_scaling_analysis")
    threads: workflow.cores
    resources: mem_mb=ask("05_scaling_analysis", "memory_mb"), runtime=ask("05_scaling_analysis", "minutes")
    shell: f"{STAGE} 05_scaling_analysis {ALL_MODELS} {AFTER}"


rule on_device:
    input: TARGETS["05_scaling_analysis"]
    output: TARGETS["06_on_device"]
    params: digest=digest("06_on_device")
    threads: workflow.cores
    resources: mem_mb=ask("06_on_device", "memory_mb"), runtime=ask("06_on_device", "minutes")
    shell: f"{STAGE} 06_on_device {ALL_MODELS} {AFTER}"


rule index:
    input: TARGETS["05_scaling_analysis"], TARGETS["06_on_device"]
    output: TARGETS["index"]
    params: digest=digest("05_scaling_analysis")
    shell: f"{RUN} index --study {shlex.quote(STUDY)} {ALL_MODELS}"
