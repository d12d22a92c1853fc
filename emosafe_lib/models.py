"""Load a backbone: a rung of the nano ladder, a hub checkpoint, an encoder from a package, or a true shape with random
weights.

The same functions serve a model of 0.2 million parameters on a laptop and one of 70 billion on a cluster; which one it
is stands in the model's parameter file. Only safetensors are read, and code from a repository is never run. Where the
machine cannot do what the file asks for (a GPU, bfloat16, 4-bit weights), the fallback is declared by `hardware`, so
that every result can say what it really ran on.
"""

import importlib.util
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

from emosafe_lib.errors import ModelError
from emosafe_lib.params import ModelParams

ASSETS = Path(__file__).parent / "assets"
# Llama 3 reserves this token for padding but does not declare it.
LLAMA_PAD = "<|finetune_right_pad_id|>"
# What is never packed. Left to itself transformers packs an encoder's fresh head, for which there are no weights yet.
HEADS = ["lm_head", "score", "classifier"]
REGROUPED = 32, 64  # `block_n` and NF4's block size in bitsandbytes 0.50's functional._convert_weight_packed_for_cpu


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


def cache_folder(model: ModelParams) -> Path:
    """Where the hub's cache keeps this model's revision."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{model.path.replace('/', '--')}" / "snapshots"


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
    from safetensors import SafetensorError

    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ModelError(model.path, "wants to run its own code", "name a model that transformers knows") from None
    except SafetensorError:
        raise ModelError(model.path, "its weights are damaged", "fetch or train them again") from None
    except OSError:
        if model.weights != "hub":
            raise ModelError(model.path, "holds no readable safetensors model", "install or train it again") from None
        expected = f"revision {model.revision or 'main'} is not below {cache_folder(model)}"
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


def pick_device(model: ModelParams):
    """The torch device that this model's parameter file asks for; `auto` takes a GPU where there is one."""
    import torch

    wanted = "cuda" if model.device == "auto" else model.device
    return torch.device(wanted if wanted == "cpu" or torch.cuda.is_available() else "cpu")


def pick_dtype(model: ModelParams):
    """The torch dtype to load in: float32 on a CPU, where reduced precision is far slower, else as declared."""
    import torch

    if pick_device(model).type == "cpu":
        return torch.float32
    if model.dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return getattr(torch, model.dtype)


def trained_dtype(model: ModelParams):
    """The torch dtype of a classifier's backbone: `pick_dtype`'s where it is frozen, float32 where all of it trains, since
    AdamW's steps are smaller than what half precision can add to a weight.
    """
    import torch

    return pick_dtype(model) if model.training.method == "lora" else torch.float32


def half_precision() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself; one that does not is many times slower at them."""
    import torch

    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def mixes_precision(model: ModelParams) -> bool:
    """Whether training multiplies in bfloat16 over float32 weights on this CPU; a GPU's precision is the Trainer's."""
    return pick_device(model).type == "cpu" and model.training.mixed_precision and half_precision()


def mixed_precision(model: ModelParams):
    """The context of a training step's forward pass: autocast to bfloat16 where `mixes_precision` says so."""
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixes_precision(model))


def pick_quantization(model: ModelParams) -> str:
    """int8 or int4 where it is asked for and there is a GPU, else none.

    Raises
    ------
    ModelError : a GPU without bitsandbytes; whoever asks for four bits there has no room for sixteen
    """
    if model.quantization == "none" or pick_device(model).type != "cuda":
        return "none"
    if importlib.util.find_spec("bitsandbytes") is None:
        what = f"asks for {model.quantization}, and bitsandbytes is not installed"
        raise ModelError(model.name, what, "run `.venv/bin/pip install bitsandbytes`, or set quantization: none")
    return model.quantization


def hardware(model: ModelParams) -> dict:
    """What this model really runs on: device, dtype, quantization, and a note for each fallback from its file; of one
    that a server answers for, nothing is known.
    """
    if model.backend != "transformers":
        return {"device": "a server", "dtype": "unknown", "quantization": "unknown", "fallbacks": []}
    device, dtype = pick_device(model).type, str(pick_dtype(model)).removeprefix("torch.")
    quantization = pick_quantization(model)
    notes = []
    if model.device == "cuda" and device == "cpu":
        notes.append("no GPU here: runs on the CPU")
    if dtype != model.dtype:
        notes.append(f"{model.dtype} is not fit for this {device}: runs in {dtype}")
    if quantization != model.quantization:
        notes.append(f"{model.quantization} needs a GPU: runs unquantized")
    return {"device": device, "dtype": dtype, "quantization": quantization, "fallbacks": notes}


def precision(model: ModelParams) -> dict:
    """What of `hardware` decides a model's numbers: device, dtype and quantization."""
    return {name: value for name, value in hardware(model).items() if name != "fallbacks"}


def use_threads(model: ModelParams) -> int:
    """Give torch as many threads as OMP_NUM_THREADS, else the model's file, says; returns the number."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or model.resources.threads))
    return torch.get_num_threads()


def is_sharded() -> bool:
    """Whether `accelerate launch` runs this process under FSDP, which then decides where weights lie."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def placement() -> dict:
    """The `device_map` of weights that are quantized or take several GPUs: none under FSDP, this process's own GPU among
    several processes, else all GPUs there are.
    """
    if is_sharded():
        return {}
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return {"device_map": "auto" if alone else {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def quantization_options(model: ModelParams) -> dict:
    """The `from_pretrained` arguments of 8- and 4-bit loading (NF4, arXiv 2305.14314); for full precision none, unless
    the model's file asks for several GPUs.
    """
    kind = pick_quantization(model)
    if kind == "none":
        return placement() if model.resources.gpus > 1 and pick_device(model).type == "cuda" else {}
    from transformers import BitsAndBytesConfig

    eight = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=HEADS)
    return {"quantization_config": eight if kind == "int8" else four_bits(pick_dtype(model))} | placement()


def four_bits(dtype):
    """bitsandbytes' NF4 with quantized scales (arXiv 2305.14314), multiplied in a torch dtype."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # FSDP flattens weights of one dtype only
        llm_int8_skip_modules=HEADS,
    )


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


def load_network(model: ModelParams, auto_class, dtype=None, **options):
    """Any transformers auto class with this model's weights on this model's device, in evaluation mode.

    Parameters
    ----------
    auto_class : such as AutoModelForCausalLM
    dtype : torch dtype of the weights; none takes `pick_dtype`'s
    options : passed to `from_pretrained`, such as num_labels

    Raises
    ------
    ModelError : weights absent or damaged, or a repository that wants to run its own code
    """
    dtype = dtype or pick_dtype(model)
    if model.weights == "random":
        if pick_quantization(model) != "none":
            raise ModelError(
                model.name, f"has random weights, which {model.quantization} loading cannot make", "use none"
            )
        config = shape_config(model)
        config.update(options)
        return auto_class.from_config(config, dtype=dtype).to(pick_device(model)).eval()
    options |= hub_options(model) | quantization_options(model)
    with quiet(), readable_errors(model):
        network = auto_class.from_pretrained(weights_location(model), dtype=dtype, use_safetensors=True, **options)
    keep_narrow_layers_plain(network)
    placed = "quantization_config" in options or "device_map" in options or is_sharded()
    return network.eval() if placed else network.to(pick_device(model)).eval()


def keep_narrow_layers_plain(network) -> None:
    """Keep bitsandbytes from regrouping the weights of 4-bit layers that do not fit its groups.

    On processors with avx512_bf16 it regroups them before the first message, in `REGROUPED` rows and columns at a time,
    and stops at a layer of any other width. Such a layer is unpacked for every product instead, as on all other
    processors.
    """
    rows, columns = REGROUPED
    for layer in network.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            layer.support_avx512bf16_for_cpu = layer.out_features % rows == 0 and layer.in_features % columns == 0


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
    """A causal language model in evaluation mode: `(model, tokenizer)`."""
    from transformers import AutoModelForCausalLM

    return load_network(model, AutoModelForCausalLM), load_tokenizer(model)


def load_encoder(model: ModelParams):
    """A bare backbone in evaluation mode: `(model, tokenizer)`; it returns hidden states and has no head."""
    from transformers import AutoModel

    return load_network(model, AutoModel), load_tokenizer(model)


def mean_pooled_bert():
    """A BERT classifier that pools by the mean over a text's tokens, as sentence encoders like MiniLM were trained to.

    Their first token was never trained to stand for the text, so a head on it starts from noise.
    """
    import torch
    from transformers import BertModel, BertPreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class MeanPooledBert(BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = BertModel(config, add_pooling_layer=False)
            self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
            self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
            self.post_init()

        def forward(self, input_ids, attention_mask):
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask[..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled)))

    return MeanPooledBert


def classifier_class(pooling: str):
    """What loads a classifier: transformers' own class, or the mean-pooled BERT."""
    from transformers import AutoModelForSequenceClassification

    return mean_pooled_bert() if pooling == "mean" else AutoModelForSequenceClassification


def load_classifier(model: ModelParams, labels: tuple[str, ...]):
    """A backbone with a fresh linear head over `labels`: `(model, tokenizer)`.

    The head is drawn from torch's global generator: seed it first. A LLaMA pools its last real token, an encoder its
    first one, or the mean of all where its parameter file says so. The head reads in its own precision, float32. Over
    quantized weights norms and embeddings are in float32 too, in answering as in training.
    """
    names = dict(enumerate(labels))
    network = load_network(
        model,
        classifier_class(model.training.pooling),
        dtype=trained_dtype(model),
        num_labels=len(labels),
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    tokenizer = load_tokenizer(model)
    network.config.pad_token_id = tokenizer.pad_token_id
    if pick_quantization(model) != "none" and not is_sharded():
        from peft import prepare_model_for_kbit_training

        network = prepare_model_for_kbit_training(network, gradient_checkpointing_kwargs={"use_reentrant": False})
    head = network.get_submodule("score" if hasattr(network, "score") else "classifier")
    head.register_forward_pre_hook(in_own_precision)
    if not is_sharded():  # FSDP flattens weights of one dtype only
        head.float()
    return network, tokenizer


def in_own_precision(head, states: tuple) -> tuple:
    """A forward hook: the states that a head reads, in the precision of its weights."""
    return tuple(state.to(head.weight.dtype) for state in states)
