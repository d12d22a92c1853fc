"""An exported classifier as it lies on disk: its network and its tokenizer, read by PyTorch without its recipe.

No network is built before it is known that the file holds its tensors: a config that asks for a million columns, or for
weights that are not there, is refused while nothing is allocated.
"""

from pathlib import Path

from emosafe_lib.models import checkpoints
from emosafe_lib.models.backbone import quiet
from emosafe_lib.models.classifier import classifier_class
from emosafe_lib.models.seals import read_object
from emosafe_lib.ondevice.exports import REMEDY, one_line, read_facts
from emosafe_lib.ondevice.onnx_classifier import try_out
from emosafe_lib.study.errors import ModelError

REAL = ("F64", "F32", "F16", "BF16")


def load_exported(folder: Path):
    """One exported task, every file checked: `(network, tokenizer, facts)`, the network in evaluation mode on the CPU.

    Raises
    ------
    ModelError : no export, or a file that is pickled, truncated, changed, of another tokenizer, or that describes no
        network whose weights are there
    """
    folder = Path(folder)
    checkpoints.check_tensors(folder / "model.safetensors")
    facts = read_facts(folder, "torch")
    options = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}
    with one_line(folder, "holds no network that transformers can read"), quiet():
        network_class = classifier_class(facts["pooling"], family_of(folder))
        refuse_other_tensors(tensors_of(network_class, folder), folder)
        network = network_class.from_pretrained(folder, **options).eval()
    tokenizer = load_tokenizer(folder, facts)
    try_out(answers_of(network, tokenizer), len(facts["labels"]), facts["fitted"]["max_length"], len(tokenizer), folder)
    return network, tokenizer, facts


def family_of(folder: Path) -> str:
    """Whether the exported network is a LLaMA or an encoder."""
    return "llama" if read_object(folder / "config.json", REMEDY).get("model_type") == "llama" else "encoder"


def tensors_of(network_class, folder: Path) -> dict[str, tuple]:
    """The tensors that a folder's config asks for, counted on the meta device, where nothing is held: shape, and whether
    it is of real numbers, by name.

    Raises
    ------
    ModelError : the config asks for more layers than there are tensors
    """
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not isinstance(config, getattr(network_class, "config_class", None) or object):
        raise ModelError(folder / "config.json", "describes another kind of network than the seal", REMEDY)
    if getattr(config, "num_hidden_layers", 0) > len(stored_tensors(folder)):
        raise ModelError(folder / "config.json", "asks for more layers than model.safetensors holds", REMEDY)
    with torch.device("meta"):
        make = getattr(network_class, "from_config", None) or network_class._from_config
        network = make(config)
    tied = getattr(network, "all_tied_weights_keys", {})
    held = network.state_dict().items()
    return {name: (tuple(each.shape), each.is_floating_point()) for name, each in held if name not in tied}


def stored_tensors(folder: Path) -> dict[str, tuple]:
    """The tensors in a folder's safetensors, from its header: shape, and whether it is of real numbers, by name."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
    return {name: (tuple(each.get_shape()), each.get_dtype() in REAL) for name, each in slices.items()}


def refuse_other_tensors(wanted: dict[str, tuple], folder: Path) -> None:
    """Raise ModelError unless model.safetensors holds the wanted tensors, in their shapes and kinds, and no others."""
    held, path = stored_tensors(folder), folder / "model.safetensors"
    for name in wanted.keys() | held.keys():
        if name not in held:
            raise ModelError(path, f"lacks {name[:100]!a}, which config.json asks for", REMEDY)
        if name not in wanted:
            raise ModelError(path, f"holds {name[:100]!a}, which config.json does not ask for", REMEDY)
        if held[name] != wanted[name]:
            shapes = f"{held[name][0]}, and config.json asks for {wanted[name][0]}"
            raise ModelError(path, f"holds {name[:100]!a} in another shape or kind: {shapes}", REMEDY)


def answers_of(network, tokenizer):
    """What `try_out` asks: token ids, a list a row, to logits."""
    import torch
    from transformers import DataCollatorWithPadding

    @torch.inference_mode()
    def answer(rows: list[list[int]]):
        inputs = DataCollatorWithPadding(tokenizer)([{"input_ids": row} for row in rows])
        return network(**inputs).logits.float().numpy()

    return answer


def load_tokenizer(folder: Path, facts: dict):
    """The tokenizer of an exported task; ModelError if it is not the one that was exported."""
    from transformers import AutoTokenizer

    with one_line(folder, "holds no tokenizer that transformers can read"), quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        found = checkpoints.tokenizer_digest(tokenizer)
    checkpoints.refuse_foreign(found, facts["tokenizer"], folder, "tokenizer")
    return tokenizer
