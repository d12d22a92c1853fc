"""A finished toy study for tests of pages and the reference: made-up rows and predictions, the real notebook 05."""

import shutil
import time
from pathlib import Path

import nbformat
import pandas as pd
import toy
from analysis_world import made_up_rows, model_table

from emosafe_lib.evaluation import predictions
from emosafe_lib.study import csv_files, files, stage
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.rows import write_rows
from workflow import digests, execute

SKILLS = {"nano-1": 0.2, "nano-2": 0.8, "nano-3": 1.4, "nano-4": 2.0, "minilm": 1.2}
LONG_TEXT = "a made up message that is long enough to be told from any other sentence in a table or a page"
STUDY = f"""
name: toy
title: Toy study
data:
  sources: [emosafe_sample]
analysis: {{resamples: 200}}
finetuning: {{budgets: [64]}}
models: [{", ".join(SKILLS)}]
"""
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHA = "0" * 64


def build(root: Path) -> str:
    """Make the checkout below `root` and every stage's files below `EMOSAFE_OUTPUTS`; returns the study's name."""
    toy.checkout(root)
    (root / "params" / "study" / "toy.yaml").write_text(STUDY)
    (root / "README.md").write_text("# Toy\n\n<!-- reference:begin -->\n<!-- reference:end -->\n")
    shutil.copy(toy.ROOT / "notebooks" / "05_scaling_analysis.ipynb", root / "notebooks")
    rows = made_up_rows(400, sources=3)
    rows["text"] = [f"{LONG_TEXT}, {words}" for words in rows["text"]]
    finish("01_data_merge", merged=rows)
    finish("02_chatgpt_augmentation", rows=rows.iloc[:0])
    for number, (name, skill) in enumerate(SKILLS.items()):
        runs = model_table(rows, name, skill, 100 * number)
        budget = runs[runs["setting"] == "fine-tuned"].assign(variant="budget-64")
        runs = pd.concat([runs, budget], ignore_index=True).drop(columns="model")
        prompted = runs["setting"].isin(["zero-shot", "few-shot"])
        finish("03_prompting_baselines", name, prompting=runs[prompted])
        finish("04_lora_finetuning", name, finetuning=runs[~prompted])
    execute.run_stage("05_scaling_analysis", "toy")
    finish("06_on_device")
    return "toy"


def finish(name: str, model: str | None = None, merged=None, rows=None, **runs) -> None:
    """One stage's files, page and receipt, without a kernel."""
    run = stage.begin(name, "toy", model)
    if merged is not None:
        write_rows(merged, run.out("rows.parquet"))
        card = {"rows": len(merged), "rows_human": len(merged), "sources": {name: {} for name in set(merged["source"])}}
        card |= {
            "sha256": SHA,
            "safety": {"test": merged[merged["split"] == "test"]["safety"].value_counts().to_dict()},
        }
        files.write_json(run.out("data_card.json", at="study"), card)
    if rows is not None:
        write_rows(rows, run.out("reinterpretations.parquet"))
    for kind, table in runs.items():
        predictions.write(table, run.out(f"predictions/{kind}.parquet", at="model"), model=model, data_sha256=SHA)
    csv_files.write_csv(pd.DataFrame({"name": ["a"], "value": [0.5]}), run.out("numbers.csv"))
    manifest = run.finish()
    temporary = run.base / "logs" / f"{name}.ipynb"
    temporary.parent.mkdir(exist_ok=True)
    temporary.write_text("")
    digest = digests.stage_digest(name, load_study("toy"), load_model(model) if model else None)
    execute.publish(page_of(name), temporary, run.folder, name, manifest, time.monotonic(), digest)


def page_of(name: str):
    """An executed notebook with what pages must carry: prose, code, a wide table, a figure, a long line."""
    wide = pd.DataFrame([range(40)], columns=[f"column_{i}" for i in range(40)]).to_html()
    data = [{"text/html": wide}, {"image/png": PIXEL}, {"text/plain": "x" * 400}]
    outputs = [nbformat.v4.new_output("display_data", data=each) for each in data]
    code = nbformat.v4.new_code_cell("print('" + "long " * 60 + "')", execution_count=1, outputs=outputs)
    cells = [nbformat.v4.new_markdown_cell(f"# {name}"), code]
    cells += [nbformat.v4.new_markdown_cell(f"## Section {number}") for number in range(3)]
    return nbformat.v4.new_notebook(cells=cells)
