"""A trained pair of classifiers as one folder that other people and smaller devices can use.

A run's adapter is of use only beside its base model and its study. An export stands alone: per task it holds merged
safetensors, the tokenizer and what validation rows fitted or measured (temperature or thresholds, where an alarm can
begin and, where the processor has bf16, its error).
Where onnxruntime works, two more forms stand beside them, for machines without PyTorch: an ONNX graph in fp32 and one
whose weights are stored in eight bits.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import bootstrap, metrics, operating, predictions
from emosafe_lib.evaluation.calibration import apply_temperature
from emosafe_lib.finetuning.finished_runs import Finetuned
from emosafe_lib.finetuning.scores import fit_on_validation
from emosafe_lib.models import checkpoints, close_calls
from emosafe_lib.models.batching import encode
from emosafe_lib.models.checkpoints import read_seal
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.models.precision import half_precision
from emosafe_lib.ondevice.onnx_graphs import add_onnx
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.optional import optional
from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, TASK_LABELS


def export(
    model: ModelParams,
    results: dict[str, Finetuned],
    rows: pd.DataFrame,
    max_length: int,
    folder: Path,
    *,
    onnx: bool = True,
) -> Path:
    """Write one folder from a finished run of each task, adapters folded into their base.

    Parameters
    ----------
    results : by task, from `finetune.finetune`; rows : what they were trained on, for calibration on validation
    onnx : add the ONNX files too, where onnxruntime works; what keeps them away is noted and nothing more

    Raises
    ------
    ModelError : a saved classifier is damaged or does not fit this model
    """
    for task, result in results.items():
        network, tokenizer = checkpoints.restore_classifier(
            model, result.folder / "model", TASK_LABELS[task], merge=True
        )
        weights = result.facts["label_weights"] if task == "categories" else [1.0] * len(TASK_LABELS[task])
        fitted = fit_on_validation(result, rows) | {"log_weights": np.log(weights).tolist(), "max_length": max_length}
        facts = {
            "labels": TASK_LABELS[task],
            "task": task,
            "tasks": list(results),
            "fitted": fitted,
            "model": model.name,
            "pooling": model.training.pooling,
            "validation_macro_f1": validation_score(result, rows, fitted.get("thresholds")),
        }
        if task == "safety":
            facts["alarms"] = alarm_curve(result, rows, fitted["temperature"])
        # Other models are large and in half precision anyway; other processors emulate bf16, which takes them minutes, and
        # refuse the runtime that needs the bound.
        if model.dtype == "float32" and half_precision():
            with optional("runtime", f"bf16+fp32, {task}"):
                facts["bf16"] = measure_bf16(network, tokenizer, result, rows, max_length)
        checkpoints.save_classifier(network, tokenizer, Path(folder) / task, **facts)
    if onnx:
        with optional("runtime", "ONNX graphs"):
            add_onnx(folder)
    return Path(folder)


def alarm_curve(result: Finetuned, rows: pd.DataFrame, temperature: float) -> dict:
    """Where an alarm can begin, fitted on the validation rows."""
    validation = rows.set_index("id").loc[result.validation_ids]
    chances = apply_temperature(np.log(np.maximum(result.validation_probabilities, 1e-12)), temperature)
    return operating.fit_curve(chances[:, -1], validation["safety"] == SAFETY_LEVELS[-1], validation["group"])


def measure_bf16(network, tokenizer, result: Finetuned, rows: pd.DataFrame, max_length: int) -> dict:
    """The bound below which a message is read again in fp32: how far bf16 moves the logits of validation rows at most,
    `close_calls.MEASURED_ROWS` of them, with the safety factor.
    """
    texts = rows.set_index("id").loc[result.validation_ids[: close_calls.MEASURED_ROWS], "text"].tolist()
    encoded, network = encode(tokenizer, texts, max_length), network.cpu()
    exact, rough = (logits_of(part, tokenizer, encoded, 2048) for part in (network, close_calls.in_bf16(network)))
    return {"bound": close_calls.SAFETY_FACTOR * float(close_calls.shifts(exact, rough, result.task).max())}


def validation_score(result: Finetuned, rows: pd.DataFrame, thresholds) -> float:
    """Macro-F1 on the validation rows, by which the best of several exports is chosen."""
    truth = metrics.truth_of(rows.set_index("id", drop=False).loc[result.validation_ids].reset_index(drop=True))
    chances = result.validation_probabilities
    table = predictions.make(result.validation_ids, result.task, "fine-tuned", chances, thresholds=thresholds)
    return round(bootstrap.scores(truth, metrics.align(table, truth))["macro_f1", ""], 4)


def best_of(folders: Iterable[Path]) -> Path:
    """The export with the highest safety macro-F1 on validation rows.

    Raises
    ------
    ModelError : there is none, or one is damaged
    """
    scored = {Path(folder): read_seal(Path(folder) / "safety")["validation_macro_f1"] for folder in folders}
    if not scored:
        raise ModelError("exports", "there is none", "run notebook 04 for at least one model")
    return max(scored, key=scored.get)


def main(arguments: list[str] | None = None) -> int:
    """`emosafe onnx FOLDER`: add the ONNX files to an exported folder and print their sizes."""
    parser = argparse.ArgumentParser(prog="emosafe onnx", description=add_onnx.__doc__.splitlines()[0])
    parser.add_argument("folder", help="written by export.export, such as outputs/sample/minilm/classifier")
    for name, size in add_onnx(Path(parser.parse_args(arguments).folder)).items():
        print(f"{name}: {size:.1f} MiB")
    return 0
