"""Exact label log-probabilities from a causal language model, touching each token once.

The plain way sends the whole prompt again for every label of every row. Nearly all of it is the same: so the constant
prefix goes through the model once and its keys and values are kept; each message is read once; the questions and the
tokens of their answers hang on it as a tree, every token of which sees its own ancestors only. The last layer works for
the few places from which an answer is read (the others owe it their keys and values only), and so does the output layer.

No copy of the prefix is made per row either. Attention over prefix and attention over the rest are two independent
softmax sums, which their log-sum-exps merge exactly (Juravsky et al. 2024, arXiv 2402.05099).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from emosafe_lib.models.backbone import attending
from emosafe_lib.models.batching import budget_batches
from emosafe_lib.prompting.wordings import Prompt
from emosafe_lib.study.errors import ModelError, PromptError
from emosafe_lib.study.memory import out_of_memory, telling_memory

ATTENTION = "emosafe_shared_prefix"
# Positions whose meaning changes with the length of a batch would make a score depend on its neighbours.
UNSTABLE_ROPE = ("dynamic", "longrope")
# On a CPU, batches of more tokens leave its cache and are a sixth slower.
CPU_TOKENS = 2048
PATIENCE = 5.0  # seconds that one message may take the plain way before longer prefixes are left out
RESCALED_LOGITS = ("final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Tree:
    """Questions and answers behind a message, common beginnings merged; nodes are numbered parents first.

    Attributes
    ----------
    ids, depths : token and distance behind the message's end, shape (nodes,)
    sees : bool (nodes, nodes), True where a node is another's ancestor or itself
    readers : nodes from whose hidden state something is read, shape (r,)
    reads : per question and answer, [(place in `readers`, token to read), ...]
    """

    ids: np.ndarray
    depths: np.ndarray
    sees: np.ndarray
    readers: np.ndarray
    reads: list[list[list[tuple[int, int]]]]

    @property
    def places(self) -> list[int]:
        """The readers counted from the end of a row, below zero, since the tree stands there in every batch."""
        return (self.readers - len(self.ids)).tolist()


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the constant prefix: one pair of shape (1, kv heads, length, head size) per layer."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    length: int


def plant(suffixes, answers) -> Tree:
    """The tree of all suffixes, each followed by all answers; an answer's last token is only read, never fed.

    Raises
    ------
    PromptError : a suffix or an answer has no token, so that there would be nothing to read from
    """
    if not suffixes or not answers or not all(suffixes) or not all(answers):
        raise PromptError("prompt", "an empty suffix or answer", "give each at least one token")
    nodes: dict[tuple[int, int], int] = {}
    parents: list[int] = []
    reads = []
    for suffix in suffixes:
        start = walk(nodes, parents, -1, suffix)
        reads.append([spell(nodes, parents, start, answer) for answer in answers])
    readers = sorted({node for question in reads for spelled in question for node, _ in spelled})
    place = {node: number for number, node in enumerate(readers)}
    placed = [[[(place[node], token) for node, token in spelled] for spelled in question] for question in reads]
    sees, depths = ancestry(parents)
    return Tree(np.array([token for _, token in nodes]), depths, sees, np.array(readers), placed)


def walk(nodes: dict, parents: list[int], node: int, tokens) -> int:
    """Follow tokens from a node, growing the tree where it has no such branch; returns the last node."""
    for token in tokens:
        if (node, token) not in nodes:
            nodes[node, token] = len(nodes)
            parents.append(node)
        node = nodes[node, token]
    return node


def spell(nodes: dict, parents: list[int], node: int, answer) -> list[tuple[int, int]]:
    """Where each token of an answer is read: (node before it, token)."""
    read = []
    for number, token in enumerate(answer):
        read.append((node, token))
        if number < len(answer) - 1:
            node = walk(nodes, parents, node, [token])
    return read


def ancestry(parents: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Who sees whom, bool (nodes, nodes), and each node's depth, from parent numbers (-1 for a root)."""
    sees = np.eye(len(parents), dtype=bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            sees[node] |= sees[parent]
    return sees, sees.sum(axis=1) - 1


def attend(module, query, key, value, attention_mask, scaling=None, shared_prefix=None, read_at=None, **_):
    """Attention of a batch over its own tokens, masked, and over one prefix that all rows share, unmasked.

    The signature is transformers' attention interface. Shapes: query (batch, heads, q, size), key and value
    (batch, kv heads, q, size), mask (batch, 1, q, q) as numbers to add; returns (batch, q, heads, size). In the last
    layer only the queries at `read_at` attend, the others get zeros: nobody reads what becomes of them.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    if read_at is not None and module.layer_idx == module.config.num_hidden_layers - 1:
        out = torch.zeros_like(query)
        few = query[:, :, read_at], key, value, attention_mask[:, :, read_at], scaling
        out[:, :, read_at] = attend_shared(module.layer_idx, *few, shared_prefix)
    else:
        out = attend_shared(module.layer_idx, query, key, value, attention_mask, scaling, shared_prefix)
    return out.transpose(1, 2).contiguous(), None


def attend_shared(layer: int, query, key, value, mask, scaling, prefix: Prefix | None):
    """Attention over prefix and own tokens in the way that suits the device."""
    if prefix is None or not prefix.length:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    way = attend_merged if query.device.type == "cpu" else attend_joined
    return way(query, key, value, mask, scaling, *prefix.layers[layer])


def attend_joined(query, key, value, mask, scaling, prefix_key, prefix_value):
    """The prefix's keys and values are put before each row's own: one call, at the price of a copy per row."""
    groups, length = query.shape[1] // prefix_key.shape[1], prefix_key.shape[2]
    before = (
        states.repeat_interleave(groups, dim=1).expand(len(query), -1, -1, -1) for states in (prefix_key, prefix_value)
    )
    key, value = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=F.pad(mask, (length, 0)), scale=scaling)


def attend_merged(query, key, value, mask, scaling, prefix_key, prefix_value):
    """Both parts apart, merged by their log-sum-exps; all rows' queries meet the prefix as one long sequence."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    batch, heads, length, size = query.shape
    kv_heads = prefix_key.shape[1]
    folded = query.view(batch, kv_heads, heads // kv_heads, length, size).permute(1, 2, 0, 3, 4)
    folded = folded.reshape(1, kv_heads, -1, size)
    far, far_sum = flash(folded, prefix_key, prefix_value, scale=scaling)
    shape = (kv_heads, heads // kv_heads, batch, length)
    far = far.reshape(*shape, size).permute(2, 0, 1, 3, 4).reshape(batch, heads, length, size)
    far_sum = far_sum.reshape(shape).permute(2, 0, 1, 3).reshape(batch, heads, length)
    near, near_sum = flash(query, key, value, attn_mask=mask, scale=scaling)
    share = torch.sigmoid(near_sum - far_sum).unsqueeze(-1).to(near.dtype)
    return torch.lerp(far, near, share)


def refuse_unsupported(network, longest: int) -> None:
    """Raise ModelError for architectures whose attention or output layer this scorer would not reproduce exactly.

    A window of attention is no hindrance where it is wider than the `longest` sequence.
    """
    config = network.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = None if getattr(config, "layer_types", None) else getattr(config, "sliding_window", None)
    problem = None
    reads_both_ways = "bert" in config.model_type and not getattr(config, "is_decoder", False)
    if getattr(config, "is_encoder_decoder", False) or reads_both_ways or network.get_output_embeddings() is None:
        problem = "is not a causal language model"
    elif kinds or not getattr(network, "_supports_attention_backend", False):
        problem = f"has attention of another kind ({', '.join(sorted(kinds)) or config.model_type})"
    elif window and window < longest:
        problem = f"looks back {window} tokens only, and {longest} are asked for"
    elif rope.get("rope_type") in UNSTABLE_ROPE:
        problem = f"has {rope['rope_type']} positions"
    elif any(getattr(config, name, None) not in (None, 1, 1.0) for name in RESCALED_LOGITS):
        problem = "rescales its logits"
    if problem:
        raise ModelError(config.model_type, problem, "use LLaMA-, Qwen- or GPT-2-like models, or backend: openai")


def device_of(network) -> torch.device:
    """Where a network takes its tokens."""
    return network.get_input_embeddings().weight.device


@torch.inference_mode()
def read_prefix(network, prefix) -> Prefix:
    """Send the constant prefix through the model once and keep its keys and values.

    Raises
    ------
    ModelError : memory does not hold it
    """
    if not prefix:
        return Prefix([], 0)
    what = f"a prefix of {len(prefix)} tokens does not fit in memory"
    # Nothing is read from the prefix, and no layer follows the last.
    with telling_memory(ModelError("scoring", what, "lower shots_per_class")), last_mlp_at(network, []):
        ids = torch.tensor([prefix], device=device_of(network))
        cache = network.base_model(ids, use_cache=True).past_key_values
    return Prefix([(layer.keys, layer.values) for layer in cache.layers], len(prefix))


def own_attention(network):
    """While the block runs, the network attends with `attend`."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    return attending(network, ATTENTION)


@contextmanager
def last_mlp_at(network, places: list[int]):
    """While the block runs, the last layer's feed-forward part works at these places alone and gives zeros elsewhere."""
    layers = getattr(network.base_model, "layers", None) or getattr(network.base_model, "h", None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if mlp is None:
        yield
        return
    forward, own = mlp.forward, "forward" in vars(mlp)

    def at_places(hidden):
        out = torch.zeros_like(hidden)
        out[:, places] = forward(hidden[:, places])
        return out

    mlp.forward = at_places
    try:
        yield
    finally:
        if own:
            mlp.forward = forward
        else:
            del mlp.forward


def lay_out(messages: list[list[int]], tree: Tree, start: int, dtype, device):
    """A batch as tensors: tokens and positions (rows, t), mask (rows, 1, t, t) to add, with t = longest + nodes.

    Messages stand at the left, padded on their right; the tree stands behind the padding, and never sees it.
    """
    lengths = np.array([len(ids) for ids in messages])
    longest, nodes = int(lengths.max()), len(tree.ids)
    ids = np.zeros((len(messages), longest + nodes), dtype=np.int64)
    real = np.arange(longest) < lengths[:, None]
    ids[:, :longest][real] = [token for message in messages for token in message]
    ids[:, longest:] = tree.ids
    positions = np.concatenate(
        [np.broadcast_to(np.arange(longest), real.shape), lengths[:, None] + tree.depths], axis=1
    )
    sees = np.zeros((len(messages), longest + nodes, longest + nodes), dtype=bool)
    sees[:, :longest, :longest] = np.tri(longest, dtype=bool)
    sees[:, longest:, :longest] = real[:, None]
    sees[:, longest:, longest:] = tree.sees
    sees = torch.from_numpy(sees).to(device)
    mask = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, float("-inf"))
    return torch.from_numpy(ids).to(device), torch.from_numpy(positions + start).to(device), mask.unsqueeze(1)


def score_batch(network, messages: list[list[int]], tree: Tree, prefix: Prefix) -> np.ndarray:
    """Log-probabilities (rows, questions, answers) of one batch; call it within `own_attention`."""
    weights = network.get_input_embeddings().weight
    ids, positions, mask = lay_out(messages, tree, prefix.length, weights.dtype, weights.device)
    options = {"use_cache": False, "shared_prefix": prefix, "read_at": tree.places}
    with last_mlp_at(network, tree.places):
        states = network.base_model(ids, attention_mask=mask, position_ids=positions, **options).last_hidden_state
    logits = network.get_output_embeddings()(states[:, tree.places]).float()
    return read_answers(logits.log_softmax(dim=-1), tree)


def read_answers(log_probabilities: torch.Tensor, tree: Tree) -> np.ndarray:
    """Sum each answer's tokens: (rows, readers, vocabulary) to (rows, questions, answers)."""
    scores = [
        [sum(log_probabilities[:, node, token] for node, token in spelled) for spelled in question]
        for question in tree.reads
    ]
    return torch.stack([torch.stack(question, dim=1) for question in scores], dim=1).cpu().double().numpy()


def halving(network, messages, tree, prefix, notes: list[str]) -> np.ndarray:
    """Score a batch; where memory runs out, each half of it by itself.

    Raises
    ------
    ModelError : not even one row fits
    """
    try:
        return score_batch(network, messages, tree, prefix)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    tokens = prefix.length + max(map(len, messages)) + len(tree.ids)
    if len(messages) == 1:
        raise ModelError("scoring", f"one row of {tokens} tokens does not fit in memory", "lower max_text_tokens")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    notes.append(f"{len(messages)} rows of up to {tokens} tokens did not fit in memory: halved; lower tokens_per_batch")
    half = len(messages) // 2
    return np.concatenate([halving(network, part, tree, prefix, notes) for part in (messages[:half], messages[half:])])


def score_in_batches(
    network, prompt: Prompt, messages: list[list[int]], budget: int = 8192, notes: list[str] | None = None
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (row numbers, log-probabilities) batch by batch; see `label_log_probabilities`."""
    tree, notes = plant(prompt.suffixes, prompt.answers), notes if notes is not None else []
    longest = len(prompt.prefix) + max(map(len, messages), default=0) + int(tree.depths.max()) + 1
    refuse_unsupported(network, longest)
    refuse_too_long(network, longest)
    prefix = read_prefix(network, prompt.prefix)
    budget = min(budget, CPU_TOKENS) if device_of(network).type == "cpu" else budget
    lengths = np.array([len(ids) + len(tree.ids) for ids in messages])
    left = budget_batches(lengths, budget)
    with torch.inference_mode(), own_attention(network):
        while left:
            batch, known = left.pop(0), len(notes)
            yield batch, halving(network, [messages[row] for row in batch], tree, prefix, notes)
            if len(notes) > known and left:  # what did not fit once would not fit again
                budget, rest = max(1, budget // 2), np.concatenate(left)
                left = [rest[part].tolist() for part in budget_batches(lengths[rest], budget)]


def label_log_probabilities(
    network, prompt: Prompt, messages: list[list[int]], budget: int = 8192, notes: list[str] | None = None
) -> np.ndarray:
    """log P(answer | prefix, message, suffix) of every message, question and answer, in natural logarithms.

    Parameters
    ----------
    network : a Hugging Face causal language model in evaluation mode
    prompt : prefix, suffixes and answers as token ids
    messages : n lists of token ids; they may be empty
    budget : most tokens in one batch, padding included, the prefix not counted
    notes : gets a line for each batch that memory did not hold, which was halved

    Returns
    -------
    array (n, questions, answers), equal to `plain_log_probabilities` up to rounding, whatever budget and order

    Raises
    ------
    ModelError : an architecture that would not be scored exactly, or no memory for a single row
    PromptError : a sequence is longer than the model's context
    """
    scores = np.zeros((len(messages), len(prompt.suffixes), len(prompt.answers)))
    for batch, values in score_in_batches(network, prompt, messages, budget, notes):
        scores[batch] = values
    return scores


def refuse_too_long(network, tokens: int) -> None:
    """Raise PromptError if a sequence of so many tokens exceeds the model's context."""
    context = getattr(network.config, "max_position_embeddings", None)
    if context and tokens > context:
        raise PromptError("prompt", f"{tokens} tokens, the model holds {context}", "lower shots or max_text_tokens")


@torch.inference_mode()
def plain_log_probabilities(network, prompt: Prompt, message: list[int]) -> np.ndarray:
    """The same numbers for one message the plain way: one whole sequence per question and answer.

    Returns
    -------
    array (questions, answers); the yardstick of tests and of notebook 03
    """
    scores = np.zeros((len(prompt.suffixes), len(prompt.answers)))
    for number, suffix in enumerate(prompt.suffixes):
        context = [*prompt.prefix, *message, *suffix]
        for which, answer in enumerate(prompt.answers):
            logits = network(torch.tensor([[*context, *answer]], device=device_of(network))).logits[0].float()
            steps = logits[len(context) - 1 : -1].log_softmax(dim=-1)  # a place's logits speak of the next place
            scores[number, which] = steps[range(len(answer)), answer].cpu().double().sum().item()
    return scores


def time_both_ways(network, prompt: Prompt, message: list[int], lengths, rows: int = 16) -> list[dict]:
    """Seconds per message for growing prefixes, plain and shared, each with its own answers checked against the other;
    none beyond the first that takes the plain way more than `PATIENCE`.

    Parameters
    ----------
    message : one message's token ids; the shared way is timed on `rows` copies, the plain way on one
    lengths : prefix lengths; the prompt's own prefix is repeated or cut to each of them

    Returns
    -------
    [{prefix_tokens, way, seconds, difference}, ...]
    """
    found = []
    for length in lengths:
        repeated = (prompt.prefix * (length // max(1, len(prompt.prefix)) + 1))[:length]
        longer = replace(prompt, prefix=repeated)
        start = time.perf_counter()
        plain = plain_log_probabilities(network, longer, message)
        middle = time.perf_counter()
        shared = label_log_probabilities(network, longer, [message] * rows)
        end = time.perf_counter()
        difference = float(np.abs(shared - plain).max())
        for way, seconds in (("plain", middle - start), ("shared prefix", (end - middle) / rows)):
            found.append({"prefix_tokens": length, "way": way, "seconds": seconds, "difference": difference})
        if middle - start > PATIENCE:
            break
    return found
