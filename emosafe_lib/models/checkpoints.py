"""What is on disk of a training run, and whether it may be believed.

A killed process, a full disk or a careless copy leaves files that look like a model. So each folder is sealed when it
is complete: the seal lists every file with its hash, and is written last. Folders without a fitting seal are passed
over for an older one, weights are read from safetensors only, and an adapter only goes on the base it was trained on.
"""

import ast
import copy
import errno
import hashlib
import json
from functools import cache
from pathlib import Path

from emosafe_lib.models import gguf_files
from emosafe_lib.models.backbone import quiet, room_for, weights_location
from emosafe_lib.models.classifier import classifier_class, load_classifier
from emosafe_lib.models.precision import pick_device, trained_dtype
from emosafe_lib.models.quantization import spare_bitsandbytes
from emosafe_lib.models.seals import read_seal, seal
from emosafe_lib.study.errors import ModelError, TrainingError
from emosafe_lib.study.files import known_sha256, replacing
from emosafe_lib.study.parameters import ModelParams

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
LOADED = (".safetensors", ".json", ".jinja")  # what decides a model's answers; a README beside it does not
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def newest_usable(folder: Path, identity: dict) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint below `folder`, and a note for each newer one that was passed over.

    A seal may name a neighbour as the `best` so far. Training that goes on may end with those weights, so a checkpoint
    is no better than the one that it names.

    Raises
    ------
    TrainingError : a complete checkpoint belongs to other data, parameters or another base model
    """
    notes = []
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for path in found:
        try:
            facts = read_seal(path)
            refuse_other(facts.get("identity", {}), identity, path)
            if facts.get("best", path.name) != path.name:
                read_seal(path.with_name(facts["best"]))
        except ModelError as error:
            notes.append(f"{path.name} passed over: {Path(error.where).relative_to(folder)} {error.what}")
            continue
        return path, notes
    return None, notes


def refuse_other(found: dict, wanted: dict, where: object) -> None:
    """Stop when what is on disk was made from something else.

    Raises
    ------
    TrainingError : names the parts that differ, such as data, parameters or base
    """
    differ = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differ:
        raise TrainingError(where, f"was made with other {', '.join(differ)}", "use another folder, or delete this one")


def check_tensors(path: Path) -> None:
    """Read a safetensors file through once.

    Raises
    ------
    ModelError : absent, truncated, no safetensors, or holding a value that is not finite
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise ModelError(path, "is missing", "train again; pickled weights are never read")
    try:
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                values = tensors.get_tensor(name)
                if values.is_floating_point() and not bool(values.isfinite().all()):
                    raise ModelError(path, f"{name} holds values that are not finite", "train again")
    except SafetensorError:
        raise ModelError(path, "is truncated or no safetensors file", "train again, or restore it") from None


def text_digest(*parts: str) -> str:
    """A short hash of texts, order included."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def code_digest(*files: Path) -> str:
    """A short hash of what Python files say, order included: comments, docstrings and layout change nothing, all else does.

    Results that are kept carry it, so that a correction of the code makes them anew where a better comment does not.
    """
    return text_digest(*map(syntax_of, files))


@cache
def syntax_of(path: Path) -> str:
    """The syntax tree of a Python file without its docstrings, as text; kept, since every run of a study asks for it."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


def tokenizer_digest(tokenizer) -> str:
    """A hash of vocabulary, special tokens and padding side."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return text_digest(vocabulary, json.dumps(tokenizer.special_tokens_map, sort_keys=True), tokenizer.padding_side)


def base_digest(model: ModelParams) -> str:
    """A hash that tells one base model from another: weights, configuration and tokenizer where local, else repository
    and commit.
    """
    if model.weights == "random":
        return text_digest("random", model.shape.model_dump_json())
    if model.weights == "gguf":
        path = gguf_files.gguf_file(model)
        return text_digest(path.name, known_sha256(path), str(gguf_files.VERSION))
    folder = Path(weights_location(model))
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix in LOADED)
        return text_digest(*(f"{path.name}:{known_sha256(path)}" for path in files))
    # Fetched if need be: a run that began as "main" would not be found again once the commit is known.
    return text_digest(model.path, gguf_files.from_hub(model, model.path, "config.json").parent.name)


def save_classifier(network, tokenizer, folder: Path, state: dict | None = None, **facts) -> Path:
    """Save an adapter with its head, or a whole encoder, and seal it; an older folder stays until the new one is whole.

    `state` holds the weights where the network itself does not, because FSDP spreads them over processes.

    Raises
    ------
    TrainingError : the disk is full; the older folder is untouched
    """
    from safetensors import SafetensorError

    with replacing(folder, TrainingError) as partial:
        try:
            write_weights(network, partial, state)
        except SafetensorError:
            raise OSError(errno.EIO, "its weights were not written") from None
        tokenizer.save_pretrained(partial)
        seal(partial, tokenizer=tokenizer_digest(tokenizer), **facts)
    return Path(folder)


def write_weights(network, folder: Path, state: dict | None = None) -> None:
    """Write a network's own weights; an adapter's configuration names its base by the seal, not by a local folder.

    An adapter is written as peft writes it, but by name alone: peft would ask the network, which FSDP has taken apart.
    """
    if not hasattr(network, "peft_config"):
        network.save_pretrained(folder, state_dict=state)
        return
    from safetensors.torch import save_file

    config = copy.copy(network.peft_config["default"])
    config.inference_mode, config.base_model_name_or_path = True, None
    config.save_pretrained(folder)
    weights = trained_weights(network.state_dict() if state is None else state)
    named = {name_in_adapter(name): values.contiguous() for name, values in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def trained_weights(state: dict) -> dict:
    """Of all weights of a network with an adapter, those of the adapter and of its copy of the head."""
    return {name: values for name, values in state.items() if ".lora_" in name or ".modules_to_save." in name}


def name_in_adapter(name: str) -> str:
    """What peft calls a network's weights in an adapter's file."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".").removesuffix(".default")


@quiet()
def restore_classifier(model: ModelParams, folder: Path, labels: tuple[str, ...], *, merge: bool = False):
    """A saved classifier in evaluation mode: `(network, tokenizer)`, its head bit for bit as it was trained.

    Parameters
    ----------
    labels : what the head must stand for, in order
    merge : fold the adapter into the base weights

    Raises
    ------
    ModelError : pickled, truncated or changed files, adapter, base, tokenizer and labels that do not belong together, or no
        room for them
    """
    folder = Path(folder)
    lora = (folder / "adapter_config.json").is_file()
    pickled = [path.name for path in folder.glob("*") if path.suffix in PICKLES and "model" in path.name]
    if pickled:
        raise ModelError(folder / pickled[0], "is pickled", "only safetensors are read; train again")
    check_tensors(folder / ("adapter_model.safetensors" if lora else "model.safetensors"))
    facts = read_seal(folder)
    if tuple(facts["labels"]) != tuple(labels):
        raise ModelError(folder, f"has a head for {len(facts['labels'])} other labels", "name the task it was made for")
    with room_for(model):
        return restore_adapter(model, folder, facts, labels, merge) if lora else restore_whole(model, folder, facts)


def restore_whole(model: ModelParams, folder: Path, facts: dict):
    """A fully fine-tuned network from its own folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    refuse_foreign(tokenizer_digest(tokenizer), facts["tokenizer"], folder, "tokenizer")
    network = classifier_class(model.training.pooling, model.family).from_pretrained(
        folder, dtype=trained_dtype(model), use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return network.to(pick_device(model)).eval(), tokenizer


def restore_adapter(model: ModelParams, folder: Path, facts: dict, labels: tuple[str, ...], merge: bool):
    """An adapter on the base that it was trained on; it is merged into unquantized weights, since packed ones round it."""
    spare_bitsandbytes()
    from peft import PeftModel

    model = model.model_copy(update={"quantization": "none"}) if merge else model
    network, tokenizer = load_classifier(model, labels)
    refuse_foreign(base_digest(model), facts["base"], folder, "base model")
    refuse_foreign(tokenizer_digest(tokenizer), facts["tokenizer"], folder, "tokenizer")
    network = PeftModel.from_pretrained(network, folder)
    network = network.merge_and_unload() if merge else network
    return network.eval(), tokenizer


def refuse_foreign(found: str, wanted: str, folder: Path, part: str) -> None:
    """Raise ModelError unless two digests are equal."""
    if found != wanted:
        raise ModelError(folder, f"was trained with another {part}", "name the model that it was trained on")
