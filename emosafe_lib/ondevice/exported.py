"""An exported classifier as it lies on disk: its network and its tokenizer, read again without its recipe."""

import json
from pathlib import Path

from emosafe_lib.models import checkpoints
from emosafe_lib.models.backbone import quiet
from emosafe_lib.models.checkpoints import read_seal
from emosafe_lib.models.classifier import classifier_class


def load_exported(folder: Path):
    """One exported task, every file checked: `(network, tokenizer, facts)`, the network in evaluation mode on the CPU.

    Raises
    ------
    ModelError : no export, or a file that is pickled, truncated, changed or of another tokenizer
    """
    checkpoints.check_tensors(folder / "model.safetensors")
    facts = read_seal(folder)
    options = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True}
    family = "llama" if json.loads((folder / "config.json").read_text())["model_type"] == "llama" else "encoder"
    with quiet():
        network = classifier_class(facts["pooling"], family).from_pretrained(folder, **options)
    return network.eval(), load_tokenizer(folder, facts), facts


def load_tokenizer(folder: Path, facts: dict):
    """The tokenizer of an exported task; ModelError if it is not the one that was exported."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    checkpoints.refuse_foreign(checkpoints.tokenizer_digest(tokenizer), facts["tokenizer"], folder, "tokenizer")
    return tokenizer
