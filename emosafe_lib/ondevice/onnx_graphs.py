"""A classifier as an ONNX graph, in fp32 and in int8: written only if the fp32 graph answers as PyTorch does.

What eight bits change is no reason to refuse a file; notebook 06 measures it.
"""

import warnings
from pathlib import Path

import numpy as np

from emosafe_lib.models.backbone import attending, quiet
from emosafe_lib.models.batching import encode
from emosafe_lib.models.capacity import count_parameters, weight_bytes
from emosafe_lib.models.seals import SEAL, read_seal, seal
from emosafe_lib.ondevice import trials
from emosafe_lib.ondevice.exported import load_exported
from emosafe_lib.ondevice.exports import ONNX_FILES
from emosafe_lib.ondevice.onnx_classifier import INPUTS, OnnxNetwork, Tokens, open_graph
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.taxonomy import TASK_LABELS

OPSET = 17
LARGEST_DIFFERENCE = 1e-3
# A protobuf message, which an ONNX file is, ends at two gibibytes.
MOST_ONNX_BYTES = 2**31 - 2**20


def fits(model: ModelParams) -> bool:
    """Whether a model's fp32 weights go into one ONNX file, so that it is worth exporting for small devices."""
    return weight_bytes(count_parameters(model), "float32") <= MOST_ONNX_BYTES


def add_onnx(folder: Path) -> dict[str, float]:
    """Write the ONNX forms of every exported task that lacks them beside its safetensors, and seal it again.

    Returns
    -------
    MiB by file, summed over tasks: model.safetensors, model.onnx, model.int8.onnx

    Raises
    ------
    ModelError : no export, weights too large for one ONNX file, no onnxruntime that works, or a graph that answers
        otherwise than PyTorch
    """
    names, sizes = ("model.safetensors", *ONNX_FILES.values()), {}
    parts = [task for task in TASK_LABELS if (Path(folder) / task / SEAL).is_file()]
    if not parts:
        raise ModelError(folder, "holds no exported classifier", "make one with export.export")
    if why := trials.onnx():
        raise ModelError(folder, f"gets no ONNX files: {why}", "use the safetensors instead")
    for task in parts:
        if not set(ONNX_FILES.values()) <= set(read_seal(Path(folder) / task)["files"]):
            write_onnx(Path(folder) / task)
        for name in names:
            sizes[name] = sizes.get(name, 0.0) + (Path(folder) / task / name).stat().st_size / 2**20
    return sizes


def write_onnx(folder: Path) -> None:
    """Both ONNX files of one task, each by rename, then the seal."""
    network, tokenizer, facts = load_exported(folder)
    refuse_other_tokens(tokenizer, Tokens(folder, facts["fitted"]["max_length"]), folder)
    if (folder / "model.safetensors").stat().st_size > MOST_ONNX_BYTES:
        raise ModelError(folder, "is too large for one ONNX file", "use the safetensors on a server")
    targets = (folder / name for name in ONNX_FILES.values())
    with replacing(next(targets), ModelError) as plain, replacing(next(targets), ModelError) as small:
        write_graph(network, plain)
        quantize(plain, small)
        for path, apart in ((plain, LARGEST_DIFFERENCE), (small, np.inf)):
            join(path)
            refuse_other_answers(network, path, folder, apart)
    seal(folder, **{name: value for name, value in facts.items() if name != "files"})


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
    ids = torch.randint(network.config.vocab_size - 1, (rows, tokens), generator=torch.Generator().manual_seed(0))
    ids += ids >= pad  # any token but the one for padding, which may be the first or the last
    mask = torch.ones_like(ids)
    ids[-1, tokens // 2 + 1 :], mask[-1, tokens // 2 + 1 :] = pad, 0
    return dict(zip(INPUTS, (ids, mask), strict=True))


def refuse_other_answers(network, path: Path, folder: Path, apart: float) -> None:
    """Raise ModelError unless the graph's answers are finite and less than so far from the network's, on batches of other
    shapes than the traced one.
    """
    import torch

    session = OnnxNetwork(path)
    for rows, tokens in ((1, 1), (3, 20), (5, 64)):
        inputs = example(network, rows, tokens)
        with torch.inference_mode():
            wanted = network(**inputs).logits.numpy()
        if not np.abs(session(inputs) - wanted).max() < apart:
            raise ModelError(folder, "its ONNX graph answers otherwise than PyTorch", "use the safetensors instead")


def refuse_other_tokens(tokenizer, tokens: Tokens, folder: Path) -> None:
    """Raise ModelError unless tokenizers alone reads some texts as transformers does, cut and padded."""
    texts = [
        "",
        "Calm today.",
        "naïve ÀÉ 你好 🙂\n\tok",
        *map(str, tokenizer.special_tokens_map.values()),
        "it's. " * 9999,
    ]
    for text in texts:
        wanted, found = encode(tokenizer, [text], tokens.max_length), tokens.encode([text])
        if (wanted.ids, wanted.truncated.tolist()) != (found.ids, found.truncated.tolist()):
            raise ModelError(
                folder, "its tokenizer reads otherwise without transformers", "use the safetensors instead"
            )


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


def join(path: Path) -> None:
    """Rewrite a graph with its operations joined, as onnxruntime would at every start; see `open_graph`.

    Raises
    ------
    ModelError : onnxruntime cannot read it, or not write it
    """
    # By that ending `replacing` finds what a killed process left.
    joined = path.with_name(f"{path.name}.joined.partial")
    try:
        open_graph(path, joined)
        joined.replace(path)
    finally:
        joined.unlink(missing_ok=True)
