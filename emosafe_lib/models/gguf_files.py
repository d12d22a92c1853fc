"""GGUF, llama.cpp's file format: read once by transformers' own loader, then kept as an ordinary checkpoint.

Unpacking a file takes half a minute, and what comes of it can neither be trained nor saved. So it is unpacked once, in
fp32, which loses nothing, into the cache folder under the digest of its bytes. transformers would fill a tensor that the
file lacks by chance, leave out one that it does not know, and cut texts as GPT-2 does: all three are looked after here.
"""

import importlib.util
import os
import re
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.files import known_sha256, replacing
from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.paths import cache_root, project_root

VERSION = 1  # of what `unpack` makes of a file
WHOLE = ("config.json", "model.safetensors", "tokenizer.json")
MAGIC = b"GGUF"
LLAMA_TENSOR = re.compile(
    r"(token_embd|output_norm|output|blk\.\d+\.(attn_(norm|q|k|v|output)|ffn_(norm|gate|up|down)))\.weight"
)
FETCH = "fetch or install it again"


def package_folder(package: str) -> Path:
    """The folder of an installed Python package that holds weights.

    Raises
    ------
    ModelError : it is not installed
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(package, "is not installed", "run `make setup`")
    return Path(spec.origin).parent


def gguf_file(model: ModelParams) -> Path:
    """The GGUF file of a model: `package:file`, `owner/repository:file` on the hub, or a path from the checkout.

    Raises
    ------
    ModelError : the package is not installed, or the file is not there
    """
    place, colon, name = model.path.rpartition(":")
    if "/" in place:
        return from_hub(model, place, name)
    path = package_folder(place) / name if colon else project_root() / name
    if not path.is_file():
        raise ModelError(model.path, "there is no such file", "correct `path:`, or install the package again")
    return path


def from_hub(model: ModelParams, repository: str, name: str) -> Path:
    """A file of a hub repository at the model's revision, downloaded unless it is in the hub's cache."""
    from huggingface_hub import hf_hub_download

    revision, offline = model.revision or "main", os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        return Path(hf_hub_download(repository, name, revision=revision, local_files_only=offline))
    except (OSError, ValueError):
        what = f"revision {revision} is not at hand"
        raise ModelError(model.path, what, "unset HF_HUB_OFFLINE, or log in and download it") from None


def checkpoint(model: ModelParams) -> Path:
    """The folder of a GGUF file's checkpoint, made if it is not there; two processes make it once.

    Raises
    ------
    ModelError : the file is absent, damaged, of another architecture, or cannot be unpacked
    """
    from filelock import FileLock

    path = gguf_file(model)
    digest = refuse_other_bytes(model, path)
    folder = cache_root() / "gguf" / f"{digest[:16]}-{VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not all((folder / name).is_file() for name in WHOLE):
            refuse_foreign(model, path)
            with replacing(folder, ModelError) as partial:
                unpack(model, path, partial)
    return folder


def refuse_other_bytes(model: ModelParams, path: Path) -> str:
    """The SHA-256 of a file of weights.

    Raises
    ------
    ModelError : the model's parameter file states another one
    """
    digest = known_sha256(path)
    if model.weights_sha256 not in (None, digest):
        what = f"{path.name} has the SHA-256 {digest}, and weights_sha256 is {model.weights_sha256}"
        raise ModelError(model.name, what, FETCH)
    return digest


def refuse_foreign(model: ModelParams, path: Path) -> None:
    """Stop at a file that is no whole GGUF of a LLaMA, by its header alone.

    Raises
    ------
    ModelError : says what it is
    """
    from transformers.integrations.gguf.reader import GgufHeader

    with open(path, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ModelError(model.path, "is no GGUF file", FETCH)
    try:
        header = GgufHeader.from_file(str(path))
        end = header.data_start + max(info.offset + info.nbytes for info in header.tensors)
    except Exception as error:  # whatever reading past a torn header may raise
        raise damaged(model, error) from None
    if header.architecture != "llama":
        raise ModelError(model.path, f"has the architecture {header.architecture[:30]!r}", "name a LLaMA's file")
    if path.stat().st_size < end:
        raise ModelError(model.path, f"is truncated: {path.stat().st_size} of {end} bytes", FETCH)
    if strange := [info.name for info in header.tensors if not LLAMA_TENSOR.fullmatch(info.name)]:
        what = f"holds {strange[0][:60]!r}, which transformers would leave out"
        raise ModelError(model.path, what, "use the model's safetensors, with weights: hub")


def damaged(model: ModelParams, error: Exception) -> ModelError:
    """What cannot be read, in one line; a loader's own words may hold anything."""
    return ModelError(model.path, f"is damaged or of an unknown kind ({type(error).__name__})", FETCH)


@contextmanager
def read_once():
    """While the block runs, a file's header is parsed once and not three times over, and the table of tensor names is
    made once and not for every module: transformers then takes half as long. It shows no bar either.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    names = cache(gguf.get_tensor_name_map)
    with (
        mock.patch.multiple(gguf, GGUFReader=cache(gguf.GGUFReader), get_tensor_name_map=names),
        mock.patch.object(loader, "tqdm", lambda items, **_: items),
    ):
        yield


def unpack(model: ModelParams, path: Path, folder: Path) -> None:
    """Write weights in fp32, configuration, tokenizer and chat template of a GGUF file to a folder.

    Raises
    ------
    ModelError : it cannot be read, lacks a tensor, or holds a value that is not finite
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": path.name, "trust_remote_code": False, "local_files_only": True}
    try:
        with read_once():
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **options)
            network, found = AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=torch.float32, output_loading_info=True, **options
            )
    except Exception as error:  # its readers check little: a flipped bit ends in errors of any kind
        raise damaged(model, error) from None
    if lost := sorted(found["missing_keys"]):
        raise ModelError(model.path, f"lacks {lost[0]}", FETCH)
    if broken := [name for name, weight in network.named_parameters() if not bool(weight.isfinite().all())]:
        raise ModelError(model.path, f"{broken[0]} holds values that are not finite", FETCH)
    cut_digits(tokenizer, path)
    forget_packing(network).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def forget_packing(network):
    """The network without the marks of packed weights, for which transformers would refuse to save it."""
    network.hf_quantizer, network.is_quantized = None, False
    network.config._name_or_path = ""
    del network.config.quantization_config
    return network


def cut_digits(tokenizer, path: Path) -> None:
    """Cut numbers into digits before anything else where the file says that its merges were learned so; transformers
    knows the other ways of cutting, and not this one.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.reader import read_gguf_metadata

    if read_gguf_metadata(str(path))[0].get("tokenizer.ggml.pre") == "smollm":
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
