"""A backbone with a linear head over a task's labels: how it is loaded, what it pools, and what it answers."""

from contextlib import contextmanager

import numpy as np

from emosafe_lib.models import precision
from emosafe_lib.models.backbone import load_network, load_tokenizer, stored_config
from emosafe_lib.models.batching import Encoded, map_batches
from emosafe_lib.models.pooling import pool
from emosafe_lib.models.quantization import is_sharded
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams


def mean_pooled(family: str):
    """A classifier that pools by the mean over a text's tokens, for a BERT ("encoder") or a LLaMA ("llama").

    A sentence encoder's first token was never trained to stand for the text, and what a LLaMA's last token holds is about
    the next word; a head on either starts from noise.
    """
    from torch.nn import Dropout, Linear
    from transformers import BertModel, BertPreTrainedModel, LlamaModel, LlamaPreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    class MeanPooledBert(BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = BertModel(config, add_pooling_layer=False)
            self.dropout = Dropout(config.hidden_dropout_prob)
            self.classifier = Linear(config.hidden_size, config.num_labels)
            self.post_init()

        def forward(self, input_ids, attention_mask, **_):
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return SequenceClassifierOutput(logits=self.classifier(self.dropout(pool(states, attention_mask))))

    class MeanPooledLlama(LlamaPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.model = LlamaModel(config)
            self.score = Linear(config.hidden_size, config.num_labels)
            self.post_init()

        def forward(self, input_ids, attention_mask, **_):
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return SequenceClassifierOutput(logits=self.score(pool(states, attention_mask)))

    return MeanPooledLlama if family == "llama" else MeanPooledBert


def classifier_class(pooling: str, family: str):
    """What loads a classifier: transformers' own class, or a mean-pooled one."""
    from transformers import AutoModelForSequenceClassification

    return mean_pooled(family) if pooling == "mean" else AutoModelForSequenceClassification


def head_of(network):
    """The linear head over a task's labels, whatever its class calls it."""
    return network.get_submodule("score" if hasattr(network, "score") else "classifier")


def refuse_other_architecture(model: ModelParams) -> None:
    """Raise ModelError where the mean-pooled class of a family would leave another architecture's weights to chance."""
    if model.weights == "random":
        return
    kind, wanted = stored_config(model).model_type, "llama" if model.family == "llama" else "bert"
    if kind != wanted:
        what = f"is of the architecture {kind}, and mean pooling is for {wanted}"
        raise ModelError(model.path, what, "leave out training.pooling")


def load_classifier(model: ModelParams, labels: tuple[str, ...]):
    """A backbone with a fresh linear head over `labels`: `(model, tokenizer)`.

    The head is drawn from torch's global generator: seed it first. A LLaMA pools its last real token, an encoder its
    first one, or either the mean of all where its parameter file says so. The head reads in its own precision, float32. Over
    quantized weights norms and embeddings are in float32 too, in answering as in training.
    """
    if model.training.pooling == "mean":
        refuse_other_architecture(model)
    names = dict(enumerate(labels))
    network = load_network(
        model,
        classifier_class(model.training.pooling, model.family),
        dtype=precision.trained_dtype(model),
        num_labels=len(labels),
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    tokenizer = load_tokenizer(model)
    network.config.pad_token_id = tokenizer.pad_token_id
    if precision.pick_quantization(model) != "none" and not is_sharded():
        from peft import prepare_model_for_kbit_training

        network = prepare_model_for_kbit_training(network, gradient_checkpointing_kwargs={"use_reentrant": False})
    head = head_of(network)
    head.register_forward_pre_hook(in_own_precision)
    if not is_sharded():  # FSDP flattens weights of one dtype only
        head.float()
    return network, tokenizer


@contextmanager
def head_alone(network, labels: tuple[str, ...], columns: slice, state: dict | None = None):
    """Let a network pass for one of a part of its labels, so that it can be saved as such: the weights to save, the head's
    cut. They are None, for the network's own, where there is nothing to cut.

    `state` holds the weights where the network itself does not.
    """
    config, names = network.config, network.config.id2label
    if len(names) == len(labels):
        yield state
        return
    own = network.state_dict() if state is None else state
    name_labels(config, dict(enumerate(labels)))
    try:
        yield {
            name: weights[columns].clone() if of_head(name, weights, len(names)) else weights
            for name, weights in own.items()
        }
    finally:
        name_labels(config, names)


def name_labels(config, names: dict[int, str]) -> None:
    """Tell a configuration what the outputs of its classifier stand for."""
    config.id2label, config.label2id = names, {name: number for number, name in names.items()}


def of_head(name: str, weights, labels: int) -> bool:
    """Whether weights of that name are those of the head over so many labels, an adapter's copy among them."""
    return bool({"score", "classifier"} & set(name.split("."))) and len(weights) == labels


def in_own_precision(head, states: tuple) -> tuple:
    """A forward hook: the states that a head reads, in the precision of its weights."""
    return tuple(state.to(head.weight.dtype) for state in states)


def logits_of(network, tokenizer, encoded: Encoded, budget: int) -> np.ndarray:
    """A classifier's logits of the rows in their own order, (n, labels), float64; batched by length to a token budget."""
    import torch

    network.eval()
    device = next(network.parameters()).device

    @torch.inference_mode()
    def logits(inputs) -> np.ndarray:
        return network(**inputs.to(device)).logits.cpu().double().numpy()

    return map_batches(logits, tokenizer, encoded, budget)
