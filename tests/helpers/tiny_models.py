"""Random models of two layers and sixteen hidden units, and rows whose label stands in one word, for training tests."""

import pandas as pd

from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.taxonomy import CATEGORIES

WORDS = {"safe": "calm garden morning", "borderline": "tired lonely worry", "unsafe": "danger threat harm"}


def make_rows(train: int = 24, other: int = 9) -> pd.DataFrame:
    """Rows in turn safe, borderline, unsafe; unsafe ones belong to the first category, which every second row knows."""
    rows = []
    for split, count in (("train", train), ("validation", other), ("test", other)):
        for number in range(count):
            level = list(WORDS)[number % 3]
            text = " ".join([WORDS[level]] * (1 + number % 4)) + f" {number}"
            flags = [level == "unsafe", level == "borderline"] + [False] * (len(CATEGORIES) - 2)
            rows.append(
                {
                    "id": f"{split}-{number}",
                    "text": text,
                    "source": "made",
                    "source_label": level,
                    "emotion": None,
                    "safety": level,
                    "categories": flags,
                    "category_known": [number % 2 == 0] + [True] * (len(CATEGORIES) - 1),
                    "group": f"{split}-{number}",
                    "split": split,
                    "origin": "reinterpretation" if split == "train" and number % 6 == 5 else "human",
                    "parent_id": None,
                }
            )
    return pd.DataFrame(rows)


def make_tokenizer(folder):
    """A byte-level BPE with Llama-3-style control tokens, trained on the words above."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    control = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=control, initial_alphabet=alphabet)
    bpe.train_from_iterator(list(WORDS.values()) * 9, trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{control[0]} $A", special_tokens=[(control[0], 0)])
    names = dict(zip(("bos_token", "eos_token", "pad_token"), control, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **names)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_llama(folder, seed: int = 0):
    """A random two-layer LLaMA with its tokenizer, saved to `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_encoder(folder, seed: int = 0):
    """A random two-layer BERT with a word tokenizer, saved to `folder`."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for text in WORDS.values() for word in text.split()})
    vocabulary = [*control, *words, *"0123456789", *(f"##{digit}" for digit in "0123456789"), "[", "]", "pad"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    BertModel(config).save_pretrained(folder)


def model_params(name: str = "llama", **changes) -> ModelParams:
    """Parameters of a tiny model saved below the assets folder under its name."""
    training = {"learning_rate": 0.02, "tokens_per_batch": 64} | changes.pop("training", {})
    if name == "encoder":
        training = {"method": "full", "learning_rate": 0.003} | training
    family = "encoder" if name == "encoder" else "llama"
    values = {"name": name, "family": family, "weights": "assets", "path": name} | changes
    return ModelParams.model_validate(values | {"training": training})


def study_params(**finetuning) -> StudyParams:
    """A study of two epochs at most 32 tokens a text."""
    values = {"epochs": 2.0, "max_length": 32} | finetuning
    sources = ["made", *{**values.get("repeats", {}), **dict.fromkeys(values.get("left_out_sources", []))}]
    return StudyParams.model_validate(
        {"name": "made", "data": {"sources": sources}, "finetuning": values, "models": ["llama"]}
    )
