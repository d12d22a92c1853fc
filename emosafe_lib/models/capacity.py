"""How large a model is before anything is loaded: parameters, bytes and the memory that inference needs.

The paper's on-device claim is a claim about bytes. Parameters are counted on PyTorch's meta device, where a 70 B model
takes no memory, and the plan below adds what inference holds at once: weights, the key-value cache and the activations
of one layer. It is computed, not measured, and says so in its `basis` column; notebook 06 puts measurements beside it.
"""

import pandas as pd

from emosafe_lib.models.backbone import quiet, shape_config, stored_config
from emosafe_lib.study.parameters import ModelParams

# Stored bits per weight of a linear layer: NF4 keeps a scale per 64 weights, itself quantized (arXiv 2305.14314).
LINEAR_BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.0, "int4": 4.127}
# Embeddings, norms and heads stay in 16 bits where linear layers are quantized.
OTHER_BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 16.0, "int4": 16.0}
ACTIVATION_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2, "int4": 2}


def configuration(model: ModelParams):
    """The transformers configuration: from the declared shape where there is one, else from the weights' folder."""
    return stored_config(model) if model.shape is None else shape_config(model)


def on_meta(model: ModelParams):
    """The network without memory for its weights: a causal LM for a LLaMA, a bare encoder otherwise."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModelForCausalLM if model.family == "llama" else AutoModel
    with quiet(), torch.device("meta"):
        return kind.from_config(configuration(model))


def count_parameters(model: ModelParams) -> dict[str, int]:
    """Parameters of a model; tied embeddings count once.

    Returns
    -------
    total; embedding (token, position and output tables); non_embedding; linear (weights inside linear layers, the
    output table not among them)
    """
    from torch import nn

    network = on_meta(model)
    head = network.get_output_embeddings()
    tables = [module.weight for module in network.modules() if isinstance(module, nn.Embedding)]
    if head is not None:
        tables.append(head.weight)
    embedding = sum(table.numel() for table in {id(table): table for table in tables}.values())
    if head is not None and network.config.tie_word_embeddings and len(tables) > 1 and tables[-1] is not tables[0]:
        embedding -= head.weight.numel()  # tying by name, which the meta device may not show
    linear = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear) and m is not head)
    every = {id(weight): weight.numel() for weight in network.parameters()}
    tied = {id(table) for table in tables}
    rest = sum(size for key, size in every.items() if key not in tied)
    return {"total": rest + embedding, "embedding": embedding, "non_embedding": rest, "linear": linear}


def weight_bytes(counts: dict[str, int], dtype: str) -> int:
    """Bytes of all weights when linear layers are stored as `dtype`."""
    other = counts["total"] - counts["linear"]
    return int((counts["linear"] * LINEAR_BITS[dtype] + other * OTHER_BITS[dtype]) / 8)


def cache_bytes(config, dtype: str, batch: int, length: int) -> int:
    """Bytes of the key-value cache: two tensors a layer of (batch, kv heads, length, head size); none for encoders."""
    heads = getattr(config, "num_key_value_heads", None)
    if heads is None:
        return 0
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * batch * length * ACTIVATION_BYTES[dtype]


def activation_bytes(config, dtype: str, batch: int, length: int) -> int:
    """Bytes that one layer's forward pass holds at its peak, roughly: the residual stream, queries, keys, values and
    the two halves of the gated feed-forward. Fused attention stores no attention weights; logits are taken for the last
    position only.
    """
    per_token = 5 * config.hidden_size + 2 * config.intermediate_size
    return batch * length * per_token * ACTIVATION_BYTES[dtype]


def memory_plan(model: ModelParams, batch: int = 1, length: int = 256) -> pd.DataFrame:
    """Bytes that inference needs, one row a dtype, computed from the shape.

    Returns
    -------
    columns model, dtype, parameters, weights, cache, activations, total (bytes), batch, length, basis ("computed")
    """
    counts, config = count_parameters(model), configuration(model)
    rows = []
    for dtype in LINEAR_BITS:
        weights = weight_bytes(counts, dtype)
        cache = cache_bytes(config, dtype, batch, length)
        activations = activation_bytes(config, dtype, batch, length)
        rows.append(
            {"model": model.name, "dtype": dtype, "parameters": counts["total"], "weights": weights, "cache": cache}
            | {"activations": activations, "total": weights + cache + activations}
            | {"batch": batch, "length": length, "basis": "computed"}
        )
    return pd.DataFrame(rows)
