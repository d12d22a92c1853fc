"""How a classifier is trained: targets and their weights, the masked loss, token-budget batches, Hugging Face's Trainer.

`finetune` decides what is trained and keeps the result; this module takes the steps. It holds what the Trainer does not
do by itself: a loss that leaves out what a row's source never asked about, batches of equal cost, a stop at the first
broken loss, sealed checkpoints, and patience that survives a killed run.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from emosafe_lib.finetuning.failures import refuse_broken
from emosafe_lib.finetuning.identity import identity_of
from emosafe_lib.finetuning.objective import loss_per_row, targets
from emosafe_lib.finetuning.plan import Plan, weights_of
from emosafe_lib.models import checkpoints
from emosafe_lib.models.batching import BudgetSampler, Encoded, budget_batches
from emosafe_lib.models.precision import hardware, mixed_precision
from emosafe_lib.study.parameters import FinetuningParams
from emosafe_lib.study.progress import heartbeat

if TYPE_CHECKING:
    from emosafe_lib.finetune import Plan
MOST_EPOCHS = 10
LOGGED = {"loss": "train_loss", "eval_loss": "validation_loss"}


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
    return identity_of(plan) | {"batches_per_step": batches_per_step(options)}


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
        fp16=ran_on["device"] == "cuda" and ran_on["dtype"] == "float16",  # scales the loss, or gradients vanish
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


def history_of(trainer: Trainer) -> list[dict]:
    """Loss per epoch, from the Trainer's log."""
    epochs: dict[float, dict] = {}
    for entry in trainer.state.log_history:
        found = epochs.setdefault(round(entry["epoch"], 3), {"epoch": round(entry["epoch"], 3)})
        found |= {new: entry[old] for old, new in LOGGED.items() if old in entry}
    return [entry for entry in epochs.values() if "validation_loss" in entry]
