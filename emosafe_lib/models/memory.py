"""Exhausted memory says so in many ways; what follows (a smaller batch, a line with a remedy) hangs on telling it apart."""

SAYINGS = (
    "out of memory",  # CUDA, MPS
    "allocate memory",  # torch's CPU allocator, mmap
    "bad_alloc",  # C++
    "alloc_failed",  # cuBLAS, cuDNN
    "enough gpu ram",  # a placement that would leave weights on the CPU
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    import torch

    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(saying in said for saying in SAYINGS)
