"""One vector a text: the hidden states of its tokens pooled, for classifiers, probes and embeddings alike."""

import numpy as np

from emosafe_lib.models.batching import Encoded, map_batches


def pool(states, mask, pooling: str = "mean"):
    """One vector per text, (n, hidden): the mean over its tokens, or its last token; padding counts for nothing.

    Parameters
    ----------
    states : hidden states, (n, tokens, hidden)
    mask : 1 where a token belongs to the text and 0 where it pads, (n, tokens), on whichever side
    pooling : "mean" or "last"
    """
    mask = mask.to(states.device)  # of a model on several GPUs, the states come from the last
    if pooling == "mean":
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    places = (mask.cumsum(1) * mask).argmax(1)
    return states.take_along_dim(places[:, None, None], dim=1)[:, 0]


def embed(network, tokenizer, encoded: Encoded, budget: int) -> np.ndarray:
    """Unit-length mean-pooled embeddings of n tokenized texts by an encoder, float64 (n, hidden).

    `budget` is the most tokens in one batch, padding included.
    """
    import torch

    if not encoded.ids:
        return np.zeros((0, network.config.hidden_size))

    @torch.inference_mode()
    def vectors(inputs) -> np.ndarray:
        inputs = inputs.to(network.device)
        pooled = pool(network(**inputs).last_hidden_state.float(), inputs["attention_mask"])
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().double().numpy()

    return map_batches(vectors, tokenizer, encoded, budget)
