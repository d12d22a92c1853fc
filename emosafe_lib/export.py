"""A trained pair of classifiers as one folder that other people and smaller devices can use.

A run's adapter is of use only beside its base model and its study. An export stands alone: per task it holds merged
safetensors, the tokenizer and what validation rows fitted or measured (temperature or thresholds, the error of bf16).
`add_onnx` puts two more forms beside them, for machines without PyTorch: an ONNX graph in fp32 and one whose weights are
stored in eight bits.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib import checkpoints, metrics, mixed, predictions
from emosafe_lib.batching import encode
from emosafe_lib.capacity import count_parameters, weight_bytes
from emosafe_lib.checkpoints import read_seal
from emosafe_lib.errors import ModelError
from emosafe_lib.finetune import Finetuned, calibrate
from emosafe_lib.models import attending, classifier_class, quiet
from emosafe_lib.params import ModelParams
from emosafe_lib.taxonomy import TASK_LABELS
from emosafe_lib.training import logits_of

ONNX_FILES = {"onnx": "model.onnx", "onnx-int8": "model.int8.onnx"}
INPUTS = ("input_ids", "attention_mask")
OPSET = 17
# A protobuf message, which an ONNX file is, ends at two gibibytes.
MOST_ONNX_BYTES = 2**31 - 2**20
LARGEST_DIFFERENCE = 1e-3


def fits(model: ModelParams) -> bool:
    """Whether a model's fp32 weights go into one ONNX file, so that it is worth exporting for small devices."""
    return weight_bytes(count_parameters(model), "float32") <= MOST_ONNX_BYTES


def export(
    model: ModelParams, results: dict[str, Finetuned], rows: pd.DataFrame, max_length: int, folder: Path
) -> Path:
    """Write one folder from a finished run of each task, adapters folded into their base.

    Parameters
    ----------
    results : by task, from `finetune.finetune`; rows : what they were trained on, for calibration on validation

    Raises
    ------
    ModelError : a saved classifier is damaged or does not fit this model
    """
    for task, result in results.items():
        network, tokenizer = checkpoints.restore_classifier(
            model, result.folder / "model", TASK_LABELS[task], merge=True
        )
        weights = result.facts["label_weights"] if task == "categories" else [1.0] * len(TASK_LABELS[task])
        fitted = calibrate(result, rows) | {"log_weights": np.log(weights).tolist(), "max_length": max_length}
        facts = {
            "labels": TASK_LABELS[task],
            "task": task,
            "fitted": fitted,
            "model": model.name,
            "pooling": model.training.pooling,
            "validation_macro_f1": validation_score(result, rows, fitted.get("thresholds")),
        }
        if model.dtype == "float32":  # others are large and in half precision anyway
            facts["bf16"] = measure_bf16(network, tokenizer, result, rows, max_length)
        checkpoints.save_classifier(network, tokenizer, Path(folder) / task, **facts)
    return Path(folder)


def measure_bf16(network, tokenizer, result: Finetuned, rows: pd.DataFrame, max_length: int) -> dict:
    """How far bf16 moves the logits of validation rows, `mixed.MEASURED_ROWS` at most, and the bound that follows."""
    texts = rows.set_index("id").loc[result.validation_ids[: mixed.MEASURED_ROWS], "text"].tolist()
    encoded, network = encode(tokenizer, texts, max_length), network.cpu()
    exact, rough = (logits_of(part, tokenizer, encoded, 2048) for part in (network, mixed.in_bf16(network)))
    return mixed.measure(exact, rough, result.task)


def validation_score(result: Finetuned, rows: pd.DataFrame, thresholds) -> float:
    """Macro-F1 on the validation rows, by which the best of several exports is chosen."""
    truth = metrics.truth_of(rows.set_index("id", drop=False).loc[result.validation_ids].reset_index(drop=True))
    chances = result.validation_probabilities
    table = predictions.make(result.validation_ids, result.task, "fine-tuned", chances, thresholds=thresholds)
    return round(metrics.scores(truth, metrics.align(table, truth))["macro_f1", ""], 4)


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


def load_exported(folder: Path):
    """One exported task, every file checked: `(network, tokenizer, facts)`, the network in evaluation mode on the CPU.

    Raises
    ------
    ModelError : no export, or a file that is pickled, truncated, changed or of another tokenizer
    """
    checkpoints.check_tensors(folder / "model.safetensors")
    facts = read_seal(folder)
    options = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}
    with quiet():
        network = classifier_class(facts["pooling"]).from_pretrained(folder, **options)
    return network.eval(), load_tokenizer(folder, facts), facts


def load_tokenizer(folder: Path, facts: dict):
    """The tokenizer of an exported task; ModelError if it is not the one that was exported."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    checkpoints.refuse_foreign(checkpoints.tokenizer_digest(tokenizer), facts["tokenizer"], folder, "tokenizer")
    return tokenizer


def add_onnx(folder: Path) -> dict[str, float]:
    """Write the ONNX forms of every exported task beside its safetensors, and seal it again.

    Returns
    -------
    MiB by file, summed over tasks: model.safetensors, model.onnx, model.int8.onnx

    Raises
    ------
    ModelError : no export, weights too large for one ONNX file, or a graph that answers otherwise than PyTorch
    """
    names, sizes = ("model.safetensors", *ONNX_FILES.values()), {}
    parts = [task for task in TASK_LABELS if (Path(folder) / task / checkpoints.SEAL).is_file()]
    if not parts:
        raise ModelError(folder, "holds no exported classifier", "make one with export.export")
    for task in parts:
        write_onnx(Path(folder) / task)
        for name in names:
            sizes[name] = sizes.get(name, 0.0) + (Path(folder) / task / name).stat().st_size / 2**20
    return sizes


def write_onnx(folder: Path) -> None:
    """Both ONNX files of one task, each by rename, then the seal."""
    network, _, facts = load_exported(folder)
    if (folder / "model.safetensors").stat().st_size > MOST_ONNX_BYTES:
        raise ModelError(folder, "is too large for one ONNX file", "use the safetensors on a server")
    plain, small = (folder / f".{name}.partial" for name in ONNX_FILES.values())
    try:
        write_graph(network, plain)
        refuse_other_answers(network, plain, folder)
        quantize(plain, small)
        for partial, name in zip((plain, small), ONNX_FILES.values(), strict=True):
            os.replace(partial, folder / name)
    finally:
        for partial in (plain, small):
            partial.unlink(missing_ok=True)
    checkpoints.seal(folder, **{name: value for name, value in facts.items() if name != "files"})


def write_graph(network, path: Path) -> None:
    """Trace a classifier into an fp32 ONNX file that takes any number of rows and tokens.

    The tracing exporter is used because it needs no package beyond PyTorch; `refuse_other_answers` checks its work.
    Attention is traced in its plain form: PyTorch's fused one brings a guard against rows without a single token, which
    costs the eight-bit graph a twentieth of its time.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, input_ids, attention_mask):
            return self.network(input_ids=input_ids, attention_mask=attention_mask).logits

    network.config.use_cache = False
    axes = {name: {0: "rows", 1: "tokens"} for name in INPUTS} | {"logits": {0: "rows"}}
    with warnings.catch_warnings(), quiet(), attending(network, "eager"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),
            tuple(example(network, rows=2, tokens=7).values()),
            str(path),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def example(network, rows: int, tokens: int) -> dict:
    """Random token ids, the last row padded to half its length; the same ones each time."""
    import torch

    pad = network.config.pad_token_id or 0
    ids = torch.randint(pad + 1, network.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[-1, tokens // 2 + 1 :], mask[-1, tokens // 2 + 1 :] = pad, 0
    return dict(zip(INPUTS, (ids, mask), strict=True))


def refuse_other_answers(network, path: Path, folder: Path) -> None:
    """Raise ModelError unless graph and network agree on batches of other shapes than the traced one."""
    import torch

    session = OnnxNetwork(path)
    for rows, tokens in ((1, 1), (3, 20), (5, 64)):
        inputs = example(network, rows, tokens)
        with torch.inference_mode():
            wanted = network(**inputs).logits.numpy()
        if not np.abs(session(inputs) - wanted).max() < LARGEST_DIFFERENCE:
            raise ModelError(folder, "its ONNX graph answers otherwise than PyTorch", "use the safetensors instead")


def quantize(plain: Path, small: Path) -> None:
    """Store the weights of matrix products and embeddings in eight bits; activations are quantized as they come.

    A scale per output channel, and one bit of range left free: full eight-bit products overflow on x86 processors
    without VNNI, and an export is made to travel.
    """
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(str(plain), str(small), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    finally:
        logging.disable(logging.NOTSET)


class OnnxNetwork:
    """An ONNX classifier on the CPU: a batch as `training.Collator` makes it in, logits (n, labels) out."""

    def __init__(self, path: Path):
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: dict) -> np.ndarray:
        return self.session.run(None, {name: inputs[name].numpy() for name in INPUTS})[0].astype(np.float64)


def main(arguments: list[str] | None = None) -> int:
    """`emosafe onnx FOLDER`: add the ONNX files to an exported folder and print their sizes."""
    parser = argparse.ArgumentParser(prog="emosafe onnx", description=add_onnx.__doc__.splitlines()[0])
    parser.add_argument("folder", help="written by export.export, such as outputs/sample/minilm/classifier")
    for name, size in add_onnx(Path(parser.parse_args(arguments).folder)).items():
        print(f"{name}: {size:.1f} MiB")
    return 0


if __name__ == "__main__":
    from emosafe_lib import cli

    sys.exit(cli.main(["onnx", *sys.argv[1:]]))
