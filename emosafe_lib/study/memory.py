"""Exhausted memory says so in many ways; what follows (a smaller batch, a line with a remedy) hangs on telling it apart."""

SAYINGS = (
    "out of memory",  # CUDA, MPS
    "allocate memory",  # torch's CPU allocator, mmap
    "not enough memory",  # the same allocator elsewhere
    "bad_alloc",  # C++
    "alloc_failed",  # cuBLAS, cuDNN
    "enough gpu ram",  # a placement that would leave weights on the CPU
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    # torch's own class goes by its name, since torch need not be loaded here
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(saying in str(error).lower() for saying in SAYINGS)
