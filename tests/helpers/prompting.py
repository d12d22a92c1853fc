"""Tiny tokenizers, models and rows for the prompting tests."""

import pandas as pd
import torch

from emosafe_lib.study.parameters import ModelParams, PromptingParams
from emosafe_lib.study.taxonomy import CATEGORIES

CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>")
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def tokenizer(chat: bool = True, pad: bool = True, marks: tuple[str, ...] = (), bos: bool = True):
    """A byte-level BPE without merges beyond bytes; `marks` are added tokens that are not special."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["safe borderline unsafe yes no answer category message level\n\n"] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(words, trainer)
    bpe.add_tokens([AddedToken(mark, special=False) for mark in marks])
    names = {"eos_token": CONTROL[1]} | ({"pad_token": CONTROL[5]} if pad else {})
    names |= {"bos_token": CONTROL[0]} if bos else {}
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, additional_special_tokens=list(CONTROL[2:5]), **names)
    if chat:
        made.chat_template = CHAT
    return made


def network(kind: str = "llama", seed: int = 0, vocabulary: int = 320, context: int = 4096):
    """A random model of a family, with weights large enough that differences show; the seed decides layers and key heads
    too, two of each for seed 0.
    """
    import transformers

    torch.manual_seed(seed)
    layers, key_heads = ((2, 2), (1, 4), (3, 1))[seed % 3]
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    ids = {"bos_token_id": None, "eos_token_id": None}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocabulary,
            n_embd=24,
            n_layer=layers,
            n_head=4,
            n_positions=context,
            initializer_range=0.3,
            **ids,
        )
        return transformers.GPT2LMHeadModel(config).eval()
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()
    if kind == "llama3-rope":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, rope_parameters=rope)).eval()
    if kind == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape)).eval()
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape, head_dim=8)).eval()


def make_rows(per_split: int = 24) -> pd.DataFrame:
    """Rows in turn safe, borderline, unsafe; each has one of the six categories in turn, or none."""
    rows = []
    for split in ("train", "validation", "test"):
        for number in range(per_split):
            rows.append(
                {
                    "id": f"{split}-{number}",
                    "text": f"note {number} " + "word " * (number % 5),
                    "source": "made",
                    "source_label": "made",
                    "emotion": None,
                    "safety": ("safe", "borderline", "unsafe")[number % 3],
                    "categories": [number % 7 == place for place in range(len(CATEGORIES))],
                    "category_known": [True] * len(CATEGORIES),
                    "group": f"{split}-{number}",
                    "split": split,
                    "origin": "human",
                    "parent_id": None,
                }
            )
    return pd.DataFrame(rows)


def model_params(**changes) -> ModelParams:
    """Parameters of a tiny model below the assets folder."""
    values = {"name": "tiny", "family": "llama", "weights": "assets", "path": "tiny", "context_tokens": 4096}
    return ModelParams.model_validate(values | changes)


def settings(**changes) -> PromptingParams:
    """One wording, one exemplar a class, short messages."""
    values = {"variants": ["plain"], "shots_per_class": 1, "max_text_tokens": 64}
    return PromptingParams.model_validate(values | changes)


def save(folder, kind: str = "llama", seed: int = 0, **options):
    """A tiny model and its tokenizer on disk."""
    made = tokenizer(**options)
    made.save_pretrained(folder)
    network(kind, seed, vocabulary=len(made)).save_pretrained(folder)
