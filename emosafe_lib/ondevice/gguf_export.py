"""A LLaMA written for llama.cpp: one GGUF file of weights and tokenizer, in fp16, 8 or 4 bits.

llama.cpp runs where PyTorch does not. What is written is a backbone with its tokenizer; a classifier's head is no part of
the format, so it stays in the export's safetensors and reads what llama.cpp answers as an embedding, pooled as the export
says. What the format or
llama.cpp cannot say is refused: another architecture, stretched positions, another way of cutting texts.
"""

import argparse
import json
from pathlib import Path

from emosafe_lib.ondevice.exported import load_exported
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.taxonomy import TASK_LABELS

KINDS = ("f32", "f16", "q8_0", "q4_1", "q4_0")
BLOCK = 32  # llama.cpp's packed kinds take rows in blocks of so many weights
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
REMEDY = "use the safetensors"


def write_gguf(network, tokenizer, path: Path, kind: str = "f16") -> Path:
    """Write a LLaMA and its tokenizer to one GGUF file.

    Parameters
    ----------
    network : a LlamaForCausalLM, a classifier on one, or the bare model; an adapter must have been merged
    kind : one of `KINDS`; norms, and rows that are no multiple of `BLOCK` long, are stored wider

    Raises
    ------
    ModelError : an architecture, positions or a tokenizer that the file could not hold, or an unknown kind
    """
    import gguf

    path, config = Path(path), network.config
    if kind not in KINDS:
        raise ModelError(path, f"{kind[:20]!r} is no kind of GGUF here", f"use one of {', '.join(KINDS)}")
    refuse_other_shapes(config, path)
    cutting = way_of_cutting(tokenizer, path)
    with replacing(path, ModelError) as partial:
        writer = gguf.GGUFWriter(partial, "llama")
        describe(writer, config, kind)
        add_tokenizer(writer, tokenizer, cutting)
        for name, values in tensors_of(network):
            packed = gguf.quants.quantize(values, stored_as(name, values, kind))
            writer.add_tensor(name, packed, raw_dtype=stored_as(name, values, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def refuse_other_shapes(config, path: Path) -> None:
    """Stop at what llama.cpp's LLaMA does not compute.

    Raises
    ------
    ModelError : says what
    """
    rope = config.rope_parameters if config.model_type == "llama" else {}
    if config.model_type != "llama":
        raise ModelError(path, f"{config.model_type} is no LLaMA, the one architecture written here", REMEDY)
    if rope.get("rope_type", "default") != "default":
        raise ModelError(path, f"has {rope['rope_type']} positions, which are not written here", REMEDY)
    if config.attention_bias or config.mlp_bias:
        raise ModelError(path, "has biases, which are not written here", REMEDY)


def way_of_cutting(tokenizer, path: Path) -> str:
    """llama.cpp's name of how a byte-level BPE cuts a text before it merges.

    Raises
    ------
    ModelError : another kind of tokenizer, or a way without a name
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    first = whole["pre_tokenizer"] or {"type": "none"}
    steps = "+".join(step["type"] for step in first.get("pretokenizers", [first]))
    if whole["model"]["type"] != "BPE" or whole["normalizer"] is not None or steps not in CUTTING:
        raise ModelError(path, f"its tokenizer ({whole['model']['type']}, {steps}) has no name in llama.cpp", REMEDY)
    return CUTTING[steps]


def describe(writer, config, kind: str) -> None:
    """The shape, in llama.cpp's words."""
    import gguf

    writer.add_name("emosafe export")
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


def add_tokenizer(writer, tokenizer, cutting: str) -> None:
    """Vocabulary, merges, control tokens and chat template."""
    import gguf

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    control = set(tokenizer.all_special_ids) | {
        number for number, at in tokenizer.added_tokens_decoder.items() if at.special
    }
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cutting)
    writer.add_token_list(words)
    writer.add_token_types([kinds.CONTROL if number in control else kinds.NORMAL for number in range(len(words))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            add(number)
    writer.add_add_bos_token(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def tensors_of(network):
    """(name, values) of all weights in llama.cpp's names and order of rows, as float32 arrays; no head."""
    base = getattr(network, "model", network)
    for name, weight in base.named_parameters():
        parts = name.removesuffix(".weight").split(".")
        values = weight.detach().float().cpu().numpy()
        if parts[0] == "layers":
            inner = ".".join(parts[2:])
            heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(inner)
            values = interleaved(values, getattr(base.config, heads)) if heads else values
            yield f"blk.{parts[1]}.{LAYER_NAMES[inner]}.weight", values
        else:
            yield f"{NAMES[parts[0]]}.weight", values
    head = network.get_output_embeddings() if hasattr(network, "lm_head") else None
    if head is not None and not base.config.tie_word_embeddings:
        yield "output.weight", head.weight.detach().float().cpu().numpy()


def interleaved(values, heads: int):
    """The rows of a head's two halves in turn: llama.cpp turns neighbours, transformers one half against the other."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def stored_as(name: str, values, kind: str):
    """The type that a tensor is stored as: norms in fp32, rows that do not fill blocks in fp16."""
    import gguf

    types = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return types.F32
    packed = kind.startswith("q")
    return types.F16 if packed and values.shape[1] % BLOCK else types[kind.upper()]


def add_gguf(folder: Path, kind: str = "f16") -> dict[str, float]:
    """Write the backbone of every exported task, its adapter merged, for llama.cpp; beside the tasks' folders.

    Returns
    -------
    MiB by file

    Raises
    ------
    ModelError : no export, a damaged one, or one that no GGUF file can hold
    """
    tasks, sizes = [task for task in TASK_LABELS if (Path(folder) / task).is_dir()], {}
    if not tasks:
        raise ModelError(folder, "holds no exported classifier", "make one with export.export")
    for task in tasks:
        network, tokenizer, _ = load_exported(Path(folder) / task)
        path = write_gguf(network, tokenizer, Path(folder) / f"{task}.{kind}.gguf", kind)
        sizes[path.name] = path.stat().st_size / 2**20
    return sizes


def main(arguments: list[str] | None = None) -> int:
    """`emosafe gguf FOLDER`: write an export's backbones for llama.cpp and print their sizes."""
    parser = argparse.ArgumentParser(prog="emosafe gguf", description=add_gguf.__doc__.splitlines()[0])
    parser.add_argument("folder", help="written by export.export, such as outputs/sample/nano-1/classifier")
    parser.add_argument("--kind", default="f16", choices=KINDS, help="how weights are stored")
    asked = parser.parse_args(arguments)
    for name, size in add_gguf(Path(asked.folder), asked.kind).items():
        print(f"{name}: {size:.1f} MiB")
    return 0
