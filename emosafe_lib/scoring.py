"""From rows to label probabilities, by prompting, for every kind of model: a causal language model, an encoder, a chat
server.

All three answer the same question, "how likely is each verbalizer", as an array (rows, questions, answers) of
log-probabilities; safety is one question with three answers, the categories are six questions with two. What follows
is common: shards that survive a killed run, calibration on validation rows, predictions without text.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from emosafe_lib import batching, causal, checkpoints, metrics, models, predictions, prompts
from emosafe_lib.errors import PredictionError, PromptError
from emosafe_lib.params import ModelParams, PromptingParams
from emosafe_lib.progress import bar
from emosafe_lib.rows import category_matrix, known_matrix
from emosafe_lib.taxonomy import SAFETY_LEVELS, TASKS, USABLE_OUTCOMES

SHARD_ROWS = 256
SETTINGS = ("zero-shot", "few-shot")
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


@dataclass(frozen=True)
class Asked:
    """One way of asking: the question in the form that a backend needs, and how it came about."""

    question: object
    task: str
    setting: str
    variant: str
    seed: int = 0
    shots: int = 0


@dataclass(frozen=True)
class Scores:
    """Answers of a model to n rows.

    Attributes
    ----------
    log_probabilities : array (n, questions, answers)
    outcomes : n outcomes; those outside `USABLE_OUTCOMES` carry equal probabilities
    facts : rows, seconds of scoring, notes
    """

    asked: Asked
    ids: list[str]
    log_probabilities: np.ndarray
    outcomes: list[str]
    facts: dict = field(default_factory=dict)


class CausalBackend:
    """A local causal language model; scores are exact, nothing is generated."""

    def __init__(self, model: ModelParams):
        self.model, self.notes = model, []
        self.network, self.tokenizer = models.load_causal(model)

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[object, int]:
        """The zero-shot prompt and its number of exemplars per class, 0."""
        return prompts.build(self.tokenizer, task, variant, (), settings.max_text_tokens), 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """The few-shot prompt that fits the model's context, and its number of exemplars per class."""
        return prompts.fit(
            self.tokenizer,
            task,
            variant,
            train,
            settings.shots_per_class,
            seed,
            self.model.context_tokens,
            settings.max_text_tokens,
        )

    def score(self, question: prompts.Prompt, texts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Log-probabilities (n, questions, answers) and outcomes."""
        messages, outcomes = prompts.encode_messages(self.tokenizer, texts, question.max_text_tokens)
        budget = self.model.tokens_per_batch
        batches = causal.score_in_batches(self.network, question, messages, budget, self.notes)
        scores = np.zeros((len(texts), len(question.suffixes), len(question.answers)))
        for batch, values in batches:
            scores[batch] = values
        return scores, outcomes

    def shown(self, question: prompts.Prompt) -> str:
        """The prompt as the model reads it, control tokens included, with a mark where the message stands."""
        return self.tokenizer.decode(question.prefix) + "{message}" + self.tokenizer.decode(question.suffixes[0])

    def steps(self, question: prompts.Prompt, text: str, number: int = 0) -> pd.DataFrame:
        """One message, one question, token by token: each answer token's place in the sequence and log-probability.

        Column `rank` says how many tokens the model finds at least as likely there, the token itself included.
        """
        (message,), _ = prompts.encode_messages(self.tokenizer, [text], question.max_text_tokens)
        context, found = [*question.prefix, *message, *question.suffixes[number]], []
        for word, answer in zip(prompts.VERBALIZERS[question.task], question.answers, strict=True):
            likely = causal.answer_steps(self.network, context, answer)
            for place, token in enumerate(answer):
                value = likely[place, token]
                step = {"answer": word, "place": len(context) + place, "token": self.tokenizer.decode([token])}
                rank = int((likely[place] >= value).sum())
                found.append(step | {"log_probability": value.item(), "rank": rank})
        return pd.DataFrame(found)

    def explain(self, question: prompts.Prompt, text: str) -> pd.DataFrame:
        """One message scored by hand: a sequence per question and answer, and what the shared prefix makes of it."""
        (message,), _ = prompts.encode_messages(self.tokenizer, [text], question.max_text_tokens)
        plain = causal.plain_log_probabilities(self.network, question, message)
        shared = causal.label_log_probabilities(self.network, question, [message])[0]
        words = prompts.VERBALIZERS[question.task]
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

    def __init__(self, model: ModelParams):
        self.model, self.notes = model, []
        self.network, self.tokenizer = models.load_encoder(model)
        self.seen: dict[tuple[str, int], list] = {}

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[object, int]:
        """Anchors made of the labels' descriptions."""
        return Anchors(task, variant, described(task, variant), max_text_tokens=settings.max_text_tokens), 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """Anchors made of the descriptions and of training rows."""
        turns = prompts.draw_exemplars(train, task, settings.shots_per_class, seed)
        texts = [[list(answer) for answer in question] for question in described(task, variant)]
        for turn in turns:
            texts[turn.number][prompts.VERBALIZERS[task].index(turn.answer)].append(turn.text)
        anchors = Anchors(
            task,
            variant,
            tuple(tuple(map(tuple, question)) for question in texts),
            tuple(dict.fromkeys(turn.row_id for turn in turns)),
            tuple(dict.fromkeys(turn.group for turn in turns)),
            settings.max_text_tokens,
        )
        return anchors, settings.shots_per_class

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
        vectors, truncated = embed(self.network, self.tokenizer, new, limit, self.model.tokens_per_batch)
        self.seen |= {(text, limit): found for text, *found in zip(new, vectors, truncated, strict=True)}
        found = [self.seen[text, limit] for text in texts]
        return np.array([vector for vector, _ in found]), np.array([bool(cut) for _, cut in found])

    def shown(self, question: Anchors) -> str:
        """The texts that a message is compared with."""
        return "\n".join(text for answers in question.texts for group in answers for text in group)

    def explain(self, question: Anchors, text: str) -> pd.DataFrame:
        """One message: its scaled cosine to each answer's anchor as a log-probability."""
        scores, _ = self.score(question, [text])
        words = prompts.VERBALIZERS[question.task]
        return pd.DataFrame(
            {"question": number, "answer": word, "log_probability": scores[0, number, which]}
            for number in range(scores.shape[1])
            for which, word in enumerate(words)
        )


def described(task: str, variant: str) -> tuple:
    """Descriptions of each answer in one wording: per question, per answer, a tuple of one text."""
    if variant not in DESCRIPTIONS:
        raise PromptError(f"prompt {task}/{variant}", "no such wording", f"use one of {', '.join(DESCRIPTIONS)}")
    pattern = DESCRIPTIONS[variant]
    if task == "safety":
        levels = prompts.SAFETY_DEFINITIONS
        return (tuple((pattern.format(title=level, definition=levels[level]),) for level in SAFETY_LEVELS),)
    return tuple(
        ((pattern.format(title=c.title, definition=c.definition),), (NEUTRAL.format(title=c.title.lower()),))
        for c in prompts.CATEGORY_TABLE
    )


def embed(network, tokenizer, texts: list[str], limit: int, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length mean-pooled embeddings (n, width) of texts cut to `limit` tokens, and which of them were cut."""
    import torch

    if not texts:
        return np.zeros((0, network.config.hidden_size)), np.zeros(0, dtype=bool)
    encoded = batching.encode(tokenizer, texts, limit)
    embedded = np.zeros((len(texts), network.config.hidden_size))
    for batch in batching.budget_batches(encoded.lengths, budget):
        padded = tokenizer.pad({"input_ids": [encoded.ids[row] for row in batch]}, return_tensors="pt")
        padded = {name: tensor.to(network.device) for name, tensor in padded.items()}
        with torch.inference_mode():
            hidden = network(**padded).last_hidden_state.float()
        mask = padded["attention_mask"].unsqueeze(-1)
        pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        embedded[batch] = pooled.double().cpu().numpy()
    return embedded, encoded.truncated


def open_backend(model: ModelParams):
    """The backend that a model's parameter file asks for."""
    if model.backend == "openai":
        from emosafe_lib.chat import ChatBackend

        return ChatBackend(model)
    return EncoderBackend(model) if model.family == "encoder" else CausalBackend(model)


def ways_of_asking(settings: PromptingParams) -> list[dict]:
    """Every (task, setting, variant, seed) that a study asks for."""
    zero = [{"setting": "zero-shot", "variant": variant, "seed": 0} for variant in settings.variants]
    few = [
        {"setting": "few-shot", "variant": variant, "seed": seed}
        for variant in settings.few_shot_variants
        for seed in settings.exemplar_seeds
    ]
    return [{"task": task, **way} for task in TASKS for way in zero + few]


def pose(backend, settings: PromptingParams, rows: pd.DataFrame, task, setting, variant, seed=0) -> Asked:
    """One way of asking; exemplars come from the train split of `rows`.

    Raises
    ------
    PromptError : an unknown setting or wording, or exemplars that cannot be had or do not fit
    """
    if setting not in SETTINGS:
        raise PromptError(f"setting {setting}", "is not a way of prompting", f"use one of {', '.join(SETTINGS)}")
    if setting == "zero-shot":
        question, shots = backend.ask(task, variant, settings)
    else:
        train = rows[rows["split"] == "train"]
        question, shots = backend.show(task, variant, settings, train, seed)
    return Asked(question, task, setting, variant, seed, shots)


def score_rows(backend, asked: Asked, rows: pd.DataFrame, folder: Path | None = None) -> Scores:
    """Ask a model about rows, shard by shard, shortest messages first.

    Parameters
    ----------
    folder : where finished shards are kept; a killed run goes on from them. They lie in a folder named by a digest of
        model, question and rows, so that whatever changes starts anew and leaves the old ones alone.

    Raises
    ------
    PromptError : an exemplar, or a row of its group, is among the rows
    """
    prompts.refuse_leak(asked.question, rows)
    order = rows["text"].str.len().to_numpy().argsort(kind="stable")
    shards = [order[start : start + SHARD_ROWS] for start in range(0, len(rows), SHARD_ROWS)]
    home = folder / digest_of(backend, asked, rows) if folder else None
    label = f"{asked.task} {asked.setting} {asked.variant}"
    found = [one_shard(backend, asked, rows.iloc[s], home, n) for n, s in enumerate(bar(shards, label))]
    back = np.concatenate(shards).argsort() if shards else []
    outcomes = [outcome for shard in found for outcome in shard["outcomes"]]
    return Scores(
        asked,
        rows["id"].to_list(),
        np.concatenate([shard["scores"] for shard in found])[back],
        [outcomes[place] for place in back],
        {"rows": len(rows), "seconds": float(sum(s["seconds"] for s in found)), "notes": list(backend.notes)},
    )


def one_shard(backend, asked: Asked, rows: pd.DataFrame, home: Path | None, number: int) -> dict:
    """Read a finished shard, or score it and keep it by rename.

    A shard with a row that a server failed to answer is not kept: whoever runs the stage again asks for it again.
    """
    path = home / f"shard-{number:05d}.npz" if home else None
    if path and (kept := read_shard(path, len(rows))):
        return kept
    start = time.perf_counter()
    scores, outcomes = backend.score(asked.question, rows["text"].to_list())
    shard = {"scores": scores, "outcomes": np.array(outcomes), "seconds": time.perf_counter() - start}
    if path and "api_error" not in outcomes:
        home.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **shard)
        os.replace(partial, path)
    return shard


def read_shard(path: Path, rows: int) -> dict | None:
    """A kept shard, or None where there is none or it is damaged."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as kept:
            shard = {name: kept[name] for name in ("scores", "outcomes", "seconds")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return shard if len(shard["scores"]) == len(shard["outcomes"]) == rows else None


def digest_of(backend, asked: Asked, rows: pd.DataFrame) -> str:
    """A name for (model, question, rows, code) that changes when any of them does, the machine's own precision included.

    Comments and docstrings are no code: whoever words them better keeps the shards of a model that took days.
    """
    model = backend.model.model_dump(mode="json", exclude={"resources", "training", "title", "tokens_per_batch"})
    facts = {"weights": weights_digest(backend.model), "code": checkpoints.code_digest(*scoring_modules(backend.model))}
    facts["hardware"] = models.precision(backend.model)
    texts = hashlib.sha256("\x00".join([*rows["id"], *rows["text"]]).encode()).hexdigest()
    parts = json.dumps([model, facts, asdict(asked.question), texts, SHARD_ROWS], sort_keys=True)
    return f"{asked.task}-{asked.setting}-{asked.variant}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def scoring_modules(model: ModelParams) -> tuple:
    """The modules whose code decides a model's scores."""
    import sys

    here = (sys.modules[__name__], prompts)
    if model.backend == "openai":
        from emosafe_lib import chat
        from emosafe_lib.augment import privacy

        return (*here, chat, privacy)
    return (*here, models, batching) if model.family == "encoder" else (*here, models, batching, causal)


def weights_digest(model: ModelParams) -> str:
    """SHA-256 over a local model's files; a hub model is known by its commit, a server by its address."""
    if model.backend == "openai":
        return f"{model.base_url or ''} {model.revision or 'main'}"
    if model.weights not in ("assets", "package"):
        return checkpoints.base_digest(model)
    files = sorted(path for path in Path(models.weights_location(model)).iterdir() if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{checkpoints.file_sha256(path)}".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Calibration:
    """What turns log-probabilities into probabilities and labels, fitted on validation rows only.

    Attributes
    ----------
    bias : array (questions, answers), subtracted; the answer to content-free inputs, or zeros
    temperature : the sharpness is divided by it
    thresholds : array (6,) for categories, None for safety
    contextual : whether the content-free answer made validation labels likelier and is therefore used
    """

    bias: np.ndarray
    temperature: float
    thresholds: np.ndarray | None
    contextual: bool


def content_free_bias(backend, asked: Asked) -> np.ndarray:
    """Mean normalised log-probabilities (questions, answers) of inputs without content (Zhao et al. 2021); even ones
    where none of them was answered.
    """
    scores, outcomes = backend.score(asked.question, list(prompts.CONTENT_FREE))
    answered = np.isin(outcomes, USABLE_OUTCOMES)
    scores = scores[answered] if answered.any() else np.zeros_like(scores)
    return np.log(np.exp(log_softmax(scores, axis=-1)).mean(axis=0))


def probabilities_of(log_probabilities, task: str, bias=0.0, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities (n, questions, answers) as probabilities: (n, 3) for safety, P(yes) (n, 6) for categories."""
    scores = np.asarray(log_probabilities) - bias
    flat = metrics.apply_temperature(scores.reshape(-1, scores.shape[-1]), temperature).reshape(scores.shape)
    return flat[:, 0] if task == "safety" else flat[:, :, 0]


def answers_of(rows: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The right answer of each question (n, questions) as a number, and which of them are known."""
    if task == "safety":
        right = rows["safety"].map(SAFETY_LEVELS.index).to_numpy()[:, None]
        return right, np.ones_like(right, dtype=bool)
    return 1 - category_matrix(rows).astype(int), known_matrix(rows)


def calibrate(scores: Scores, rows: pd.DataFrame, bias: np.ndarray) -> Calibration:
    """Fit bias, temperature and thresholds on validation rows.

    Raises
    ------
    PredictionError : the rows are not the scored ones, or not all from validation
    """
    if scores.ids != rows["id"].to_list() or (rows["split"] != "validation").any():
        raise PredictionError("calibrate", "needs the scores of validation rows", "pass rows.take(rows, 'validation')")
    task, usable = scores.asked.task, np.isin(scores.outcomes, USABLE_OUTCOMES)
    right, known = answers_of(rows, task)
    known = known & usable[:, None]
    fits = []
    for contextual in (False, True):
        shift = bias if contextual else np.zeros_like(bias)
        logits = (scores.log_probabilities - shift)[known]
        temperature = metrics.fit_temperature(logits, right[known])
        likely = metrics.apply_temperature(logits, temperature)[np.arange(known.sum()), right[known]]
        fits.append((-np.log(np.maximum(likely, 1e-12)).sum(), contextual, shift, temperature))
    _, contextual, shift, temperature = min(fits, key=lambda fit: fit[:2])
    thresholds = None
    if task == "categories":
        chances = probabilities_of(scores.log_probabilities, task, shift, temperature)
        thresholds = metrics.fit_thresholds(chances, category_matrix(rows), known)
    return Calibration(shift, temperature, thresholds, contextual)


def calibrated(scores: Scores, calibration: Calibration) -> np.ndarray:
    """Calibrated probabilities, (n, 3) or (n, 6)."""
    task = scores.asked.task
    return probabilities_of(scores.log_probabilities, task, calibration.bias, calibration.temperature)


def predictions_of(scores: Scores, calibration: Calibration) -> pd.DataFrame:
    """Calibrated test rows in the common schema."""
    asked = scores.asked
    return predictions.make(
        scores.ids,
        asked.task,
        asked.setting,
        calibrated(scores, calibration),
        variant=asked.variant,
        seed=asked.seed,
        thresholds=calibration.thresholds,
        outcomes=scores.outcomes,
    )


def chances(backend, asked: Asked, calibration: Calibration, texts: list[str]) -> np.ndarray:
    """Calibrated probabilities of texts that belong to no row, such as attacks; NaN for those without an answer."""
    values, outcomes = backend.score(asked.question, texts)
    found = probabilities_of(values, asked.task, calibration.bias, calibration.temperature)
    found[~np.isin(outcomes, USABLE_OUTCOMES)] = np.nan
    return found


def reliability(probabilities: np.ndarray, rows: pd.DataFrame, task: str, outcomes=None) -> pd.DataFrame:
    """Points of a reliability diagram: per bin of confidence its mean, how often it was right, and its count.

    Rows without a usable outcome are left out and the bins are the calibration error's, so that the diagram and the
    number beside it (`headline`) tell the same.
    """
    usable = np.ones(len(rows), dtype=bool) if outcomes is None else np.isin(outcomes, USABLE_OUTCOMES)
    probabilities, rows = probabilities[usable], rows[usable]
    if task == "safety":
        labels, known = answers_of(rows, task)[0][:, 0], None
    else:
        labels, known = category_matrix(rows), known_matrix(rows)
    confidence, correct = metrics.confidence_and_outcome(probabilities, labels, known)
    counts, sums, hits = metrics.calibration_bins(confidence, correct)
    full = counts > 0
    return pd.DataFrame(
        {
            "confidence": sums[full] / counts[full],
            "accuracy": hits[full] / counts[full],
            "rows": counts[full].astype(int),
        }
    )


def headline(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The main scores of each (task, setting, variant, seed) in a prediction table, unknown cells left out.

    Columns macro_f1, macro_auprc (categories only), calibration_error and coverage; notebook 05 adds the intervals.
    """
    found = []
    for key, part in table.groupby(["task", "setting", "variant", "seed"], sort=False):
        truth = metrics.truth_of(rows.set_index("id", drop=False).loc[part["id"]])
        answers = metrics.align(part, truth)
        values = metrics.scores(truth, answers)
        row = dict(zip(("task", "setting", "variant", "seed"), key, strict=True))
        row |= {name: values.get((name, "")) for name in ("macro_f1", "macro_auprc", "calibration_error")}
        found.append(row | {"coverage": answers.coverage})
    return pd.DataFrame(found)
