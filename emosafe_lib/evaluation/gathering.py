"""All that a run of notebook 05 rests on, in one call, so that its first screen can answer and the rest explain.

The rows come from notebooks 01 and 02, the answers from every model's prediction files and from the baselines, which
are fitted here because they take seconds.
"""

import json

import pandas as pd

from emosafe_lib.evaluation import baselines, predictions, results, scaling
from emosafe_lib.evaluation.results import FILES, Evidence
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.progress import bar
from emosafe_lib.study.rows import read_rows

ROWS = ("01_data_merge/rows.parquet", "02_chatgpt_augmentation/reinterpretations.parquet")


def gather_run(run) -> tuple[pd.DataFrame, pd.DataFrame, Evidence]:
    """The merged rows, all answers (a row a prediction, with its model) and the evidence of a stage that has begun.

    The baselines' predictions are written beside those of the models. A model without a prediction file is a gap.

    Raises
    ------
    StageError : the rows are not there yet
    PredictionError : no model has a prediction file, or one was made from other data
    """
    merged = read_rows(*map(run.use, ROWS))
    data_sha256 = json.loads(run.use("data_card.json").read_text(encoding="utf-8"))["sha256"]
    answers = results.read_files(prediction_files(run), data_sha256)
    rivals = baseline_answers(merged, run.study.finetuning.train_rows)
    for name, table in rivals.items():
        path = run.out(f"{name}/predictions/baseline.parquet", at="study")
        predictions.write(table, path, model=name, data_sha256=data_sha256)
    answers = pd.concat([answers, *(table.assign(model=name) for name, table in rivals.items())], ignore_index=True)
    sizes = scaling.sizes(run.models).set_index("model")["parameters"]
    parameters = {name: None if pd.isna(size) else int(size) for name, size in sizes.items()}
    return merged, answers, results.gather(run.study, run.models, parameters, merged, answers)


def prediction_files(run) -> dict[tuple[str, str], object]:
    """(model, kind) -> path of each prediction file that exists."""
    paths = {}
    for name, kind in ((name, kind) for name in run.models for kind in FILES):
        try:
            paths[name, kind] = run.use(f"{name}/predictions/{kind}.parquet")
        except StageError:
            continue
    return paths


def baseline_answers(merged: pd.DataFrame, train_rows: int | None) -> dict[str, pd.DataFrame]:
    """Each baseline's answers to the test rows, by name; TF-IDF's also without re-interpretations, and for each source
    without having seen it.
    """
    found = {
        name: baselines.predict(name, merged, train_rows=train_rows) for name in bar(baselines.BASELINES, "baselines")
    }
    without = baselines.predict("tfidf", merged, train_rows=train_rows, variant="no-augmentation")
    unseen = baselines.leave_one_source_out("tfidf", merged, train_rows=train_rows)
    parts = [found["tfidf"], without, *([] if unseen is None else [unseen])]
    return found | {"tfidf": pd.concat(parts, ignore_index=True)}
