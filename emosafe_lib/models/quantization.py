"""Weights in 8 and 4 bits (NF4, arXiv 2305.14314), and where weights lie when one device is not enough."""

import os
import sys

from emosafe_lib.models import precision
from emosafe_lib.study.parameters import ModelParams

# What is never packed. Left to itself transformers packs an encoder's fresh head, for which there are no weights yet.
HEADS = ["lm_head", "score", "classifier"]
REGROUPED = 32, 64  # `block_n` and NF4's block size in bitsandbytes 0.50's functional._convert_weight_packed_for_cpu


def is_sharded() -> bool:
    """Whether `accelerate launch` runs this process under FSDP, which then decides where weights lie."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def placement(model: ModelParams) -> dict:
    """The `device_map` of weights that are quantized or take several GPUs: none under FSDP, else this process's own GPU.

    A process that is alone takes all GPUs where the model's file asks for several, and the processor where there is none.
    """
    if is_sharded():
        return {}
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    spread = model.resources.gpus > 1 or precision.pick_device(model).type != "cuda"
    return {"device_map": "auto" if alone and spread else {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def spare_bitsandbytes() -> None:
    """Import peft without bitsandbytes, which peft takes with it wherever it is installed: a second or more, lines on
    stderr, and the end of the process on a machine that it was not built for. `quantization_options` undoes it.
    """
    if {"peft", "bitsandbytes"} & sys.modules.keys():
        return
    sys.modules["bitsandbytes"] = None
    try:
        from peft import import_utils

        import_utils.is_bnb_4bit_available()  # asks `is_bnb_available`; peft remembers both answers
    finally:
        del sys.modules["bitsandbytes"]


def show_peft_bitsandbytes() -> None:
    """Import bitsandbytes silently, and let peft ask again whether it is there."""
    from peft import import_utils

    precision.no_bitsandbytes()
    import_utils.is_bnb_available.cache_clear()
    import_utils.is_bnb_4bit_available.cache_clear()


def quantization_options(model: ModelParams) -> dict:
    """The `from_pretrained` arguments of 8- and 4-bit loading (NF4, arXiv 2305.14314); for full precision none, unless
    the model's file asks for several GPUs.
    """
    kind = precision.pick_quantization(model)
    if kind == "none":
        return placement(model) if model.resources.gpus > 1 and precision.pick_device(model).type == "cuda" else {}
    from transformers import BitsAndBytesConfig

    show_peft_bitsandbytes()
    eight = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=HEADS)
    packed = eight if kind == "int8" else four_bits(precision.pick_dtype(model))
    return {"quantization_config": packed} | placement(model)


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
