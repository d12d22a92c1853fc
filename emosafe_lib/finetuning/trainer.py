"""How a classifier is trained: its rows as a Dataset, and Hugging Face's Trainer over token-budget batches.

It holds what the Trainer does not do by itself: batches of equal cost, a validation loss per known label, a stop at the
first broken loss, sealed checkpoints, and patience that survives a killed run.
"""

import re
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict, disable_progress_bars
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)

from emosafe_lib.finetuning.failures import refuse_broken
from emosafe_lib.finetuning.objective import compute_loss_func, loss_units, marked_targets, total_loss
from emosafe_lib.finetuning.plan import Plan, weights_of
from emosafe_lib.models import checkpoints
from emosafe_lib.models.batching import BudgetSampler, Encoded, budget_batches, encode
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.models.precision import hardware, mixed_precision
from emosafe_lib.models.seals import read_seal
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.parameters import FinetuningParams
from emosafe_lib.study.progress import heartbeat
from emosafe_lib.study.tries import Spent

MOST_EPOCHS = 10
LAYER = re.compile(r"\blayers?\.(\d+)\.")
GATHERED = "gathered.safetensors"
LOGGED = {"loss": "train_loss", "eval_loss": "validation_loss"}


def token_columns(batch: dict, tokenizer, max_length: int) -> dict:
    """The token ids of a batch of texts, how many each has, and whether it was cut."""
    encoded = encode(tokenizer, batch["text"], max_length)
    return {"input_ids": encoded.ids, "length": encoded.lengths, "truncated": encoded.truncated}


def tokenized(plan: Plan, tokenizer) -> DatasetDict:
    """The three splits with the columns input_ids, length, truncated and labels (see `marked_targets`), in memory.

    Raises
    ------
    TrainingError : truncation leaves no training row a token
    """
    disable_progress_bars()
    parts = {"train": plan.train, "validation": plan.validation, "test": plan.test}
    data = DatasetDict(
        {
            name: Dataset.from_dict({"text": rows["text"].tolist(), "labels": marked_targets(rows, plan.task)})
            for name, rows in parts.items()
        }
    )
    options = {"tokenizer": tokenizer, "max_length": plan.settings.max_length}
    data = data.map(token_columns, batched=True, fn_kwargs=options, remove_columns="text", keep_in_memory=True)
    if max(data["train"]["length"]) <= tokenizer.num_special_tokens_to_add():
        raise TrainingError(plan.where, "truncation leaves 0 % of the rows a token", "raise finetuning.max_length")
    return data


def encoded_of(part: Dataset) -> Encoded:
    """A tokenized split as what batches are made of."""
    return Encoded(part["input_ids"][:], np.array(part["truncated"][:], dtype=bool))


def layers_below_head(name: str, layers: int) -> int:
    """How many layers below the head a parameter lies: 0 for the head's own, `layers` + 1 for the embeddings."""
    if found := LAYER.search(name):
        return layers - int(found[1])
    return layers + 1 if "embed" in name else 0


def slow_lower_layers(optimizer: torch.optim.Optimizer, network, decay: float) -> None:
    """Let each layer learn at `decay` times the rate of the layer above it (ULMFiT, arXiv 1801.06146): what lies low is
    general already, and few rows would only spoil it. Groups of parameters are divided by layer, before the first step.
    """
    names = {parameter: name for name, parameter in network.named_parameters()}
    layers, groups = network.config.num_hidden_layers, []
    for group in optimizer.param_groups:
        depths = {parameter: layers_below_head(names[parameter], layers) for parameter in group["params"]}
        for depth in sorted(set(depths.values())):
            alike = [parameter for parameter in group["params"] if depths[parameter] == depth]
            groups.append(group | {"params": alike, "lr": group["lr"] * decay**depth})
    optimizer.param_groups[:] = groups


class EpochLoader(DataLoader):
    """A loader that tells its batch sampler which epoch it is."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class BudgetTrainer(Trainer):
    """Hugging Face's Trainer with token-budget batches, and a stop at the first loss that is not finite.

    `data` has the splits train and validation of `tokenized`.
    """

    loss_is_scaled_for_ga = False  # the divisor is one batch's, so that steps of several batches are averaged

    def __init__(self, *, plan: Plan, data: dict[str, Dataset], tokenizer, **options):
        self.plan, self.budget = plan, plan.model.training.tokens_per_batch
        self.weights = torch.tensor(weights_of(plan)).float()
        self.lengths, self.validation = data["train"]["length"][:], encoded_of(data["validation"])
        batches = len(budget_batches(self.lengths, self.budget))
        units = {task: units / batches for task, units in loss_units(plan.train, plan.task).items()}
        super().__init__(
            train_dataset=data["train"].select_columns(["input_ids", "labels"]),
            eval_dataset=data["validation"],
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            compute_loss_func=compute_loss_func(self.weights, units, plan.model.training.label_smoothing),
            **options,
        )
        self.model_accepts_loss_kwargs = False

    def get_train_dataloader(self):
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        sampler = BudgetSampler(self.lengths, self.budget, self.plan.seed, rank, world)
        return EpochLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)

    def create_optimizer(self, model=None):
        optimizer = super().create_optimizer(model)
        if (decay := self.plan.model.training.layer_decay) < 1:
            slow_lower_layers(optimizer, self.model if model is None else model, decay)
        return optimizer

    def autocast_smart_context_manager(self, cache_enabled=True):
        return mixed_precision(self.plan.model)  # on a CPU; what a GPU does is accelerate's

    @property
    def spreads_adapter(self) -> bool:
        """Whether FSDP has an adapter's weights in pieces, one in each process."""
        return self.is_fsdp_enabled and self.plan.model.training.method == "lora"

    def save_model(self, output_dir=None, _internal_call=False):
        """A checkpoint's weights. In place of an adapter that is in pieces peft saves next to nothing, since it looks for it
        by names that FSDP has changed, and the first process would wait for the others to send their pieces of the head.
        """
        if not self.spreads_adapter:
            return super().save_model(output_dir, _internal_call)
        state = self.accelerator.get_state_dict(self.model)  # all processes take part, and the first one gets it
        if self.is_world_process_zero():
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file(checkpoints.trained_weights(state), Path(output_dir) / GATHERED)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if not self.spreads_adapter:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Every process reads the whole and keeps its own piece of it.
        self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / GATHERED), strict=False)

    def _load_best_model(self):
        if not self.spreads_adapter:
            return super()._load_best_model()
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if not bool(torch.isfinite(loss)):  # before a step is taken
            refuse_broken(self.plan, f"the loss is not finite at step {self.state.global_step + 1}")
        return loss

    def evaluate(self, *args, **kwargs):
        """The validation loss per known label; every process computes it on all rows, so that all stop together."""
        logits = logits_of(self.model, self.processing_class, self.validation, 4 * self.budget)
        labels = torch.tensor(marked_targets(self.plan.validation, self.plan.task))
        units = loss_units(self.plan.validation, self.plan.task)
        loss = float(total_loss(torch.from_numpy(logits), labels, self.weights, units))
        if not np.isfinite(loss):  # before a checkpoint of these weights is kept
            refuse_broken(self.plan, f"the validation loss is not finite after step {self.state.global_step}")
        metrics = {"eval_loss": loss}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once it is whole, with the identity of what it was made from, the name of the best one and
    what it cost so far; shows how far training is.
    """

    def __init__(self, plan: Plan, identity: dict, spent: Spent):
        self.plan, self.identity, self.spent = plan, identity, spent

    def on_train_begin(self, args, state, control, **kwargs):
        if state.best_global_step:  # a resumed state names a path, and the folder may have been moved since
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes files of its own
        if state.is_world_process_zero:
            folder, best = Path(args.output_dir), f"checkpoint-{state.best_global_step}"
            facts = {"identity": self.identity, "best": best, "spent": self.spent.now()}
            checkpoints.seal(folder / f"checkpoint-{state.global_step}", **facts)

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


def sealed_identity(identity: dict, options: TrainingArguments) -> dict:
    """What a checkpoint is sealed with: a finished run is its plan's, but only as many processes may go on with one that
    is not, since its steps, schedule and random states are theirs.
    """
    return identity | {"batches_per_step": batches_per_step(options)}


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
        average_tokens_across_devices=False,  # the divisor of the loss is a constant
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
    )
    options.mixed_precision = "bf16" if options.bf16 else "fp16" if options.fp16 else "no"  # whatever a launcher says
    if options.n_gpu > 1:  # or the Trainer would spread a notebook's batches over all by itself, in another precision
        options._n_gpu = 1
    options.num_train_epochs = epochs_of(plan.settings, -(-batches // batches_per_step(options)))
    return options


def make_trainer(
    plan: Plan, network, tokenizer, data: dict[str, Dataset], folder: Path, identity: dict, spent: Spent
) -> BudgetTrainer:
    """The Trainer of a plan, with early stopping and checkpoints below `folder` that are sealed with its identity and
    with what they cost.
    """
    patience = EarlyStoppingCallback(early_stopping_patience=plan.settings.early_stopping_patience)
    batches = len(budget_batches(data["train"]["length"][:], plan.model.training.tokens_per_batch))
    options = arguments(plan, folder, batches)
    callbacks = [patience, SealCheckpoints(plan, sealed_identity(identity, options), spent)]
    trainer = BudgetTrainer(model=network, args=options, plan=plan, data=data, tokenizer=tokenizer, callbacks=callbacks)
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_on(trainer: Trainer, identity: dict, spent: Spent) -> list[str]:
    """Train from the newest usable checkpoint, or from the start; returns a note for each one that was passed over.

    What was spent on that checkpoint is added to `spent`.

    A run that was killed after its last epoch only gets its best weights back. The Trainer would forget that patience
    had run out and take further steps, so it is given no epoch to take them in.

    Raises
    ------
    TrainingError : a checkpoint belongs to another plan or number of processes, or a loss is not finite
    """
    newest, notes = checkpoints.newest_usable(Path(trainer.args.output_dir), sealed_identity(identity, trainer.args))
    if newest is not None:
        spent.add(read_seal(newest)["spent"])
        state = TrainerState.load_from_json(str(newest / "trainer_state.json"))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            trainer.args.num_train_epochs = int(state.epoch)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return notes


def history_of(trainer: Trainer) -> list[dict]:
    """Loss per epoch, from the Trainer's log."""
    epochs: dict[float, dict] = {}
    for entry in trainer.state.log_history:
        found = epochs.setdefault(round(entry["epoch"], 3), {"epoch": round(entry["epoch"], 3)})
        found |= {new: entry[old] for old, new in LOGGED.items() if old in entry}
    return [entry for entry in epochs.values() if "validation_loss" in entry]
