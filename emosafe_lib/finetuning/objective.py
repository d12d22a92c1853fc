"""What training minimises: targets, their weights, and a loss that leaves out what a row's source never asked about."""

import numpy as np
import pandas as pd
import torch

from emosafe_lib.study.rows import category_matrix, known_matrix
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

MAX_POSITIVE_WEIGHT = 10.0
UNKNOWN = -100.0  # the mark by which Hugging Face's libraries leave a label out of a loss


def targets(rows: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their mask, both of shape (n, 3) for safety (one-hot) or (n, 6) for categories; mask 0: unknown."""
    if task == "categories":
        return category_matrix(rows).astype(float), known_matrix(rows).astype(float)
    one_hot = (rows["safety"].to_numpy()[:, None] == np.array(SAFETY_LEVELS)[None, :]).astype(float)
    return one_hot, np.repeat(one_hot.sum(axis=1, keepdims=True), len(SAFETY_LEVELS), axis=1)


def marked_targets(rows: pd.DataFrame, task: str) -> np.ndarray:
    """Labels with `UNKNOWN` where the mask of `targets` is 0: labels and mask as the one array that a Trainer carries."""
    labels, known = targets(rows, task)
    return np.where(known > 0, labels, UNKNOWN)


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


def total_loss(logits, marked, weights, task: str):
    """The losses of all rows, summed; `marked` as from `marked_targets`."""
    known = (marked != UNKNOWN).to(logits.dtype)
    return loss_per_row(logits, marked.clamp(min=0), known, weights.to(logits), task).sum()


def loss_units(rows: pd.DataFrame, task: str) -> float:
    """What a loss is divided by: the known labels of the rows, or the rows with a known level."""
    known = targets(rows, task)[1]
    return float(known[:, 0].sum() if task == "safety" else known.sum())


def compute_loss_func(weights, divisor: float, task: str):
    """The function that Trainer takes under this name: the loss of a batch, divided by one constant.

    With the average known labels a batch as `divisor`, every row counts the same, however many share its batch: gradients
    depend neither on how rows meet nor on how many processes share them.
    """

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return total_loss(outputs.logits.float(), labels, weights, task) / divisor

    return compute_loss


def probabilities_of(logits: np.ndarray, weights: np.ndarray, task: str) -> np.ndarray:
    """Softmax over the levels, or a sigmoid for each category, from logits that were trained with these label weights.

    Weighting positives by w teaches logits that are too high by log w, so this is taken off a category again. The
    levels keep their weights, because their label is the largest probability and has no threshold to make up for it.
    """
    logits = torch.from_numpy(logits if task == "safety" else logits - np.log(weights))
    return (logits.softmax(-1) if task == "safety" else logits.sigmoid()).numpy()
