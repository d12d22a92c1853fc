"""What may stop a training run, as one line each: numbers that are gone, memory that is exhausted, a disk that is full."""

from contextlib import contextmanager

from safetensors import SafetensorError

from emosafe_lib.finetuning.plan import Plan
from emosafe_lib.study.errors import TrainingError
from emosafe_lib.study.memory import out_of_memory, telling_memory

ROOM = "make room on the disk; rerun"


def refuse_broken(plan: Plan, what: str) -> None:
    """Raise TrainingError for a run whose numbers have gone."""
    raise TrainingError(plan.where, what, "lower training.learning_rate; the last good checkpoint is kept")


def readable_loading(plan: Plan):
    """The context before the first batch: a TrainingError says that memory ran out while loading, with which batches and
    length ahead, and what to change.
    """
    tokens, longest = plan.model.training.tokens_per_batch, plan.settings.max_length
    what = f"out of memory while loading, before its batches of {tokens} tokens, longest text {longest} tokens"
    remedy = "choose a smaller model, or quantization: int4 on a GPU"
    return telling_memory(TrainingError(plan.where, what, remedy))


@contextmanager
def readable_failures(plan: Plan, longest: int):
    """Turn exhausted memory and a full disk into one line; earlier checkpoints stay as they are.

    Raises
    ------
    TrainingError : batch and length, or the folder, and what to change
    """
    try:
        yield
    except SafetensorError:
        raise TrainingError(plan.where, "could not save its weights", ROOM) from None
    except OSError as error:
        raise TrainingError(plan.where, f"could not save ({error.strerror})", ROOM) from None
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            batch = f"batches of {plan.model.training.tokens_per_batch} tokens, longest text {longest} tokens"
            raise TrainingError(plan.where, f"out of memory with {batch}", "lower training.tokens_per_batch") from None
        if "No space left" in str(error) or "unexpected pos" in str(error):
            raise TrainingError(plan.where, "could not save (disk full)", ROOM) from None
        raise
