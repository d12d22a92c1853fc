"""What may stop a training run, as one line each: numbers that are gone, memory that is exhausted, a disk that is full."""

from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from emosafe_lib.finetuning.plan import Plan
from emosafe_lib.study.errors import TrainingError


def refuse_broken(plan: Plan, what: str) -> None:
    """Raise TrainingError for a run whose numbers have gone."""
    where = f"{plan.model.name}/{plan.task}"
    raise TrainingError(where, what, "lower training.learning_rate; the last good checkpoint is kept")


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
