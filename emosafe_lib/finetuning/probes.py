"""Logistic regression on frozen features: the cheap rival that a fine-tuned model has to beat.

What a pre-trained model already knows about a text can be read off its hidden states by a linear model, often best from
a layer in the middle (arXiv 2412.13435). One forward pass yields the features of every candidate layer; the layer, the
pooling and the strength of regularisation are chosen on validation rows, and test rows are scored once.
"""

import warnings
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from emosafe_lib.finetuning.objective import targets
from emosafe_lib.finetuning.plan import Plan, identity_of, make_plan, refuse_unlearnable
from emosafe_lib.models import checkpoints
from emosafe_lib.models.backbone import load_encoder
from emosafe_lib.models.batching import encode, map_batches
from emosafe_lib.models.pooling import pool
from emosafe_lib.models.precision import mixed_precision, trained_dtype, use_threads
from emosafe_lib.study import files
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.parameters import ModelParams, StudyParams

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
POOLINGS = ("mean", "last")


@dataclass(frozen=True)
class Features:
    """Frozen features of one model: `values[(layer, pooling)]` is an array (n, hidden) over all rows in `ids`."""

    ids: list[str]
    values: dict[tuple[int, str], np.ndarray]
    truncated: np.ndarray

    def hold(self, rows: pd.DataFrame) -> bool:
        """Whether all these rows are among those that were read."""
        return set(rows["id"]) <= set(self.ids)

    def of(self, rows: pd.DataFrame, choice: tuple[int, str]) -> np.ndarray:
        """The features of some rows, shape (len(rows), hidden)."""
        place = {identifier: number for number, identifier in enumerate(self.ids)}
        return self.values[choice][[place[identifier] for identifier in rows["id"]]]


@dataclass(frozen=True)
class Probed:
    """A probe's result, in the fields of `finetune.Finetuned`, with what was chosen on validation."""

    task: str
    validation_ids: list[str]
    validation_probabilities: np.ndarray
    test_ids: list[str]
    test_probabilities: np.ndarray
    test_outcomes: list[str]
    choice: dict
    variant: str = ""
    seed: int = 0


def candidate_layers(layers: int) -> list[int]:
    """Up to four layers, from a quarter of the depth to the last one."""
    return sorted({max(1, round(layers * quarter / 4)) for quarter in (1, 2, 3, 4)})


def extract(model: ModelParams, study: StudyParams, rows: pd.DataFrame, folder: Path | None = None) -> Features:
    """Hidden states of every row that the study trains on or scores, pooled over its tokens; no weight is changed.

    On a CPU they are read in the precision in which training reads them, as a head that begins with a probe does. What was
    read of the same rows before is taken from `folder`, where one is given.
    """
    plan = make_plan(model, study, rows, "safety", 0)
    if folder is None:
        return read_features(plan)
    kept = folder / f"{checkpoints.text_digest(*map(str, identity_of(plan).values()))}.npz"
    if not kept.is_file():
        found = read_features(plan)
        parts = {f"{layer} {pooling}": values for (layer, pooling), values in found.values.items()}
        with files.replacing(kept, TrainingError) as partial, open(partial, "wb") as stream:
            np.savez(stream, truncated=found.truncated, **parts)
        return found
    with np.load(kept, allow_pickle=False) as stored:
        names = [name.split() for name in stored.files if name != "truncated"]
        values = {(int(layer), pooling): stored[f"{layer} {pooling}"] for layer, pooling in names}
        return Features(rows_of(plan)["id"].tolist(), values, stored["truncated"])


def rows_of(plan: Plan) -> pd.DataFrame:
    """All rows of a plan, each once."""
    return pd.concat([plan.train, plan.validation, plan.test]).drop_duplicates("id")


def read_features(plan: Plan) -> Features:
    """`extract` for the rows of a plan."""
    model, rows = plan.model, rows_of(plan)
    use_threads(model)
    network, tokenizer = load_encoder(model, trained_dtype(model))
    encoded = encode(tokenizer, rows["text"], plan.settings.max_length)
    choices = list(product(candidate_layers(network.config.num_hidden_layers), POOLINGS))

    @torch.inference_mode()
    def features(inputs) -> np.ndarray:
        inputs = inputs.to(network.device)
        with mixed_precision(model):
            states = network(**inputs, output_hidden_states=True).hidden_states
        pooled = [pool(states[layer].float(), inputs["attention_mask"], pooling) for layer, pooling in choices]
        return torch.stack(pooled, dim=1).cpu().numpy()

    found = map_batches(features, tokenizer, encoded, 4 * model.training.tokens_per_batch)
    values = {choice: found[:, number] for number, choice in enumerate(choices)}
    return Features(rows["id"].tolist(), values, encoded.truncated)


def fit(features: np.ndarray, labels: np.ndarray, known: np.ndarray, strength: float, task: str) -> list:
    """Standardised logistic regression: one model for the levels, one per category; None where there is one class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if task == "safety":
        problems = [(features, labels.argmax(axis=1))]
    else:
        problems = [(features[mask > 0], column[mask > 0]) for column, mask in zip(labels.T, known.T, strict=True)]
    options = {"C": strength, "class_weight": "balanced" if task == "safety" else None, "max_iter": 300}
    with warnings.catch_warnings():
        # Validation loss chooses among the attempts; one that stops at the limit is judged like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            make_pipeline(StandardScaler(), LogisticRegression(**options)).fit(x, y) if len(set(y)) > 1 else None
            for x, y in problems
        ]


def predict(models: list, features: np.ndarray, labels: np.ndarray, known: np.ndarray, task: str) -> np.ndarray:
    """Probabilities (n, 3) or (n, 6); a label without two classes in training gets its training share."""
    if task == "safety":
        found = np.zeros((len(features), labels.shape[1]))
        found[:, models[0][-1].classes_] = models[0].predict_proba(features)
        return found
    shares = (labels * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    columns = [
        np.full(len(features), share) if model is None else model.predict_proba(features)[:, 1]
        for model, share in zip(models, shares, strict=True)
    ]
    return np.stack(columns, axis=1)


def validation_loss(probabilities: np.ndarray, labels: np.ndarray, known: np.ndarray, task: str) -> float:
    """Mean negative log-likelihood of the known labels; rare levels weigh as much as frequent ones."""
    chance = np.clip(probabilities, 1e-6, 1 - 1e-6)
    if task == "safety":
        losses = -(labels * np.log(chance)).sum(axis=1)
        return float(np.mean([losses[labels[:, level] > 0].mean() for level in np.flatnonzero(labels.sum(axis=0))]))
    losses = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))
    return float((losses * known).sum() / known.sum())


def probe(
    features: Features,
    model: ModelParams,
    study: StudyParams,
    rows: pd.DataFrame,
    task: str,
    *,
    budget: int | None = None,
) -> Probed:
    """Choose layer, pooling and strength on validation, then score the test rows.

    Parameters
    ----------
    features : from `extract`, which serves both tasks
    task : "safety" or "categories"
    budget : learn from that many training rows only, the same ones as a fine-tuned model with that budget
    """
    plan = make_plan(model, study, rows, task, 0, budget=budget)
    refuse_unlearnable(plan)
    labels, known = targets(plan.train, task)
    truth = targets(plan.validation, task)

    def attempt(choice: tuple[int, str], strength: float):
        models = fit(features.of(plan.train, choice), labels, known, strength, task)
        guess = predict(models, features.of(plan.validation, choice), labels, known, task)
        return validation_loss(guess, *truth, task), choice, strength, models, guess

    best = min((attempt(choice, 0.1) for choice in features.values), key=lambda found: found[0])
    best = min((attempt(best[1], strength) for strength in STRENGTHS), key=lambda found: found[0])
    loss, (layer, pooling), strength, models, guess = best
    place = {identifier: number for number, identifier in enumerate(features.ids)}
    cut = features.truncated[[place[identifier] for identifier in plan.test["id"]]]
    return Probed(
        task=task,
        validation_ids=plan.validation["id"].tolist(),
        validation_probabilities=guess,
        test_ids=plan.test["id"].tolist(),
        test_probabilities=predict(models, features.of(plan.test, (layer, pooling)), labels, known, task),
        test_outcomes=["truncated" if one else "ok" for one in cut],
        choice={"layer": layer, "pooling": pooling, "strength": strength, "validation_loss": round(loss, 4)},
        variant=plan.variant,
    )
