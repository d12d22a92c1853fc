"""`make compare A=... B=...`: two finished studies, number by number, on the same rows.

A comparison of two runs is worth something only if both answered the same messages with the same labels. So the data cards'
hashes must agree, which cover texts, labels, groups and splits; then every cell that both studies have is compared by the
paired group bootstrap.
"""

import argparse
import json
from dataclasses import replace

import pandas as pd

from emosafe_lib.evaluation import results, scaling
from emosafe_lib.evaluation.paired_tests import difference, holm
from emosafe_lib.evaluation.power import detectable
from emosafe_lib.evaluation.results import Cell, Evidence
from emosafe_lib.study import csv_files
from emosafe_lib.study.errors import PredictionError, StageError
from emosafe_lib.study.parameters import load_model, load_study
from emosafe_lib.study.paths import outputs_root
from emosafe_lib.study.rows import read_rows

ROWS = ("01_data_merge/rows.parquet", "02_chatgpt_augmentation/reinterpretations.parquet")
ANALYSIS = "05_scaling_analysis/manifest.json"
NEEDED = "Both must have run as far as notebook 05, with the same `data:` section."


def load_evidence(name: str) -> tuple[Evidence, str]:
    """A finished study's evidence and data hash, from the files that its notebooks published.

    Its models are those of the run as notebook 05 recorded them: `MODELS=...` may have named others than the study
    does, and models of an earlier run may lie beside them.

    Raises
    ------
    StageError : the study has not been run that far
    PredictionError : its files do not belong together
    """
    study = load_study(name)
    base = outputs_root() / study.name
    for part in (*ROWS, "data_card.json", "results.csv", ANALYSIS):
        if not (base / part).is_file():
            raise StageError(f"outputs/{study.name}/{part}", "is not there", f"run `make study STUDY={name}`")
    sha256 = json.loads((base / "data_card.json").read_text(encoding="utf-8"))["sha256"]
    names = json.loads((base / ANALYSIS).read_text(encoding="utf-8"))["parameters"]["models"]
    models = {model: load_model(model) for model in names}
    paths = {
        (model, kind): path
        for model in models
        for kind in results.FILES
        if (path := base / model / "predictions" / f"{kind}.parquet").is_file()
    }
    table = results.read_files(paths, sha256)
    rows = read_rows(*(base / part for part in ROWS))
    return results.gather(study, models, dict.fromkeys(models), rows, table), sha256


def paired_table(first: Evidence, second: Evidence) -> pd.DataFrame:
    """Second study minus first, one row a cell and metric that both have.

    Columns: model, task, setting, variant, metric, first, second, value, low, high, p, p_holm, n, error, detectable. Only
    rows that both answered count; Holm's correction runs over a metric.

    Raises
    ------
    PredictionError : no model ran in both in one setting
    """
    rows = []
    cells = [cell for cell in [*first.cells(), *first.variants()] if second.keys(cell)]
    if not cells:
        names = f"{first.study.name} and {second.study.name}"
        raise PredictionError(names, "have no model and setting in common", "run one model in both")
    for cell in cells:
        rows += compare_cell(first, second, cell)
    columns = ["model", "task", "setting", "variant", "metric", "first", "second", "value", "low", "high", "p", "n"]
    table = pd.DataFrame(rows, columns=[*columns, "error"])
    by_metric = table.groupby("metric")["p"]
    table["p_holm"] = by_metric.transform(holm)
    tests = by_metric.transform("count").clip(lower=1)
    return table.assign(detectable=detectable(table["error"], tests, first.study.analysis.confidence))


def compare_cell(first: Evidence, second: Evidence, cell: Cell) -> list[dict]:
    """One cell's metrics in both studies; both must hold their test rows in the same order and draw alike."""
    mask = first.answered(cell) & second.answered(cell)
    a, b = first.score(cell, mask), second.score(cell, mask)
    rows = []
    for metric in scaling.METRICS:
        place = (metric, "")
        found = difference(
            b.values[place] - a.values[place], b.draws[place] - a.draws[place], first.study.analysis.confidence
        )
        row = {**cell._asdict(), "metric": metric, "first": a.values[place], "second": b.values[place]}
        row |= {"value": found.value, "low": found.low, "high": found.high, "p": found.p, "n": a.n}
        rows.append(row | {"error": found.error})
    return rows


def compare_studies(first: str, second: str) -> pd.DataFrame:
    """The paired table of two finished studies, by name; EmosafeError where they cannot be compared."""
    (a, hash_a), (b, hash_b) = load_evidence(first), load_evidence(second)
    if hash_a != hash_b:
        names = f"{a.study.name} and {b.study.name}"
        raise PredictionError(names, "were made from different data", "compare studies with one data section")
    on_the_same_resamples = replace(b, bootstrap=a.bootstrap, cache={})
    return paired_table(a, on_the_same_resamples)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write it to `outputs/compare/<first>-<second>.csv`."""
    parser = argparse.ArgumentParser(prog="emosafe compare", description=f"{__doc__.splitlines()[0]} {NEEDED}")
    parser.add_argument("first", help="name of a finished study")
    parser.add_argument("second", help="name of another, with the same data")
    names = parser.parse_args(arguments)
    table = compare_studies(names.first, names.second)
    first, second = (load_study(name).name for name in (names.first, names.second))
    path = outputs_root() / "compare" / f"{first}-{second}.csv"
    csv_files.write_csv(table, path)
    print(table.round(3).to_string(index=False))
    return 0
