"""Load a backbone: a rung of the nano ladder, a hub checkpoint, an encoder from a package, a GGUF file, or a true shape
with random weights.

The same functions serve a model of 0.2 million parameters on a laptop and one of 70 billion on a cluster; which one it
is stands in the model's parameter file. Only safetensors and GGUF are read, and code from a repository is never run.
Where the machine cannot do what the file asks for (a GPU, bfloat16, 4-bit weights), the fallback is declared by
`precision.hardware`, so that every result can say what it really ran on.
"""

import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

from emosafe_lib.models import gguf_files, precision
from emosafe_lib.models.quantization import is_sharded, keep_narrow_layers_plain, quantization_options
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.memory import telling_memory
from emosafe_lib.study.parameters import ModelParams
from emosafe_lib.study.paths import ASSETS

# How transformers begins what it says of an architecture that it does not know, or not for this purpose.
UNKNOWN = re.compile(r"Unrecognized (configuration class|model)|does not recognize this architecture")
# Llama 3 reserves this token for padding but does not declare it.
LLAMA_PAD = "<|finetune_right_pad_id|>"


def weights_location(model: ModelParams) -> str:
    """Where `from_pretrained` finds this model: a local folder or a hub name.

    Raises
    ------
    ModelError : an asset folder or package is not installed, or a GGUF file cannot be read
    """
    if model.weights == "assets":
        folder = ASSETS / model.path
        if not (folder / "config.json").is_file():
            raise ModelError(f"assets/{model.path}", "holds no model", "train it with notebooks/A1_nano_ladder.ipynb")
        return str(folder)
    if model.weights == "package":
        package, _, inside = model.path.partition("/")
        return str(gguf_files.package_folder(package) / inside)
    if model.weights == "gguf":
        with quiet():
            return str(gguf_files.checkpoint(model))
    return model.path


def weights_file(model: ModelParams) -> Path:
    """The one safetensors file of a model that is not in GGUF; a hub's is downloaded unless it is in its cache.

    Raises
    ------
    ModelError : there is none, or there are several
    """
    if model.weights == "hub":
        return gguf_files.from_hub(model, model.path, "model.safetensors")
    path = Path(weights_location(model)) / "model.safetensors"
    if not path.is_file():
        raise ModelError(model.name, "weights_sha256 needs weights in one safetensors file", "leave it out")
    return path


def hub_options(model: ModelParams) -> dict:
    """Arguments that every `from_pretrained` call of this package shares."""
    options: dict = {"trust_remote_code": False}
    if model.weights == "hub":
        options["revision"] = model.revision or "main"
        options["local_files_only"] = os.environ.get("HF_HUB_OFFLINE") == "1"
    return options


@contextmanager
def quiet():
    """Loading and training without the libraries' bars, reports and deprecation notes, which name local folders."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def readable_errors(model: ModelParams):
    """Turn what `from_pretrained` raises into one line with a remedy.

    Raises
    ------
    ModelError : the repository wants its own code to run, or the weights are absent or damaged
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from safetensors import SafetensorError

    try:
        yield
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ModelError(model.path, "wants to run its own code", "name a model that transformers knows") from None
        if UNKNOWN.search(str(error)):
            what = f"is of no architecture that family: {model.family} loads"
            raise ModelError(model.path, what, "correct family: or path:") from None
        raise
    except SafetensorError:
        remedy = "delete the cache folder" if model.weights == "gguf" else "fetch or train them again"
        raise ModelError(model.path, "its weights are damaged", remedy) from None
    except OSError:
        if model.weights != "hub":
            raise ModelError(model.path, "holds no readable safetensors model", "install or train it again") from None
        if isinstance(try_to_load_from_cache(model.path, "config.json", revision=model.revision or "main"), str):
            remedy = "look at the network, or name a model or revision that has them"
            raise ModelError(model.path, "its weights cannot be had as safetensors", remedy) from None
        folder = Path(constants.HF_HUB_CACHE) / f"models--{model.path.replace('/', '--')}" / "snapshots"
        expected = f"revision {model.revision or 'main'} is not below {folder}"
        raise ModelError(model.path, expected, "download it there, or unset HF_HUB_OFFLINE and log in") from None


def load_tokenizer(model: ModelParams):
    """The model's tokenizer, padding on the right, with a pad token that is never its end-of-sequence token's stand-in
    in attention (masks decide what is padding).
    """
    from transformers import AutoTokenizer

    if model.weights == "random":
        raise ModelError(model.name, "random weights have no tokenizer", "use it for memory and speed only")
    with readable_errors(model):
        tokenizer = AutoTokenizer.from_pretrained(weights_location(model), **hub_options(model))
    if tokenizer.pad_token is None:
        known = LLAMA_PAD in tokenizer.get_vocab()
        tokenizer.pad_token = LLAMA_PAD if known else tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def stored_config(model: ModelParams):
    """The transformers configuration that lies beside the weights; ModelError where it cannot be read."""
    from transformers import AutoConfig

    with readable_errors(model):
        return AutoConfig.from_pretrained(weights_location(model), **hub_options(model))


def shape_config(model: ModelParams):
    """The transformers configuration of a declared LLaMA shape."""
    from transformers import LlamaConfig

    shape = model.shape
    if shape is None:
        raise ModelError(model.name, "has no shape in its parameter file", "add `shape:`")
    return LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied_embeddings,
        max_position_embeddings=model.context_tokens,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


def load_network(model: ModelParams, auto_class, dtype=None, whole: bool = False, **options):
    """Any transformers auto class with this model's weights on this model's device, in evaluation mode.

    Parameters
    ----------
    auto_class : such as AutoModelForCausalLM
    dtype : torch dtype of the weights; none takes `pick_dtype`'s
    whole : refuse weights that lack a part, such as an output table, which a classifier's new head always is
    options : passed to `from_pretrained`, such as num_labels

    Raises
    ------
    ModelError : weights absent, damaged or not those of `weights_sha256`, or a repository that wants to run its own code
    """
    dtype = dtype or precision.pick_dtype(model)
    if model.weights == "random":
        if precision.pick_quantization(model) != "none":
            raise ModelError(
                model.name, f"has random weights, which {model.quantization} loading cannot make", "use none"
            )
        config = shape_config(model)
        config.update(options)
        return auto_class.from_config(config, dtype=dtype).to(precision.pick_device(model)).eval()
    if model.weights_sha256 and model.weights != "gguf":
        gguf_files.refuse_other_bytes(model, weights_file(model))
    options |= hub_options(model) | quantization_options(model)
    options |= {"use_safetensors": True, "output_loading_info": True}
    with quiet(), readable_errors(model):
        network, told = auto_class.from_pretrained(weights_location(model), dtype=dtype, **options)
    if whole and told["missing_keys"]:
        what = f"its weights lack {min(told['missing_keys'])}, which would be left to chance"
        raise ModelError(model.path, what, "name a causal language model")
    keep_narrow_layers_plain(network)
    placed = "quantization_config" in options or "device_map" in options or is_sharded()
    return network.eval() if placed else network.to(precision.pick_device(model)).eval()


def room_for(model: ModelParams):
    """The context in which weights are loaded: a ModelError says so where they do not fit into memory. Training says more
    of it, see `failures`.
    """
    remedy = "use fewer bits (quantization: int4, on a GPU), more GPUs, or a smaller model"
    return telling_memory(ModelError(model.name, "does not fit into memory", remedy))


@contextmanager
def attending(network, kind: str):
    """While the block runs, the network attends in another of the ways that transformers knows, such as "eager"."""
    before = network.config._attn_implementation
    network.set_attn_implementation(kind)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def load_causal(model: ModelParams):
    """A causal language model in evaluation mode: `(model, tokenizer)`; ModelError where it cannot be had."""
    from transformers import AutoModelForCausalLM

    with room_for(model):
        return load_network(model, AutoModelForCausalLM, whole=True), load_tokenizer(model)


def load_encoder(model: ModelParams, dtype=None):
    """A bare backbone in evaluation mode: `(model, tokenizer)`; it returns hidden states and has no head.

    `dtype` is that of `load_network`.
    """
    from transformers import AutoModel

    with room_for(model):
        return load_network(model, AutoModel, dtype), load_tokenizer(model)
