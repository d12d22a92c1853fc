"""Two kinds of local model that answer one question: a causal language model, and an encoder that compares.

Both give an array (rows, questions, answers) of log-probabilities, so that everything after them is common.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from emosafe_lib.models import backbone, batching, pooling, precision
from emosafe_lib.prompting import shared_prefix, wordings
from emosafe_lib.study import taxonomy
from emosafe_lib.study.errors import PromptError
from emosafe_lib.study.parameters import ModelParams, PromptingParams
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

# Sentence encoders put cosines close together; this scale makes them comparable to logits before any calibration.
COSINE_SCALE = 20.0
NEUTRAL = "an ordinary message that has nothing to do with {title}"
DESCRIPTIONS = {
    "plain": "{definition}",
    "guard": "{title}: {definition}",
    "careful": "a message that {definition}",
    "form": "{title}: a message that {definition}",
}


@dataclass(frozen=True)
class Anchors:
    """What an encoder compares a message with: texts per question and answer, whose mean embedding is the anchor."""

    task: str
    variant: str
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    exemplar_ids: tuple[str, ...] = ()
    exemplar_groups: tuple[str, ...] = ()
    max_text_tokens: int = 256


class CausalBackend:
    """A local causal language model; scores are exact, nothing is generated."""

    kind = ""  # of the answers; a server alone has several

    def __init__(self, model: ModelParams):
        self.model, self.notes = model, []
        self.network, self.tokenizer = backbone.load_causal(model)

    @cached_property
    def exact(self) -> "CausalBackend | None":
        """The same model in float32 where this one is rounded to bfloat16 on a CPU; else None."""
        exact = self.model.model_copy(update={"dtype": "float32"})
        return CausalBackend(exact) if precision.rounds(self.model) else None

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[object, int]:
        """The zero-shot prompt and its number of exemplars per class, 0."""
        return wordings.build_prompt(self.tokenizer, task, variant, (), settings.max_text_tokens), 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """The few-shot prompt that fits the model's context, and its number of exemplars per class."""
        shots, context, limit = settings.shots_per_class, self.model.context_tokens, settings.max_text_tokens
        return wordings.fit(self.tokenizer, task, variant, train, shots, seed, context, limit)

    def score(self, question: wordings.Prompt, texts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Log-probabilities (n, questions, answers) and outcomes."""
        messages, outcomes = wordings.encode_messages(self.tokenizer, texts, question.max_text_tokens)
        budget, notes = self.model.tokens_per_batch, self.notes
        return shared_prefix.label_log_probabilities(self.network, question, messages, budget, notes), outcomes

    def shown(self, question: wordings.Prompt) -> str:
        """The prompt as the model reads it, control tokens included, with a mark where the message stands."""
        return self.tokenizer.decode(question.prefix) + "{message}" + self.tokenizer.decode(question.suffixes[0])

    def explain(self, question: wordings.Prompt, text: str) -> pd.DataFrame:
        """One message scored by hand: a sequence per question and answer, and what the shared prefix makes of it."""
        (message,), _ = wordings.encode_messages(self.tokenizer, [text], question.max_text_tokens)
        plain = shared_prefix.plain_log_probabilities(self.network, question, message)
        shared = shared_prefix.label_log_probabilities(self.network, question, [message])[0]
        words = wordings.VERBALIZERS[question.task]
        return pd.DataFrame(
            {
                "question": number,
                "answer": word,
                "answer_tokens": len(question.answers[which]),
                "sequence_tokens": sum(map(len, (question.prefix, message, suffix, question.answers[which]))),
                "plain": plain[number, which],
                "shared": shared[number, which],
            }
            for number, suffix in enumerate(question.suffixes)
            for which, word in enumerate(words)
        )


class EncoderBackend:
    """A sentence encoder: the cosine between a message and the anchors of each answer."""

    kind = ""

    def __init__(self, model: ModelParams):
        self.model, self.notes = model, []
        self.network, self.tokenizer = backbone.load_encoder(model)
        self.seen: dict[tuple[str, int], list] = {}

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[object, int]:
        """Anchors made of the labels' descriptions."""
        return Anchors(task, variant, described(task, variant), max_text_tokens=settings.max_text_tokens), 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """Anchors made of the descriptions and of training rows."""
        shots = min(settings.shots_per_class, wordings.most_shots(train, task))
        turns = wordings.draw_exemplars(train, task, shots, seed)
        texts = [[list(answer) for answer in question] for question in described(task, variant)]
        for turn in turns:
            texts[turn.number][wordings.VERBALIZERS[task].index(turn.answer)].append(turn.text)
        frozen = tuple(tuple(map(tuple, question)) for question in texts)
        return Anchors(task, variant, frozen, *wordings.shown_in(turns), settings.max_text_tokens), shots

    def score(self, question: Anchors, texts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Scaled cosines as log-probabilities (n, questions, answers), and outcomes."""
        limit = min(question.max_text_tokens, self.model.context_tokens)
        embedded, truncated = self.embed(texts, limit)
        flat = [text for answers in question.texts for group in answers for text in group]
        shown, _ = self.embed(flat, limit)
        sizes = [len(group) for answers in question.texts for group in answers]
        means = np.array([part.mean(axis=0) for part in np.split(shown, np.cumsum(sizes)[:-1])])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        cosines = (embedded @ means.T).reshape(len(texts), len(question.texts), -1)
        return log_softmax(COSINE_SCALE * cosines, axis=-1), ["truncated" if cut else "ok" for cut in truncated]

    def embed(self, texts: list[str], limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (n, width) and which texts were cut; a text is embedded once, however often it is asked about."""
        new = [text for text in dict.fromkeys(texts) if (text, limit) not in self.seen]
        encoded = self.encode(new, limit)
        vectors = pooling.embed(self.network, self.tokenizer, encoded, self.model.tokens_per_batch)
        self.seen |= {(text, limit): found for text, *found in zip(new, vectors, encoded.truncated, strict=True)}
        found = [self.seen[text, limit] for text in texts]
        return np.array([vector for vector, _ in found]), np.array([bool(cut) for _, cut in found])

    def encode(self, texts: list[str], limit: int) -> batching.Encoded:
        """Token ids of texts, cut where a causal model's messages are: in the middle, within the special tokens."""
        whole = batching.encode(self.tokenizer, texts, None).ids
        cut = [wordings.cut(ids, limit, self.tokenizer) for ids in whole]
        return batching.Encoded(cut, np.array([len(ids) > limit for ids in whole], dtype=bool))

    def shown(self, question: Anchors) -> str:
        """The texts that a message is compared with."""
        return "\n".join(text for answers in question.texts for group in answers for text in group)


def described(task: str, variant: str) -> tuple:
    """Descriptions of each answer in one wording: per question, per answer, a tuple of one text."""
    if variant not in DESCRIPTIONS:
        raise PromptError(f"prompt {task}/{variant}", "no such wording", f"use one of {', '.join(DESCRIPTIONS)}")
    pattern = DESCRIPTIONS[variant]
    if task == "safety":
        levels = taxonomy.SAFETY_DEFINITIONS
        return (tuple((pattern.format(title=level, definition=levels[level]),) for level in SAFETY_LEVELS),)
    return tuple(
        ((pattern.format(title=c.title, definition=c.definition),), (NEUTRAL.format(title=c.title.lower()),))
        for c in taxonomy.CATEGORY_TABLE
    )


def open_backend(model: ModelParams):
    """The backend that a model's parameter file asks for."""
    if model.backend == "openai":
        from emosafe_lib.prompting.served import ChatBackend

        return ChatBackend(model)
    return EncoderBackend(model) if model.family == "encoder" else CausalBackend(model)
