"""A head that begins where a probe ends: the logistic regression on what the head reads, put into its weights.

A head drawn by chance, together with adapters that begin as nothing, has to find within one pass what logistic regression
finds on the frozen states at once; at the sizes of this study it stays behind. Begun with the probe's weights, training
can only add to them.
"""

import numpy as np
import pandas as pd
import torch

from emosafe_lib.finetuning.objective import columns_of, targets
from emosafe_lib.finetuning.plan import Plan, weights_of
from emosafe_lib.finetuning.probes import STRENGTHS, Features, fit, predict, validation_loss
from emosafe_lib.models.batching import encode, map_batches
from emosafe_lib.models.classifier import head_of
from emosafe_lib.models.pooling import pool
from emosafe_lib.models.precision import mixed_precision

RARE = 1e-3  # the chance that a label without two classes in training is given at least, and at most one less it


def begin_head(network, tokenizer, plan: Plan, features: Features | None = None) -> None:
    """Set the head of a mean-pooled classifier to the probe of each of its tasks, on `features` where they are at hand."""
    states = states_of(network, tokenizer, plan, features)
    head, weights = head_of(network), weights_of(plan)
    for task, columns in columns_of(plan.task).items():
        weight, bias = best_probe(*states, plan, task)
        bias += np.log(weights[columns]) if task == "categories" else 0.0  # which training's loss adds, too
        for parameter, values in ((head.weight, weight), (head.bias, bias)):
            parameter.data[columns] = torch.from_numpy(values).to(parameter)


def best_probe(train: np.ndarray, validation: np.ndarray, plan: Plan, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of the probe on states (n, hidden) whose strength has the least validation loss."""
    labels, known = targets(plan.train, task)
    truth = targets(plan.validation, task)

    def attempt(strength: float) -> tuple[float, list]:
        models = fit(train, labels, known, strength, task)
        return validation_loss(predict(models, validation, labels, known, task), *truth, task), models

    _, models = min(map(attempt, STRENGTHS), key=lambda found: found[0])
    return as_linear(models, train.shape[1], labels, known, task)


def states_of(network, tokenizer, plan: Plan, features: Features | None) -> list[np.ndarray]:
    """What the head reads of training and validation rows: out of `features` where they hold it, else read anew."""
    parts, choice = (plan.train, plan.validation), (network.config.num_hidden_layers, "mean")
    if features is not None and all(features.hold(rows) for rows in parts):
        return [features.of(rows, choice) for rows in parts]
    return [read_states(network, tokenizer, plan, rows) for rows in parts]


@torch.inference_mode()
def read_states(network, tokenizer, plan: Plan, rows: pd.DataFrame) -> np.ndarray:
    """What the head reads of rows, float32 (n, hidden): the mean over a text's tokens of the backbone's last states."""

    def states(inputs) -> np.ndarray:
        inputs = inputs.to(network.device)
        with mixed_precision(plan.model):
            found = network.base_model(**inputs).last_hidden_state
        return pool(found.float(), inputs["attention_mask"]).cpu().numpy()

    encoded = encode(tokenizer, rows["text"], plan.settings.max_length)
    return map_batches(states, tokenizer, encoded, 4 * plan.model.training.tokens_per_batch)


def as_linear(
    models: list, width: int, labels: np.ndarray, known: np.ndarray, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Standardised logistic regressions as one linear layer's weight (labels, width) and bias (labels,).

    A label without two classes in training is answered by its share there.
    """
    chance = np.clip((labels * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1), RARE, 1 - RARE)
    weight, bias = np.zeros((labels.shape[1], width)), np.log(chance / (1 - chance))
    for number, model in enumerate(models):
        if model is None:
            continue
        scaler, found = model[0], model[-1]
        rows = found.coef_ / scaler.scale_
        places = [number] if task == "categories" else found.classes_ if len(rows) > 1 else found.classes_[1:]
        if task == "safety":
            bias[found.classes_] = 0.0
        weight[places], bias[places] = rows, found.intercept_ - rows @ scaler.mean_
    return weight, bias
