"""Classification training: LoRA for LLaMA models (arXiv 2106.09685), all weights for the encoder, one recipe for both.

Every size gets the same rows, the same rule for epochs and early stopping, class weights, and a loss that leaves out
the categories that a row's source never asked about. `finetune` is the whole story, and each step is one module: the
`plan` of what is trained, the `network`, the `trainer`, and the result that is `kept`.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate.utils.memory import clear_device_cache
from datasets import DatasetDict
from transformers import Trainer

from emosafe_lib.finetuning.failures import readable_failures, readable_loading, refuse_broken
from emosafe_lib.finetuning.finished_runs import Finetuned, alone_in, home_of, read_finished, save_final, write_finished
from emosafe_lib.finetuning.network import build_network, fast_steps, trainable
from emosafe_lib.finetuning.objective import labels_of, targets
from emosafe_lib.finetuning.plan import Plan, as_learned, identity_of, make_plan, refuse_unlearnable, weights_of
from emosafe_lib.finetuning.probes import Features
from emosafe_lib.finetuning.trainer import encoded_of, history_of, make_trainer, tokenized, train_on
from emosafe_lib.models.backbone import quiet
from emosafe_lib.models.batching import budget_batches, padding_share
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.models.precision import hardware, mixes_precision, trained_dtype
from emosafe_lib.study.parameters import ModelParams, StudyParams
from emosafe_lib.study.tries import Spent


def facts_of(plan: Plan, parameters: int, lengths: np.ndarray, notes: list[str]) -> dict:
    """What a reader needs to judge a run, as JSON values; a row that a pass meets several times over is one row."""
    rows = plan.train.drop_duplicates("id")
    labels, known = targets(rows, plan.task)
    batches = budget_batches(lengths, plan.model.training.tokens_per_batch)
    return {
        "train_rows": len(rows),
        "positives": dict(zip(labels_of(plan.task), (labels * known).sum(axis=0).astype(int).tolist(), strict=True)),
        "known_share": round(float(known.mean()), 4),
        "tokens_per_epoch": int(lengths.sum()),
        "padding_share": round(padding_share(lengths, batches), 4),
        "label_weights": [round(float(weight), 4) for weight in weights_of(plan)],
        "trainable_parameters": parameters,
        "notes": notes,
        "mixed_precision": mixes_precision(plan.model),
        **hardware(plan.model),
        "dtype": str(trained_dtype(plan.model)).removeprefix("torch."),
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
    features: Features | None = None,
) -> Finetuned:
    """Train a classifier and score the validation and test rows; finished or interrupted work is taken up, not redone.

    Where the model learns both tasks together, whichever is asked for first trains the network and the other finds it.

    Parameters
    ----------
    rows : merged rows with re-interpretations among them
    folder : where runs are kept; each plan gets its own folder below, named by its digest
    budget : train on that many rows only
    augmentation : False leaves the re-interpretations out of training
    features : of `probes.extract`, in which a head that begins with a probe finds its rows, so that none is read twice

    Raises
    ------
    TrainingError : nothing to learn, a loss that is not finite, memory or disk exhausted, foreign checkpoints, another run
        of the same plan
    ModelError : the model is absent or damaged, or LoRA targets match nothing
    """
    asked = make_plan(model, study, rows, task, seed, budget=budget, augmentation=augmentation)
    plan = as_learned(asked)
    identity = identity_of(plan)
    home = home_of(plan, folder, identity)
    if not (home / "done.json").is_file():
        with alone_in(home, plan):
            learn(plan, home, identity, features)
        clear_device_cache(garbage_collection=True)  # half precision leaves a network that refers to itself
    return read_finished(asked, home, identity)


def learn(plan: Plan, home: Path, identity: dict, features: Features | None) -> None:
    """Train a plan's network, score with it and write what `finetune` returns; the network itself is let go."""
    spent = Spent()
    refuse_unlearnable(plan)
    with readable_loading(plan):
        network, tokenizer = build_network(plan, features)
    # Counted before FSDP leaves each process a piece.
    parameters = sum(parameter.numel() for parameter in trainable(network))
    data = tokenized(plan, tokenizer)
    with quiet(), readable_failures(plan, max(data["train"]["length"])), fast_steps(network, plan.model):
        trainer = make_trainer(plan, network, tokenizer, data, home / "checkpoints", identity, spent)
        notes = train_on(trainer, identity, spent)
    facts = facts_of(plan, parameters, np.array(data["train"]["length"]), notes)
    facts |= {"processes": trainer.args.world_size, **spent.now()}
    with readable_failures(plan, max(data["test"]["length"])):
        trained, state = trained_state(trainer, network)
        scores = scores_of(plan, trained, tokenizer, data)
        if trainer.is_world_process_zero():
            save_final(plan, network, tokenizer, home, state)
            scores["truncated"] = np.array(data["test"]["truncated"])
            write_finished(home, identity, scores, history_of(trainer), facts)
            shutil.rmtree(home / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def trained_state(trainer: Trainer, network) -> tuple:
    """The network to score with, and its gathered weights to save where FSDP spreads them over processes, else None.

    A restored network answers without the autocast that accelerate leaves around a trained one, so scores do too.
    """
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.unwrap_model(network, keep_fp32_wrapper=False), None
    return trainer.model_wrapped, trainer.accelerator.get_state_dict(trainer.model_wrapped)


def scores_of(plan: Plan, network, tokenizer, data: DatasetDict) -> dict[str, np.ndarray]:
    """Logits of validation and test rows; under FSDP every process has to take part in it.

    Raises
    ------
    TrainingError : a logit is not finite
    """
    budget = 4 * plan.model.training.tokens_per_batch
    scores = {name: logits_of(network, tokenizer, encoded_of(data[name]), budget) for name in ("validation", "test")}
    if not all(np.isfinite(logits).all() for logits in scores.values()):
        refuse_broken(plan, "the trained model's answers are not finite")
    return scores
