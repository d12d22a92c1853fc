"""What a finished run is worth: calibrated predictions, scores by label, and whether its weights come back as saved."""

import numpy as np
import pandas as pd
from accelerate.utils.memory import clear_device_cache

from emosafe_lib.evaluation import bootstrap, calibration, metrics, predictions
from emosafe_lib.finetuning.finished_runs import Finetuned
from emosafe_lib.finetuning.objective import probabilities_of, targets
from emosafe_lib.finetuning.plan import make_plan, weights_of
from emosafe_lib.models import checkpoints
from emosafe_lib.models.batching import encode
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.models.precision import hardware
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.taxonomy import TASK_LABELS

REREAD_ROWS = 256  # of the test rows, by which saved weights are compared with trained ones


def reload_difference(model: ModelParams, study: StudyParams, rows: pd.DataFrame, result: Finetuned) -> pd.Series:
    """The largest difference in probability between the trained model and the same model read back from disk, on the
    first `REREAD_ROWS` test rows.

    Merging is left out over quantized weights: it takes the full ones, for which there may be no room.
    """
    plan = make_plan(model, study, rows, result.task, result.seed)
    ways = {"unmerged": False, "merged": True} if model.training.method == "lora" else {"whole": False}
    if hardware(model)["quantization"] != "none":
        del ways["merged"]
    found = {}
    for way, merge in ways.items():
        labels = TASK_LABELS[result.task]
        network, tokenizer = checkpoints.restore_classifier(model, result.folder / "model", labels, merge=merge)
        encoded = encode(tokenizer, plan.test["text"].head(REREAD_ROWS), plan.settings.max_length)
        logits = logits_of(network, tokenizer, encoded, 4 * model.training.tokens_per_batch)
        probabilities = probabilities_of(logits, weights_of(plan), plan.task)
        found[way] = float(np.abs(probabilities - result.test_probabilities[:REREAD_ROWS]).max())
        del network
        clear_device_cache(garbage_collection=True)  # a GPU may have no room for two
    return pd.Series(found, name="largest difference")


def fit_on_validation(result, rows: pd.DataFrame) -> dict:
    """Temperature (safety) or decision thresholds (categories), fitted on validation rows only.

    `result` is a `Finetuned` or a `probes.Probed`.
    """
    validation = rows.set_index("id").loc[result.validation_ids]
    labels, known = targets(validation, result.task)
    if result.task == "categories":
        return {"thresholds": calibration.fit_thresholds(result.validation_probabilities, labels, known).tolist()}
    logs = np.log(np.maximum(result.validation_probabilities, 1e-12))
    return {"temperature": calibration.fit_temperature(logs, labels.argmax(axis=1))}


def calibrated_predictions(result, rows: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The test rows' predictions in the common schema, calibrated on validation; `setting` is fine-tuned or probe."""
    fitted, probabilities = fit_on_validation(result, rows), result.test_probabilities
    if result.task == "safety":
        logs = np.log(np.maximum(probabilities, 1e-12))
        probabilities = calibration.apply_temperature(logs, fitted["temperature"])
    how = {"variant": result.variant, "seed": result.seed, "thresholds": fitted.get("thresholds")}
    return predictions.make(result.test_ids, result.task, setting, probabilities, **how, outcomes=result.test_outcomes)


def label_scores(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every label in a prediction table, one row a (task, setting, variant, seed, label); unknown cells left out.

    `support` counts the label's known positive test rows; F1 is NaN where there is none and none was claimed, as in
    `bootstrap.scores`.
    """
    names, found = ["task", "setting", "variant", "seed"], []
    for key, part in table.groupby(names):
        asked = rows.set_index("id", drop=False).loc[part["id"]]
        truth = metrics.truth_of(asked)
        values = bootstrap.scores(truth, metrics.align(part, truth))
        labels, known = targets(asked, key[0])
        for label, support in zip(TASK_LABELS[key[0]], (labels * known).sum(axis=0), strict=True):
            run = dict(zip(names, key, strict=True))
            found.append(run | {"label": label, "f1": values["f1", label], "support": int(support)})
    return pd.DataFrame(found)
