"""What training minimises: targets, their weights, and a loss that leaves out what a row's source never asked about."""

import numpy as np
import pandas as pd
import torch

from emosafe_lib.study.rows import category_matrix, known_matrix
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

MAX_POSITIVE_WEIGHT = 10.0


def targets(rows: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their mask, both of shape (n, 3) for safety (one-hot) or (n, 6) for categories; mask 0: unknown."""
    if task == "categories":
        return category_matrix(rows).astype(float), known_matrix(rows).astype(float)
    one_hot = (rows["safety"].to_numpy()[:, None] == np.array(SAFETY_LEVELS)[None, :]).astype(float)
    return one_hot, np.repeat(one_hot.sum(axis=1, keepdims=True), len(SAFETY_LEVELS), axis=1)


def label_weights(labels: np.ndarray, known: np.ndarray, task: str, balanced: bool) -> np.ndarray:
    """Weights that even out rare labels, shape (3,) or (6,): inverse class frequency, or the square root of negatives
    per positive, since the full ratio would flood rare categories with false alarms.
    """
    if not balanced:
        return np.ones(labels.shape[1])
    positives = (labels * known).sum(axis=0)
    if task == "safety":
        return len(labels) / (labels.shape[1] * np.maximum(positives, 1))
    negatives = ((1 - labels) * known).sum(axis=0)
    return np.clip(np.sqrt(negatives / np.maximum(positives, 1)), 1.0, MAX_POSITIVE_WEIGHT)


def loss_per_row(logits, labels, known, weights, task: str):
    """The loss of each row, shape (n,): weighted cross-entropy, or binary cross-entropy over known categories."""
    if task == "safety":
        losses = -(labels * weights * logits.log_softmax(-1)).sum(-1)
        return losses * known[:, 0]
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
    return (losses * known).sum(-1)
