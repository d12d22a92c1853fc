"""A LLaMA written as one GGUF file of weights and tokenizer, so that what reads such files can be tried on small ones."""

import json
from pathlib import Path

import gguf

BLOCK = 32  # packed kinds take rows in blocks of so many weights
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES = {"embed_tokens": "token_embd", "norm": "output_norm"}
CUTTING = {"ByteLevel": "gpt-2", "Digits+ByteLevel": "smollm"}


def write_gguf(network, tokenizer, path: Path, kind: str) -> Path:
    """Write a LlamaForCausalLM and its byte-level BPE.

    Parameters
    ----------
    kind : f32, f16, q8_0 or q4_1; norms, and rows that are no multiple of `BLOCK` long, are stored wider
    """
    writer = gguf.GGUFWriter(path, "llama")
    describe(writer, network.config, kind)
    add_tokenizer(writer, tokenizer)
    for name, values in tensors_of(network):
        packed = gguf.quants.quantize(values, stored_as(values, kind))
        writer.add_tensor(name, packed, raw_dtype=stored_as(values, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def describe(writer, config, kind: str) -> None:
    """The shape, in llama.cpp's words."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = {"f32": "ALL_F32", "f16": "MOSTLY_F16"}
    writer.add_file_type(gguf.LlamaFileType[names.get(kind, f"MOSTLY_{kind.upper()}")])


def add_tokenizer(writer, tokenizer) -> None:
    """Vocabulary, merges, control tokens and chat template."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = [step["type"] for step in whole["pre_tokenizer"].get("pretokenizers", [whole["pre_tokenizer"]])]
    control = {*tokenizer.all_special_ids, *(n for n, at in tokenizer.added_tokens_decoder.items() if at.special)}
    words, kinds = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(CUTTING["+".join(steps)])
    writer.add_token_list(words)
    writer.add_token_types([kinds.CONTROL if number in control else kinds.NORMAL for number in range(len(words))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in whole["model"]["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def tensors_of(network):
    """(name, values) of all weights in llama.cpp's names and order of rows, as float32 arrays."""
    config = network.config
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, weight in network.model.named_parameters():
        parts = name.removesuffix(".weight").split(".")
        values = weight.detach().numpy()
        if parts[0] == "layers":
            inner = ".".join(parts[2:])
            values = interleaved(values, heads[inner]) if inner in heads else values
            yield f"blk.{parts[1]}.{LAYER_NAMES[inner]}.weight", values
        else:
            yield f"{NAMES[parts[0]]}.weight", values
    if not config.tie_word_embeddings:
        yield "output.weight", network.lm_head.weight.detach().numpy()


def interleaved(values, heads: int):
    """The rows of a head's two halves in turn: llama.cpp turns neighbours, transformers one half against the other."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def stored_as(values, kind: str):
    """The type that a tensor is stored as: norms in fp32, rows that do not fill blocks in fp16."""
    types = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return types.F32
    return types.F16 if kind.startswith("q") and values.shape[1] % BLOCK else types[kind.upper()]
