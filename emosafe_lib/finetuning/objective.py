"""What training minimises: targets, their weights, and a loss that leaves out what a row's source never asked about.

A network learns one task, or both at once by a head that holds the levels first and the categories after them; `task` is
then `BOTH`.
"""

import numpy as np
import pandas as pd
import torch

from emosafe_lib.study.rows import category_matrix, known_matrix
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, TASK_LABELS, TASKS

MAX_POSITIVE_WEIGHT = 10.0
UNKNOWN = -100.0  # the mark by which Hugging Face's libraries leave a label out of a loss
BOTH = "both"


def columns_of(task: str) -> dict[str, slice]:
    """The tasks that a network answers, each with its columns of the head."""
    tasks = TASKS if task == BOTH else (task,)
    ends = np.cumsum([len(TASK_LABELS[one]) for one in tasks]).tolist()
    return {one: slice(end - len(TASK_LABELS[one]), end) for one, end in zip(tasks, ends, strict=True)}


def labels_of(task: str) -> tuple[str, ...]:
    """What the columns of the head stand for."""
    return tuple(label for one in columns_of(task) for label in TASK_LABELS[one])


def targets(rows: pd.DataFrame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and their mask, both of shape (n, 3) for safety (one-hot), (n, 6) for categories or (n, 9) for both; mask 0:
    unknown.
    """
    if task == BOTH:
        return tuple(np.hstack(parts) for parts in zip(*(targets(rows, one) for one in TASKS), strict=True))
    if task == "categories":
        return category_matrix(rows).astype(float), known_matrix(rows).astype(float)
    one_hot = (rows["safety"].to_numpy()[:, None] == np.array(SAFETY_LEVELS)[None, :]).astype(float)
    return one_hot, np.repeat(one_hot.sum(axis=1, keepdims=True), len(SAFETY_LEVELS), axis=1)


def marked_targets(rows: pd.DataFrame, task: str) -> np.ndarray:
    """Labels with `UNKNOWN` where the mask of `targets` is 0: labels and mask as the one array that a Trainer carries."""
    labels, known = targets(rows, task)
    return np.where(known > 0, labels, UNKNOWN)


def smoothed(marked, share: float, task: str):
    """Targets (see `marked_targets`) with a share of each known level's spread evenly over all levels (Szegedy et al. 2016,
    arXiv 1512.00567); categories stay as they are.
    """
    levels = columns_of(task).get("safety", slice(0))
    found, softer = marked.clone(), (1 - share) * marked[:, levels] + share / len(SAFETY_LEVELS)
    found[:, levels] = torch.where(marked[:, levels] == UNKNOWN, marked[:, levels], softer)
    return found


def label_weights(labels: np.ndarray, known: np.ndarray, task: str, balanced: bool) -> np.ndarray:
    """Weights that even out rare labels, one each: inverse class frequency, or the square root of negatives per positive,
    since the full ratio would flood rare categories with false alarms.
    """
    if task == BOTH:
        parts = columns_of(task).items()
        return np.concatenate([label_weights(labels[:, at], known[:, at], one, balanced) for one, at in parts])
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


def total_loss(logits, marked, weights, units: dict[str, float]):
    """The losses of all rows, summed and divided by the `units` of each task; `marked` as from `marked_targets`."""
    task = BOTH if len(units) > 1 else next(iter(units))
    known, marked, weights = (marked != UNKNOWN).to(logits.dtype), marked.clamp(min=0), weights.to(logits)
    parts = columns_of(task).items()
    losses = {one: loss_per_row(logits[:, at], marked[:, at], known[:, at], weights[at], one) for one, at in parts}
    return sum(losses[one].sum() / units[one] for one in losses)


def loss_units(rows: pd.DataFrame, task: str) -> dict[str, float]:
    """What the loss of each task is divided by: the known labels of the rows, or the rows with a known level."""
    known = {one: targets(rows, one)[1] for one in columns_of(task)}
    return {one: float(mask[:, 0].sum() if one == "safety" else mask.sum()) for one, mask in known.items()}


def compute_loss_func(weights, units: dict[str, float], smoothing: float = 0.0):
    """The function that Trainer takes under this name: the loss of a batch, that of each task divided by one constant.

    With the average known labels a batch as `units`, every row counts the same, however many share its batch: gradients
    depend neither on how rows meet nor on how many processes share them. `smoothing` is that of `smoothed`.
    """
    task = BOTH if len(units) > 1 else next(iter(units))

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return total_loss(outputs.logits.float(), smoothed(labels, smoothing, task), weights, units)

    return compute_loss


def probabilities_of(logits: np.ndarray, weights: np.ndarray, task: str) -> np.ndarray:
    """Softmax over the levels, or a sigmoid for each category, from logits that were trained with these label weights.

    Weighting positives by w teaches logits that are too high by log w, so this is taken off a category again. The
    levels keep their weights, because their label is the largest probability and has no threshold to make up for it.
    """
    logits = torch.from_numpy(logits if task == "safety" else logits - np.log(weights))
    return (logits.softmax(-1) if task == "safety" else logits.sigmoid()).numpy()
