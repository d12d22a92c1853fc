"""Load a backbone: a rung of the nano ladder, a hub checkpoint, an encoder from a package, or a true shape with random
weights.

The same four functions serve a model of 0.2 million parameters on a laptop and one of 70 billion on a cluster; which
one it is stands in the model's parameter file. Only safetensors are read, and code from a repository is never run.
"""

import importlib.util
import os
from pathlib import Path

from emosafe_lib.errors import ModelError
from emosafe_lib.params import ModelParams

ASSETS = Path(__file__).parent / "assets"


def weights_location(model: ModelParams) -> str:
    """Where `from_pretrained` finds this model: a local folder or a hub name.

    Raises
    ------
    ModelError : an asset folder or package is not installed
    """
    if model.weights == "assets":
        folder = ASSETS / model.path
        if not (folder / "config.json").is_file():
            raise ModelError(f"assets/{model.path}", "holds no model", "train it with notebooks/A1_nano_ladder.ipynb")
        return str(folder)
    if model.weights == "package":
        package, _, inside = model.path.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModelError(package, "is not installed", "run `make setup`")
        return str(Path(spec.origin).parent / inside)
    return model.path


def hub_options(model: ModelParams) -> dict:
    """Arguments that every `from_pretrained` call of this package shares."""
    options: dict = {"trust_remote_code": False}
    if model.weights == "hub":
        options["revision"] = model.revision or "main"
        options["local_files_only"] = os.environ.get("HF_HUB_OFFLINE") == "1"
    return options


def load_tokenizer(model: ModelParams):
    """The model's tokenizer, padding on the right, with a pad token that is never its end-of-sequence token's stand-in
    in attention (masks decide what is padding).
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights_location(model), **hub_options(model))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def pick_device(model: ModelParams):
    """The torch device that this model's parameter file asks for; `auto` takes a GPU where there is one."""
    import torch

    if model.device != "auto":
        return torch.device(model.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(model: ModelParams):
    """The torch dtype to load in: float32 on a CPU, where reduced precision is far slower, else as declared."""
    import torch

    return torch.float32 if pick_device(model).type == "cpu" else getattr(torch, model.dtype)


def load_causal(model: ModelParams):
    """A causal language model in evaluation mode: `(model, tokenizer)`."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(
        weights_location(model), dtype=pick_dtype(model), use_safetensors=True, **hub_options(model)
    )
    return network.to(pick_device(model)).eval(), load_tokenizer(model)


def load_encoder(model: ModelParams):
    """A bare encoder in evaluation mode: `(model, tokenizer)`; hidden states are its last layer."""
    from transformers import AutoModel

    network = AutoModel.from_pretrained(
        weights_location(model), dtype=pick_dtype(model), use_safetensors=True, **hub_options(model)
    )
    return network.to(pick_device(model)).eval(), load_tokenizer(model)
