"""Pre-train the nano ladder: four LLaMA architectures that differ in size and in nothing else.

A classroom has no 70B model, but it can watch scaling happen. All four rungs see the same tokens in the same order:
first public-domain novels and short modern texts, then conversations about tasks that are not the study's (see
`instruct`). One dial, the rung's name, sets the shape; the learning rate falls with the width, the rest is shared.
"""

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emosafe_lib.models import checkpoints
from emosafe_lib.models.backbone import shape_config
from emosafe_lib.models.precision import half_precision
from emosafe_lib.study.errors import SourceError, TrainingError
from emosafe_lib.study.files import replacing
from emosafe_lib.study.parameters import ModelParams, load_model
from emosafe_lib.study.progress import bar

RUNGS = ("nano-1", "nano-2", "nano-3", "nano-4")
VOCABULARY = 4096
CONTEXT = 1024
STEP_TOKENS = 512
# Row lengths, step by step: short rows are cheap, long ones teach far positions.
PLAIN_LENGTHS = (256, 256, 256, 256, 512, 1024)
CHAT_LENGTHS = (512, 512, 512, 512, 512, 512, 512, 1024)
UPDATE_STEPS = 4  # steps whose gradients make one update
# Peak learning rate of the matrices = this / sqrt(hidden size). Loss on held-out conversations after trials of 350,000
# tokens: nano-4 2.16 with Muon at 0.02, 2.43 with AdamW at 0.001, 3.12 at 0.003; nano-1 3.32 at 0.02 and 2.83 at 0.04.
RATE_SCALE = 0.375
OTHERS_SHARE = 0.15  # learning rate of embedding and norms, as a share of the matrices'
WARMUP_STEPS = 100
DECAY_SHARE = 0.5
ANSWER_WEIGHT = 2.0
SPECIAL_TOKENS = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|pad|>".split()
BEGIN, END, _, _, TURN_END, PAD = range(len(SPECIAL_TOKENS))
# Llama 3's turn format.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
HELD_OUT_NOVEL = "84"
LEFT_OUT_NOVELS = ("76",)  # dialect spelling and slurs on every page
DOCUMENT_CHARACTERS = 3500

# --- text and tokenizer -----------------------------------------------------------------------------------------------


def novel(path: Path) -> str:
    """The text of a Project Gutenberg file without its header, licence and hard line breaks.

    Raises
    ------
    SourceError : the markers that separate the licence from the text are not there
    """
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    start = re.search(r"\*\*\* ?START[^\n]*\n|\*END\*THE SMALL PRINT[^\n]*\n", text)
    end = re.search(r"\*\*\* ?END|End of (?:the )?Project Gutenberg", text[start.end() :] if start else "")
    if not start or not end:
        raise SourceError(path.name, "no Project Gutenberg markers", "use the file as it was published")
    body = text[start.end() : start.end() + end.start()]
    paragraphs = (" ".join(piece.split()) for piece in re.split(r"\n\s*\n", body))
    return "\n".join(piece for piece in paragraphs if len(piece) > 40)


def novels(folder: Path) -> tuple[list[str], str]:
    """Training documents of about `DOCUMENT_CHARACTERS` characters, and the held-out novel."""
    texts = {path.stem: novel(path) for path in sorted(folder.glob("*.txt"))}
    held_out = texts.pop(HELD_OUT_NOVEL)
    kept = [text for name, text in texts.items() if name not in LEFT_OUT_NOVELS]
    return [document for text in kept for document in pieces(text)], held_out


def pieces(text: str) -> list[str]:
    """A long text cut at paragraph ends."""
    found, current = [], ""
    for paragraph in text.split("\n"):
        current += paragraph + "\n"
        if len(current) > DOCUMENT_CHARACTERS:
            found.append(current)
            current = ""
    return found


def paragraphs(documents: list[str]) -> list[str]:
    """The paragraphs of documents that have between 12 and 50 words."""
    lines = (line for document in documents for line in document.split("\n"))
    return [line for line in lines if 12 <= len(line.split()) <= 50]


def mixed(novels: list[str], texts: list[str]) -> list[str]:
    """Novels and short texts in one fixed order, about as many characters of each until one runs out."""
    rng = np.random.default_rng(0)
    heaps = [list(rng.permutation(np.array(heap, dtype=object))) for heap in (novels, texts)]
    read, order = [0, 0], []
    while all(heaps):
        heap = int(read[1] < read[0])
        order.append(heaps[heap].pop())
        read[heap] += len(order[-1])
    return order


def train_tokenizer(documents: Iterable[str]):
    """A byte-level BPE tokenizer of `VOCABULARY` tokens with Llama 3's control tokens and chat template.

    The shipped one read novels, rows of training, and 400 times each the words of the prompts' frame and of their options,
    so that these became tokens also where no space stands before them; all but `unsafe`, which begins as other un- words
    do.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": VOCABULARY, "initial_alphabet": sorted(alphabet), "show_progress": False}
    trainer = trainers.BpeTrainer(special_tokens=SPECIAL_TOKENS, **options)
    tokenizer.train_from_iterator(documents, trainer)
    return as_pretrained(tokenizer)


def as_pretrained(tokenizer):
    """A tokenizer that `AutoTokenizer` can load, from one of the tokenizers library."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL_TOKENS[BEGIN],
        eos_token=SPECIAL_TOKENS[TURN_END],
        pad_token=SPECIAL_TOKENS[PAD],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="right",
    )


# --- packing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Training steps in order; each is one long row, or several short ones of `STEP_TOKENS` tokens together.

    Attributes
    ----------
    ids : token ids (tokens,), int16
    answers : which tokens are answers, bool, same shape
    positions : position of each token in its own document, int16, same shape
    lengths : row length of each step
    """

    ids: np.ndarray
    answers: np.ndarray
    positions: np.ndarray
    lengths: tuple[int, ...]

    def digest(self) -> str:
        """A hash of everything, so that a resumed run can prove that its data is the same."""
        parts = (self.ids, self.answers, self.positions, np.array(self.lengths))
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]

    def batches(self, first: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Ids, answer marks and positions of each step from `first` on, each (rows, length)."""
        ends = np.cumsum([step_size(length) for length in self.lengths])
        for length, end in list(zip(self.lengths, ends, strict=True))[first:]:
            cut = slice(end - step_size(length), end)
            parts = (self.ids[cut].astype(np.int64), self.answers[cut], self.positions[cut].astype(np.int64))
            yield tuple(torch.from_numpy(part).view(-1, length) for part in parts)


def step_size(length: int) -> int:
    """Tokens in a step of rows of this length."""
    return max(STEP_TOKENS, length)


def plain_documents(tokenizer, documents: list[str]) -> Iterator[tuple[list[int], list[bool]]]:
    """Documents as ids between a begin and an end token; none of the tokens is an answer."""
    for document in documents:
        ids = [BEGIN, *tokenizer(document, add_special_tokens=False)["input_ids"], END]
        yield ids, [False] * len(ids)


def pack(documents: Iterator[tuple[list[int], list[bool]]], tokens: int, lengths: tuple[int, ...]) -> Steps:
    """Fill rows with documents, one behind the other; each row begins with a new one, and the last is cut off."""
    rows, used, size = [], [], 0
    while size < tokens:
        length = lengths[len(used) % len(lengths)]
        rows += [fill(documents, length) for _ in range(step_size(length) // length)]
        used.append(length)
        size += step_size(length)
    return Steps(*(np.concatenate(parts) for parts in zip(*rows, strict=True)), lengths=tuple(used))


def fill(documents: Iterator[tuple[list[int], list[bool]]], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row: ids, answer marks and positions, each (length,)."""
    ids: list[int] = []
    answers: list[bool] = []
    positions: list[int] = []
    while len(ids) < length:
        document, marks = next(documents)
        ids, answers, positions = ids + document, answers + marks, positions + list(range(len(document)))
    return np.array(ids[:length], np.int16), np.array(answers[:length]), np.array(positions[:length], np.int16)


def joined(*parts: Steps) -> Steps:
    """One phase after the other."""
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "answers", "positions"))
    return Steps(*arrays, lengths=tuple(length for part in parts for length in part.lengths))


# --- network ----------------------------------------------------------------------------------------------------------


def build_rung(rung: str, seed: int = 0):
    """A freshly initialised `LlamaForCausalLM` in the shape of a rung's parameter file."""
    from transformers import LlamaForCausalLM

    config = shape_config(load_model(rung))
    config.update({"bos_token_id": BEGIN, "eos_token_id": TURN_END, "pad_token_id": PAD})
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def peak_rate(model: ModelParams) -> float:
    """The peak learning rate of a rung: it falls with the square root of the width."""
    return RATE_SCALE / math.sqrt(model.shape.hidden)


def non_embedding_parameters(network) -> int:
    """Parameters outside the (tied) token embedding, the size that scaling studies plot."""
    return sum(weight.numel() for name, weight in network.named_parameters() if "embed_tokens" not in name)


def flops_per_token(network) -> float:
    """Training floating-point operations a token: 6 per parameter that it meets (arXiv 2001.08361, section 2.1)."""
    return 6.0 * (non_embedding_parameters(network) + VOCABULARY * network.config.hidden_size)


def own_document(positions: torch.Tensor) -> torch.Tensor:
    """Which tokens may attend to which, (rows, 1, length, length): earlier ones of the same document."""
    document = (positions == 0).cumsum(dim=1)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same[0]).tril())[:, None]


def token_losses(network, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (nats) of each next token within its document, (rows, length - 1); 0 where a document begins."""
    logits = network(
        input_ids=ids, position_ids=positions, attention_mask=own_document(positions), use_cache=False
    ).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none"
    )
    return losses.view(ids.shape[0], -1) * (positions[:, 1:] > 0)


def mean_where(losses: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean over the chosen tokens; 0 where there are none."""
    return (losses * chosen).sum() / chosen.sum().clamp(min=1)


def training_loss(network, ids, answers, positions) -> tuple[torch.Tensor, float]:
    """What is minimised, and the plain mean loss: answers count `ANSWER_WEIGHT` times more, as a group.

    Matrix products run in bfloat16 where the processor has it, over weights that stay in float32.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half_precision()):
        losses = token_losses(network, ids, positions)
    everything = mean_where(losses, positions[:, 1:] > 0)
    return everything + ANSWER_WEIGHT * mean_where(losses, answers[:, 1:]), everything.item()


# --- training ---------------------------------------------------------------------------------------------------------


class Float32Muon(torch.optim.Muon):
    """Muon whose iterations multiply in float32.

    torch's own multiply in bfloat16. A processor that only emulates it takes sixteen times as long for them as for the
    same products in float32: hours instead of minutes for the largest rung.
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(momentum, group["momentum"]), group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * math.sqrt(max(1, weight.shape[0] / weight.shape[1])))


def orthogonal(matrix: torch.Tensor, group: dict) -> torch.Tensor:
    """A matrix with its singular values brought near 1 by Newton-Schulz iterations, in its own precision.

    `group` holds Muon's `ns_coefficients`, `ns_steps` and `eps`.
    """
    a, b, c = group["ns_coefficients"]
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def make_optimizers(network, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (arXiv 2502.16982) for the matrices between embedding and output, AdamW for the rest.

    AdamW alone needs a rate for every width and learned less from so few tokens. Muon's updates have the same spectral
    norm whatever the width.
    """
    named = dict(network.named_parameters())
    matrices = [name for name, weight in named.items() if weight.ndim > 1 and "embed_tokens" not in name]
    others = [weight for name, weight in named.items() if name not in matrices]
    muon = torch.optim.Muon if half_precision() else Float32Muon
    return [
        muon([named[name] for name in matrices], lr=rate, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=OTHERS_SHARE * rate, weight_decay=0.0, betas=(0.9, 0.95), fused=True),
    ]


def update(network, optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """One step of each optimizer at this share of its peak rate."""
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group.setdefault("peak", group["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, plateau, linear decay to zero (arXiv 2404.06395)."""
    decay = max(1, int(steps * DECAY_SHARE))
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / decay)


def train(network, steps: Steps, peak: float, folder: Path, *, save_every: int = 200, stop_after: int | None = None):
    """Train over all steps, going on from the newest whole checkpoint; returns the plain loss of each step.

    `UPDATE_STEPS` steps make an update.

    Parameters
    ----------
    steps : the packed data, read once and in order
    peak : peak learning rate of the matrices
    folder : where checkpoints are kept
    save_every : steps between checkpoints, which fall on updates; the last two are kept
    stop_after : leave after this many steps, as a killed run would (for tests and for teaching)

    Raises
    ------
    TrainingError : the loss is not finite, or the checkpoints belong to other data or another shape
    """
    total, identity = len(steps.lengths), {"data": steps.digest(), "shape": shape_digest(network), "peak": peak}
    optimizers = make_optimizers(network, peak)
    losses = resume(network, optimizers, folder, identity)
    network.train()
    save_every = math.ceil(save_every / UPDATE_STEPS) * UPDATE_STEPS
    batches = enumerate(steps.batches(len(losses)), start=len(losses))
    for step, batch in bar(batches, f"pre-training {folder.name}", total - len(losses)):
        if step == stop_after:
            break
        loss, plain = training_loss(network, *batch)
        if not math.isfinite(plain):
            raise TrainingError(folder.name, f"loss is {plain} at step {step}", "lower RATE_SCALE")
        (loss / UPDATE_STEPS).backward()
        losses.append(round(plain, 4))
        last = step + 1 == total
        if last or (step + 1) % UPDATE_STEPS == 0:
            update(network, optimizers, rate_share(step, total))
        if last or (step + 1) % save_every == 0:
            save_state(network, optimizers, folder, identity, losses)
    return losses


def shape_digest(network) -> str:
    """A hash of the configuration's shape."""
    config = network.config
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    return checkpoints.text_digest(*map(str, shape))


def save_state(network, optimizers: list, folder: Path, identity: dict, losses: list[float]) -> None:
    """Write a sealed checkpoint beside the older ones, then drop all but two."""
    from safetensors.torch import save_file

    tensors = {f"network.{name}": value for name, value in dict(network.named_parameters()).items()}
    for which, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{which}.{number}.{name}": value for name, value in state.items()}
    with replacing(folder / f"checkpoint-{len(losses)}") as partial:
        partial.mkdir()
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial / "state.safetensors")
        checkpoints.seal(partial, identity=identity, losses=losses)
    for old in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[:-2]:
        shutil.rmtree(old)


def resume(network, optimizers: list, folder: Path, identity: dict) -> list[float]:
    """Load the newest whole checkpoint and return its losses; [] where there is none."""
    from safetensors.torch import load_file

    found, _ = checkpoints.newest_usable(folder, identity)
    if found is None:
        return []
    tensors, states = load_file(found / "state.safetensors"), [{} for _ in optimizers]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, which, number, key = name.split(".")
            states[int(which)].setdefault(int(number), {})[key] = value
    weights = {name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")}
    network.load_state_dict(weights, strict=False)  # the tied head is stored once
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return list(checkpoints.read_seal(found)["losses"])


# --- measuring and publishing -----------------------------------------------------------------------------------------


@torch.no_grad()
def held_out_losses(network, steps: Steps) -> dict[str, float]:
    """Mean loss (nats) of all tokens, "all", and of answers alone, "answers"."""
    network.eval()
    losses, answers, inside = [], [], []
    for ids, marks, positions in steps.batches():
        losses.append(token_losses(network, ids, positions).flatten())
        answers.append(marks[:, 1:].flatten())
        inside.append(positions[:, 1:].flatten() > 0)
    losses, answers, inside = map(torch.cat, (losses, answers, inside))
    found = {"all": mean_where(losses, inside), "answers": mean_where(losses, answers)}
    return {name: round(value.item(), 4) for name, value in found.items()}


def ship_rung(network, tokenizer, folder: Path) -> None:
    """Save a rung for `from_pretrained`: fp16 safetensors, configuration and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    network.half().save_pretrained(folder)
    network.float()
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    compact = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(compact, ensure_ascii=False, separators=(",", ":")), "utf-8")


def thin(losses: list[float], every: int = 10) -> list[float]:
    """Means of `every` successive losses, enough for a curve."""
    return [round(float(np.mean(losses[start : start + every])), 4) for start in range(0, len(losses), every)]


def gemm_peak(kind: torch.dtype | None = None) -> float:
    """Floating-point operations per processor second of a plain matrix product here, the speed limit of training.

    In the precision that `train` uses on this machine, where no `kind` is given. Processor time, not the clock's: other
    work on the machine changes neither this nor a share of it.
    """
    kind = kind or (torch.bfloat16 if half_precision() else torch.float32)
    one, two = torch.rand(2, 1024, 1024).to(kind)
    done, started = 0, time.process_time()
    while time.process_time() - started < 1.0:
        one @ two
        done += 2 * 1024**3
    return done / (time.process_time() - started)
