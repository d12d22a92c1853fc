"""Classification training: LoRA for LLaMA models (arXiv 2106.09685), all weights for the encoder, one recipe for both.

Every size gets the same rows, the same rule for epochs and early stopping, class weights, and a loss that leaves out
the categories that a row's source never asked about. `finetune` is the whole story; the functions above it are its
steps. What is trained is decided by one `Plan`, and its digest names the folder: work on the same plan goes on where it
stopped, finished work is returned as it is, and nothing made from other data, parameters or code is ever mixed in.
"""

import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from emosafe_lib import batching, checkpoints, metrics, models, predictions
from emosafe_lib.batching import BudgetSampler, Encoded, budget_batches, encode, padding_share
from emosafe_lib.errors import ModelError, TrainingError
from emosafe_lib.models import (
    hardware,
    is_sharded,
    load_classifier,
    mixed_precision,
    mixes_precision,
    pick_quantization,
    quiet,
    use_threads,
)
from emosafe_lib.params import FinetuningParams, ModelParams, StudyParams
from emosafe_lib.progress import heartbeat
from emosafe_lib.rows import category_matrix, known_matrix, take
from emosafe_lib.taxonomy import SAFETY_LEVELS, TASK_LABELS, TASKS

MAX_POSITIVE_WEIGHT = 10.0
MOST_EPOCHS = 10
# What decides the numbers of a run beside its rows and parameters; thresholds and metrics are computed from them anew.
CODE = (sys.modules[__name__], batching, models)


@dataclass(frozen=True)
class Plan:
    """All that determines one training run: who learns what from which rows, with which seed, in which precision."""

    model: ModelParams
    settings: FinetuningParams
    task: str
    seed: int
    variant: str
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def identity(self) -> dict:
        """Digests of what went in; two runs with the same identity are the same run."""
        rows = pd.concat([self.train, self.validation, self.test])
        labels = [str(row) for row in np.hstack([targets(rows, self.task)[0], targets(rows, self.task)[1]])]
        recipe = self.settings.model_dump_json(include=RECIPE) + self.model.training.model_dump_json()
        here = {name: value for name, value in hardware(self.model).items() if name != "fallbacks"}
        precision = f"{here} {mixes_precision(self.model)}"
        return {
            "data": checkpoints.text_digest(*rows["id"], *rows["text"], *labels),
            "parameters": checkpoints.text_digest(recipe, precision),
            "base": checkpoints.base_digest(self.model),
            "code": checkpoints.code_digest(*CODE),
            "task": self.task,
            "seed": self.seed,
            "variant": self.variant,
        }


RECIPE = {"epochs", "min_steps", "max_length", "early_stopping_patience", "class_weights"}


@dataclass(frozen=True)
class Finetuned:
    """What one training run leaves behind; probabilities are uncalibrated, thresholds are the caller's to fit.

    Attributes
    ----------
    validation_ids, test_ids : row identifiers, in the order of the probabilities
    validation_probabilities, test_probabilities : shape (n, 3) or (n, 6)
    test_outcomes : "ok" or "truncated" per test row
    history : one mapping per epoch: epoch, train_loss, validation_loss
    facts : rows, positives per label, tokens, padding, seconds, hardware, parameters trained
    folder : where the adapter (or the encoder's weights) and this result are kept
    """

    task: str
    seed: int
    variant: str
    validation_ids: list[str]
    validation_probabilities: np.ndarray
    test_ids: list[str]
    test_probabilities: np.ndarray
    test_outcomes: list[str]
    history: list[dict]
    facts: dict
    folder: Path = field(repr=False)


def make_plan(
    model: ModelParams,
    study: StudyParams,
    rows: pd.DataFrame,
    task: str,
    seed: int,
    *,
    budget: int | None = None,
    augmentation: bool = True,
) -> Plan:
    """Choose the rows of one run; budgets are nested, and leaving augmentation out only takes its rows away.

    Raises
    ------
    TrainingError : a budget above the training rows, or texts longer than the model can read
    """
    settings, where = study.finetuning, f"{model.name}/{task}"
    if settings.max_length > model.context_tokens:
        what = f"finetuning.max_length {settings.max_length} is above its {model.context_tokens} context_tokens"
        raise TrainingError(where, what, f"use {model.context_tokens} at most")
    train = take(rows, "train", budget or settings.train_rows)
    if budget and len(train) < budget:
        what = f"a budget of {budget} is above the {len(train)} training rows"
        raise TrainingError(where, what, "take it out of finetuning.budgets")
    if not augmentation:
        train = train[train["origin"] != "reinterpretation"].reset_index(drop=True)
    variant = f"budget-{budget}" if budget else "" if augmentation else "no-augmentation"
    validation = take(rows, "validation", settings.validation_rows, human_only=True)
    test = take(rows, "test", settings.evaluation_rows, human_only=True)
    return Plan(model, settings, task, seed, variant, train, validation, test)


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


def refuse_unlearnable(plan: Plan, encoded: Encoded, special: int) -> None:
    """Stop before training on nothing.

    Raises
    ------
    TrainingError : no training row has a known label, or none has a token left after truncation; the share is named
    """
    where = f"{plan.model.name}/{plan.task}"
    for name, rows in (("training", plan.train), ("validation", plan.validation), ("test", plan.test)):
        if not len(rows):
            raise TrainingError(where, f"there is no {name} row", "raise the study's caps or budgets")
        share = float(targets(rows, plan.task)[1].mean())
        if share == 0 and name != "test":
            raise TrainingError(where, "0 % of the labels of its rows are known", f"give {name} rows known labels")
    if plan.train["safety"].nunique() < 2 and plan.task == "safety":
        raise TrainingError(where, "all training rows have one level", "raise train_rows or the budget")
    if not (encoded.lengths > special).any():
        raise TrainingError(where, "truncation leaves 0 % of the rows a token", "raise finetuning.max_length")


def add_lora(network, model: ModelParams):
    """Freeze the backbone and put low-rank adapters beside its linear layers; the head trains in full.

    Raises
    ------
    ModelError : a target module matches no layer
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    lora = model.training.lora
    wanted = [lora.target_modules] if isinstance(lora.target_modules, str) else lora.target_modules
    names = [name for name, _ in network.named_modules()]
    lost = [part for part in wanted if part != "all-linear" and not any(n.split(".")[-1] == part for n in names)]
    if lost:
        raise ModelError(model.name, f"lora.target_modules {lost[0]!r} matches no layer", "use all-linear, or q_proj")
    if pick_quantization(model) != "none" and not is_sharded():
        network = prepare_model_for_kbit_training(network)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=wanted[0] if wanted == ["all-linear"] else wanted,
    )
    return get_peft_model(network, config)


@quiet()
def build(plan: Plan):
    """The network to train and its tokenizer; head and adapters are drawn from the plan's seed."""
    set_seed(plan.seed)
    use_threads(plan.model)
    network, tokenizer = load_classifier(plan.model, TASK_LABELS[plan.task])
    return (add_lora(network, plan.model) if plan.model.training.method == "lora" else network), tokenizer


def examples(encoded: Encoded, rows: pd.DataFrame, task: str) -> list[dict]:
    """One mapping per row: token ids, labels and mask."""
    labels, known = targets(rows, task)
    return [
        {"input_ids": ids, "labels": label, "known": mask}
        for ids, label, mask in zip(encoded.ids, labels, known, strict=True)
    ]


class Collator:
    """Pads token ids on the tokenizer's side; labels and masks become float tensors."""

    def __init__(self, tokenizer=None, pad: int = 0):
        self.pad = tokenizer.pad_token_id if tokenizer else pad
        self.left = tokenizer is not None and tokenizer.padding_side == "left"

    def __call__(self, batch: list[dict]) -> dict:
        width = max(len(row["input_ids"]) for row in batch)
        ids = torch.full((len(batch), width), self.pad)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(batch):
            length = len(row["input_ids"])
            place = slice(width - length, width) if self.left else slice(length)
            ids[number, place] = torch.tensor(row["input_ids"])
            mask[number, place] = 1
        found = {"input_ids": ids, "attention_mask": mask}
        for key in ("labels", "known"):
            if key in batch[0]:
                found[key] = torch.tensor(np.array([row[key] for row in batch]), dtype=torch.float32)
        return found


@torch.inference_mode()
def logits_of(network, tokenizer, encoded: Encoded, budget: int) -> np.ndarray:
    """Logits of the rows in their own order, shape (n, labels), float64; batched by length to a token budget."""
    network.eval()
    device = next(network.parameters()).device

    def score(inputs: dict) -> np.ndarray:
        return network(**{key: value.to(device) for key, value in inputs.items()}).logits.double().cpu().numpy()

    return score_batches(score, Collator(tokenizer), encoded, budget)


def score_batches(score, collate: Collator, encoded: Encoded, budget: int) -> np.ndarray:
    """What `score` makes of padded batches, put back in the rows' own order; `score` takes what `collate` returns."""
    found = {}
    for batch in budget_batches(encoded.lengths, budget):
        found.update(zip(batch, score(collate([{"input_ids": encoded.ids[row]} for row in batch])), strict=True))
    return np.stack([found[row] for row in range(len(encoded.ids))])


def weights_of(plan: Plan) -> np.ndarray:
    """The label weights of a plan's training rows, shape (3,) or (6,)."""
    return label_weights(*targets(plan.train, plan.task), plan.task, plan.settings.class_weights)


def probabilities_of(logits: np.ndarray, plan: Plan) -> np.ndarray:
    """Softmax over the levels, or a sigmoid for each category.

    Weighting positives by w teaches logits that are too high by log w, so this is taken off a category again. The
    levels keep their weights, because their label is the largest probability and has no threshold to make up for it.
    """
    task = plan.task
    logits = torch.from_numpy(logits if task == "safety" else logits - np.log(weights_of(plan)))
    return (logits.softmax(-1) if task == "safety" else logits.sigmoid()).numpy()


def refuse_broken(plan: Plan, what: str) -> None:
    """Raise TrainingError for a run whose numbers have gone."""
    where = f"{plan.model.name}/{plan.task}"
    raise TrainingError(where, what, "lower training.learning_rate; the last good checkpoint is kept")


class EpochLoader(DataLoader):
    """A loader that tells its batch sampler which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class BudgetTrainer(Trainer):
    """Hugging Face's Trainer with token-budget batches, the masked weighted loss, and a stop at the first broken loss.

    Every row counts the same, however many share its batch: losses are summed and divided by one constant, the average
    number of known labels per batch. So gradients do not depend on how rows meet, nor on how many processes share them.
    """

    def __init__(self, *, plan: Plan, encoded: dict[str, Encoded], tokenizer, budget: int, **options):
        self.plan, self.encoded, self.budget = plan, encoded, budget
        known = targets(plan.train, plan.task)[1]
        self.weights = torch.tensor(weights_of(plan)).float()
        units = known[:, 0].sum() if plan.task == "safety" else known.sum()
        self.units_per_batch = float(units) / len(budget_batches(encoded["train"].lengths, budget))
        for part, rows in (("train", plan.train), ("validation", plan.validation)):
            options["eval_dataset" if part == "validation" else "train_dataset"] = examples(
                encoded[part], rows, plan.task
            )
        super().__init__(data_collator=Collator(tokenizer), processing_class=tokenizer, **options)
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self):
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sampler = BudgetSampler(self.encoded["train"].lengths, self.budget, self.plan.seed, rank, world)
        return EpochLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels, known = inputs.pop("labels"), inputs.pop("known")
        with mixed_precision(self.plan.model):
            outputs = model(**inputs)
        weights = self.weights.to(outputs.logits.device)
        loss = loss_per_row(outputs.logits.float(), labels, known, weights, self.plan.task).sum() / self.units_per_batch
        if not bool(torch.isfinite(loss)):
            refuse_broken(self.plan, f"the loss is not finite at step {self.state.global_step + 1}")
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The validation loss per known label; every process computes it on all rows, so that all stop together."""
        logits = logits_of(self.model, self.processing_class, self.encoded["validation"], 4 * self.budget)
        labels, known = (torch.tensor(part) for part in targets(self.plan.validation, self.plan.task))
        losses = loss_per_row(torch.from_numpy(logits), labels, known, self.weights.double(), self.plan.task)
        units = known[:, 0].sum() if self.plan.task == "safety" else known.sum()
        metrics = {f"{metric_key_prefix}_loss": float(losses.sum() / units)}
        if not np.isfinite(metrics[f"{metric_key_prefix}_loss"]):  # before a checkpoint of these weights is kept
            refuse_broken(self.plan, f"the validation loss is not finite after step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once it is whole, with the identity of what it was made from and the name of the best one;
    shows how far training is.
    """

    def __init__(self, plan: Plan, identity: dict):
        self.plan, self.identity = plan, identity

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # a resumed state names a path, and the folder may have been moved since
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes files of its own
        if state.is_world_process_zero:
            folder, best = Path(args.output_dir), f"checkpoint-{state.best_global_step}"
            checkpoints.seal(folder / f"checkpoint-{state.global_step}", identity=self.identity, best=best)

    def on_step_end(self, args, state, control, **kwargs):
        heartbeat(f"{self.plan.model.name} {self.plan.task} step", state.global_step, state.max_steps)


def epochs_of(settings: FinetuningParams, steps_per_epoch: int) -> float:
    """Passes over the rows: the study's epochs, or as many whole ones as `min_steps` takes, at most `MOST_EPOCHS`.

    A learning curve compares amounts of data. Without the floor its small budgets would also be short of steps.
    """
    needed = -(-settings.min_steps // max(steps_per_epoch, 1))
    return max(settings.epochs, float(min(needed, MOST_EPOCHS)))


def batches_per_step(options: TrainingArguments) -> int:
    """Batches that make one step: each process's own, from all processes."""
    return options.world_size * options.gradient_accumulation_steps


def sealed_identity(plan: Plan, options: TrainingArguments) -> dict:
    """What a checkpoint is sealed with: a finished run is its plan's, but only as many processes may go on with one that
    is not, since its steps, schedule and random states are theirs.
    """
    return plan.identity | {"batches_per_step": batches_per_step(options)}


def arguments(plan: Plan, folder: Path, batches: int) -> TrainingArguments:
    """The Trainer's settings for a plan: AdamW, linear decay after a warm-up, one checkpoint an epoch.

    `batches` are those of one epoch, of all processes together.
    """
    ran_on, training = hardware(plan.model), plan.model.training
    options = TrainingArguments(
        output_dir=str(folder),
        learning_rate=training.learning_rate,
        gradient_accumulation_steps=training.accumulation,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup_share,
        seed=plan.seed,
        use_cpu=ran_on["device"] == "cpu",
        bf16=ran_on["device"] == "cuda" and ran_on["dtype"] == "bfloat16",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,  # the patience that is left
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    options.num_train_epochs = epochs_of(plan.settings, -(-batches // batches_per_step(options)))
    return options


def make_trainer(plan: Plan, network, tokenizer, encoded: dict[str, Encoded], folder: Path) -> BudgetTrainer:
    """The Trainer of a plan, with early stopping and sealed checkpoints below `folder`."""
    patience = EarlyStoppingCallback(early_stopping_patience=plan.settings.early_stopping_patience)
    batches = len(budget_batches(encoded["train"].lengths, plan.model.training.tokens_per_batch))
    options = arguments(plan, folder, batches)
    trainer = BudgetTrainer(
        model=network,
        args=options,
        plan=plan,
        encoded=encoded,
        tokenizer=tokenizer,
        budget=plan.model.training.tokens_per_batch,
        callbacks=[patience, SealCheckpoints(plan, sealed_identity(plan, options))],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_fsdp_enabled and plan.model.training.method == "lora":
        from peft.utils.other import fsdp_auto_wrap_policy

        trainer.accelerator.state.fsdp_plugin.auto_wrap_policy = fsdp_auto_wrap_policy(network)
    return trainer


def train_on(trainer: Trainer, newest: Path | None) -> None:
    """Train from a checkpoint, or from the start where there is none.

    A run that was killed after its last epoch only gets its best weights back. The Trainer would forget that patience
    had run out and take further steps, so it is given no epoch to take them in.
    """
    if newest is not None:
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            trainer.args.num_train_epochs = int(state.epoch)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is exhausted: torch's own, Python's, or a placement that does not fit a GPU."""
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or "alloc" in str(error).lower() or "enough GPU RAM" in str(error)


@contextmanager
def readable_loading(plan: Plan):
    """Turn memory that is exhausted before the first batch into one line.

    Raises
    ------
    TrainingError : that it happened while loading, with which batches and length ahead, and what to change
    """
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:
        if not out_of_memory(error):
            raise
        tokens, longest = plan.model.training.tokens_per_batch, plan.settings.max_length
        what = f"out of memory while loading, before its batches of {tokens} tokens, longest text {longest} tokens"
        remedy = "choose a smaller model, or quantization: int4 on a GPU"
        raise TrainingError(f"{plan.model.name}/{plan.task}", what, remedy) from None


@contextmanager
def readable_failures(plan: Plan, longest: int):
    """Turn exhausted memory and a full disk into one line; earlier checkpoints stay as they are.

    Raises
    ------
    TrainingError : batch and length, or the folder, and what to change
    """
    where = f"{plan.model.name}/{plan.task}"
    try:
        yield
    except SafetensorError:
        raise TrainingError(where, "could not save its weights", "make room on the disk; rerun") from None
    except OSError as error:
        raise TrainingError(where, f"could not save ({error.strerror})", "make room on the disk; rerun") from None
    except (RuntimeError, MemoryError) as error:
        memory = out_of_memory(error)
        if not memory and "No space left" not in str(error) and "unexpected pos" not in str(error):
            raise
        if not memory:
            raise TrainingError(where, "could not save (disk full)", "make room on the disk; rerun") from None
        batch = f"batches of {plan.model.training.tokens_per_batch} tokens, longest text {longest} tokens"
        raise TrainingError(where, f"out of memory with {batch}", "lower training.tokens_per_batch") from None


def encode_splits(plan: Plan, tokenizer) -> dict[str, Encoded]:
    """Token ids of the three splits, after checking that there is something to learn."""
    parts = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    encoded = {name: encode(tokenizer, rows["text"], plan.settings.max_length) for name, rows in parts.items()}
    refuse_unlearnable(plan, encoded["train"], tokenizer.num_special_tokens_to_add())
    return encoded


def history_of(trainer: Trainer) -> list[dict]:
    """Loss per epoch, from the Trainer's log."""
    epochs: dict[float, dict] = {}
    for entry in trainer.state.log_history:
        found = epochs.setdefault(round(entry["epoch"], 3), {"epoch": round(entry["epoch"], 3)})
        found |= {new: entry[old] for old, new in LOGGED.items() if old in entry}
    return [entry for entry in epochs.values() if "validation_loss" in entry]


LOGGED = {"loss": "train_loss", "eval_loss": "validation_loss"}


def since(started: float, clock) -> float:
    """Seconds on a clock since a reading of it."""
    return round(clock() - started, 2)


def facts_of(plan: Plan, network, encoded: dict[str, Encoded], notes: list[str]) -> dict:
    """What a reader needs to judge a run, as JSON values."""
    labels, known = targets(plan.train, plan.task)
    lengths = encoded["train"].lengths
    batches = budget_batches(lengths, plan.model.training.tokens_per_batch)
    return {
        "train_rows": len(plan.train),
        "positives": dict(zip(TASK_LABELS[plan.task], (labels * known).sum(axis=0).astype(int).tolist(), strict=True)),
        "known_share": round(float(known.mean()), 4),
        "tokens_per_epoch": int(lengths.sum()),
        "padding_share": round(padding_share(lengths, batches), 4),
        "label_weights": [round(float(weight), 4) for weight in weights_of(plan)],
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "notes": notes,
        "mixed_precision": mixes_precision(plan.model),
        **hardware(plan.model),
    }


def finetune(
    model: ModelParams,
    study: StudyParams,
    rows: pd.DataFrame,
    task: str,
    seed: int,
    folder: Path,
    *,
    budget: int | None = None,
    augmentation: bool = True,
) -> Finetuned:
    """Train a classifier and score the validation and test rows; finished or interrupted work is taken up, not redone.

    Parameters
    ----------
    rows : merged rows with re-interpretations among them
    folder : where runs are kept; each plan gets its own folder below, named by its digest
    budget : train on that many rows only
    augmentation : False leaves the re-interpretations out of training

    Raises
    ------
    TrainingError : nothing to learn, a loss that is not finite, memory or disk exhausted, foreign checkpoints
    ModelError : the model is absent or damaged, or LoRA targets match nothing
    """
    plan = make_plan(model, study, rows, task, seed, budget=budget, augmentation=augmentation)
    home = home_of(plan, folder)
    if (home / "done.json").is_file():
        return read_finished(plan, home)
    started = time.monotonic(), time.process_time()
    with readable_loading(plan):
        network, tokenizer = build(plan)
    encoded = encode_splits(plan, tokenizer)
    with quiet(), readable_failures(plan, int(encoded["train"].lengths.max())):
        trainer = make_trainer(plan, network, tokenizer, encoded, home / "checkpoints")
        newest, notes = checkpoints.newest_usable(home / "checkpoints", sealed_identity(plan, trainer.args))
        train_on(trainer, newest)
    facts = facts_of(plan, network, encoded, notes) | {"processes": trainer.args.world_size}
    facts |= {"seconds": since(started[0], time.monotonic), "processor_seconds": since(started[1], time.process_time)}
    with readable_failures(plan, int(encoded["test"].lengths.max())):
        trained, state = trained_state(trainer, network)
        scores = scores_of(plan, trained, tokenizer, encoded)
        if not all(np.isfinite(scores[part]).all() for part in ("validation", "test")):
            refuse_broken(plan, "the trained model's answers are not finite")
        if trainer.is_world_process_zero():
            save_final(plan, network, tokenizer, home, state)
            write_finished(plan, home, scores, encoded, history_of(trainer), facts)
            shutil.rmtree(home / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return read_finished(plan, home)


def trained_state(trainer: Trainer, network) -> tuple:
    """The network to score with, and its gathered weights to save where FSDP spreads them over processes, else None."""
    if not trainer.is_fsdp_enabled:
        return network, None
    return trainer.model_wrapped, trainer.accelerator.get_state_dict(trainer.model_wrapped)


def runs_of(settings: FinetuningParams) -> list[dict]:
    """The runs that a study asks for, as arguments of `finetune`: every seed on all rows; with the first seed alone, the
    ablation without re-interpretations and the learning curve's budgets.
    """
    runs, first = [{"task": task, "seed": seed} for task in TASKS for seed in settings.seeds], settings.seeds[0]
    if settings.ablation:
        runs += [{"task": task, "seed": first, "augmentation": False} for task in settings.ablation_tasks]
    return runs + [{"task": task, "seed": first, "budget": rows} for task in TASKS for rows in settings.budgets]


def home_of(plan: Plan, folder: Path) -> Path:
    """The folder of a plan below `folder`, named so that a person finds it and no other plan shares it."""
    digest = checkpoints.text_digest(json.dumps(plan.identity, sort_keys=True))[:8]
    home = Path(folder) / "-".join(filter(None, [plan.task, f"seed{plan.seed}", plan.variant, digest]))
    home.mkdir(parents=True, exist_ok=True)
    return home


@quiet()
def save_final(plan: Plan, network, tokenizer, home: Path, state: dict | None = None) -> None:
    """Keep the trained weights: always an adapter, a whole encoder only for the main variant, since it is large."""
    if plan.model.training.method == "lora" or not plan.variant:
        facts = {"base": checkpoints.base_digest(plan.model), "task": plan.task, "labels": TASK_LABELS[plan.task]}
        checkpoints.save_classifier(network, tokenizer, home / "model", state, **facts)


def scores_of(plan: Plan, network, tokenizer, encoded: dict[str, Encoded]) -> dict[str, np.ndarray]:
    """Logits of validation and test rows; under FSDP every process has to take part in it."""
    budget = 4 * plan.model.training.tokens_per_batch
    return {name: logits_of(network, tokenizer, encoded[name], budget) for name in ("validation", "test")}


def write_finished(plan: Plan, home: Path, scores: dict, encoded, history: list[dict], facts: dict) -> None:
    """Write the result; `done.json` comes last."""
    partial = home / ".scores.partial.npz"
    np.savez(partial, truncated=encoded["test"].truncated, **scores)
    os.replace(partial, home / "scores.npz")
    digest = checkpoints.file_digest(home / "scores.npz")
    done = {"identity": plan.identity, "history": history, "facts": facts, "scores": digest}
    checkpoints.write_json(home / "done.json", done)


def read_finished(plan: Plan, home: Path) -> Finetuned:
    """The result of a finished run.

    Raises
    ------
    TrainingError : it belongs to another plan, or its scores were changed
    """
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    checkpoints.refuse_other(done["identity"], plan.identity, home)
    if checkpoints.file_digest(home / "scores.npz") != done["scores"]:
        raise TrainingError(home / "scores.npz", "was changed after training", "delete this folder and rerun")
    scores = np.load(home / "scores.npz", allow_pickle=False)
    return Finetuned(
        task=plan.task,
        seed=plan.seed,
        variant=plan.variant,
        validation_ids=plan.validation["id"].tolist(),
        validation_probabilities=probabilities_of(scores["validation"], plan),
        test_ids=plan.test["id"].tolist(),
        test_probabilities=probabilities_of(scores["test"], plan),
        test_outcomes=["truncated" if cut else "ok" for cut in scores["truncated"]],
        history=done["history"],
        facts=done["facts"],
        folder=home,
    )


def reload_difference(model: ModelParams, study: StudyParams, rows: pd.DataFrame, result: Finetuned) -> pd.Series:
    """The largest difference in test probability between the trained model and the same model read back from disk."""
    plan = make_plan(model, study, rows, result.task, result.seed)
    ways = {"unmerged": False, "merged": True} if model.training.method == "lora" else {"whole": False}
    found = {}
    for way, merge in ways.items():
        labels = TASK_LABELS[result.task]
        network, tokenizer = checkpoints.restore_classifier(model, result.folder / "model", labels, merge=merge)
        encoded = encode(tokenizer, plan.test["text"], plan.settings.max_length)
        logits = logits_of(network, tokenizer, encoded, 4 * model.training.tokens_per_batch)
        found[way] = float(np.abs(probabilities_of(logits, plan) - result.test_probabilities).max())
    return pd.Series(found, name="largest difference")


def calibrate(result, rows: pd.DataFrame) -> dict:
    """Temperature (safety) or decision thresholds (categories), fitted on validation rows only.

    `result` is a `Finetuned` or a `probes.Probed`.
    """
    validation = rows.set_index("id").loc[result.validation_ids]
    labels, known = targets(validation, result.task)
    if result.task == "categories":
        return {"thresholds": metrics.fit_thresholds(result.validation_probabilities, labels, known).tolist()}
    logs = np.log(np.maximum(result.validation_probabilities, 1e-12))
    return {"temperature": metrics.fit_temperature(logs, labels.argmax(axis=1))}


def predictions_of(result, rows: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The test rows' predictions in the common schema, calibrated on validation; `setting` is fine-tuned or probe."""
    fitted, probabilities = calibrate(result, rows), result.test_probabilities
    if result.task == "safety":
        logs = np.log(np.maximum(probabilities, 1e-12))
        probabilities = metrics.apply_temperature(logs, fitted["temperature"])
    return predictions.make(
        result.test_ids,
        result.task,
        setting,
        probabilities,
        variant=getattr(result, "variant", ""),
        seed=getattr(result, "seed", 0),
        thresholds=fitted.get("thresholds"),
        outcomes=result.test_outcomes,
    )


def label_scores(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """F1 of every label in a prediction table, one row a (task, setting, variant, seed, label); unknown cells left out.

    `support` counts the label's known positive test rows; F1 is NaN where there is none and none was claimed, as in
    `metrics.scores`.
    """
    found = []
    for (task, setting, variant, seed), part in table.groupby(["task", "setting", "variant", "seed"]):
        truth, known = targets(rows.set_index("id").loc[part["id"]], task)
        for number, label in enumerate(TASK_LABELS[task]):
            real, asked = truth[:, number] > 0, known[:, number] > 0
            guess = part["label"].map(lambda names, label=label: label in names).to_numpy()
            hits, total = (real & guess & asked).sum(), (real & asked).sum() + (guess & asked).sum()
            f1 = 2 * hits / total if total else float("nan")
            keys = {"task": task, "setting": setting, "variant": variant, "seed": seed, "label": label}
            found.append(keys | {"f1": f1, "support": int((real & asked).sum())})
    return pd.DataFrame(found)
