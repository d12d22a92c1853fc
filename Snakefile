# What needs what. Each rule runs one notebook; `emosafe_lib/execute.py` says when it counts as done.
#
# A rule's output is the stage's receipt alone: Snakemake removes declared outputs before a job and after a failure, and a
# reader's last good notebook and page must survive both. What a stage depends on of ours (parameters, notebook, library
# modules) enters as one digest, so that a changed parameter reruns exactly the stages that read it.

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from emosafe_lib.execute import stage_digest
from emosafe_lib.params import load_model, load_study
from emosafe_lib.stage import outputs_root

STUDY = config.get("study", "sample")
PARAMS = load_study(STUDY)
MODELS = config["models"].split(",") if config.get("models") else PARAMS.models
NAMES = ",".join(MODELS)
LAST = config.get("until") or "index"
BASE = f"{outputs_root()}/{PARAMS.name}"
RUN = f"{sys.executable} -m emosafe_lib.execute"


def resource(name):
    return lambda wildcards: getattr(load_model(wildcards.model).resources, name)


def digest(stage):
    model = lambda wildcards: load_model(wildcards.model) if wildcards.get("model") else None
    return lambda wildcards: stage_digest(stage, PARAMS, model(wildcards), MODELS)


PER_MODEL = {stage: expand(f"{BASE}/{{model}}/{stage}/receipt.json", model=MODELS) for stage in ("03_prompting_baselines", "04_lora_finetuning")}
TARGETS = {
    "01_data_merge": f"{BASE}/01_data_merge/receipt.json",
    "02_chatgpt_augmentation": f"{BASE}/02_chatgpt_augmentation/receipt.json",
    **PER_MODEL,
    "05_scaling_analysis": f"{BASE}/05_scaling_analysis/receipt.json",
    "06_on_device": f"{BASE}/06_on_device/receipt.json",
    "index": f"{BASE}/index.html",
}

localrules: all, index
wildcard_constraints: model="[a-z0-9][a-z0-9_-]*"


rule all:
    input: TARGETS[LAST]


rule data_merge:
    output: f"{BASE}/01_data_merge/receipt.json"
    params: digest=digest("01_data_merge")
    threads: workflow.cores
    resources: mem_mb=4000, runtime=60
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 01_data_merge --study {STUDY} --after {{input}}"


rule chatgpt_augmentation:
    input: TARGETS["01_data_merge"]
    output: f"{BASE}/02_chatgpt_augmentation/receipt.json"
    params: digest=digest("02_chatgpt_augmentation")
    threads: workflow.cores
    resources: mem_mb=4000, runtime=240
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 02_chatgpt_augmentation --study {STUDY} --after {{input}}"


rule prompting_baselines:
    input: TARGETS["02_chatgpt_augmentation"]
    output: f"{BASE}/{{model}}/03_prompting_baselines/receipt.json"
    params: digest=digest("03_prompting_baselines")
    threads: resource("threads")
    resources: mem_mb=resource("memory_mb"), runtime=resource("minutes"), gpu=resource("gpus")
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 03_prompting_baselines --study {STUDY} --model {{wildcards.model}} --after {{input}}"


rule lora_finetuning:
    input: TARGETS["02_chatgpt_augmentation"]
    output: f"{BASE}/{{model}}/04_lora_finetuning/receipt.json"
    params: digest=digest("04_lora_finetuning")
    threads: resource("threads")
    priority: 1
    resources: mem_mb=resource("memory_mb"), runtime=resource("minutes"), gpu=resource("gpus")
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 04_lora_finetuning --study {STUDY} --model {{wildcards.model}} --after {{input}}"


rule scaling_analysis:
    input: PER_MODEL["03_prompting_baselines"], PER_MODEL["04_lora_finetuning"]
    output: f"{BASE}/05_scaling_analysis/receipt.json"
    params: digest=digest("05_scaling_analysis")
    threads: workflow.cores
    resources: mem_mb=4000, runtime=60
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 05_scaling_analysis --study {STUDY} --models {NAMES} --after {{input}}"


rule on_device:
    input: TARGETS["05_scaling_analysis"]
    output: f"{BASE}/06_on_device/receipt.json"
    params: digest=digest("06_on_device")
    threads: workflow.cores
    resources: mem_mb=4000, runtime=60
    shell: f"exec env OMP_NUM_THREADS={{threads}} {RUN} stage 06_on_device --study {STUDY} --models {NAMES} --after {{input}}"


rule index:
    input: TARGETS["05_scaling_analysis"], TARGETS["06_on_device"]
    output: TARGETS["index"]
    params: digest=digest("05_scaling_analysis")
    shell: f"{RUN} index --study {STUDY} --models {NAMES}"
