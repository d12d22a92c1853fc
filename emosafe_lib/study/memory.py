"""Exhausted memory says so in many ways; what follows (a smaller batch, a line with a remedy) hangs on telling it apart."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import resource
except ModuleNotFoundError:  # Windows limits no process so
    resource = None

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


@contextmanager
def telling_memory(error: Exception) -> Iterator[None]:
    """Where memory runs out in the block, raise this error, which says so in one line, in place of what a library raised."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as raised:
        if not out_of_memory(raised):
            raise
        raise error from None


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """While the block runs, this process may map so many bytes more than now: what asks for more fails with an error,
    where the system would have let it grow until something is killed. Where the system knows no such limit, none is set.
    """
    if resource is None or not mapped():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = mapped() + more
    free = soft == resource.RLIM_INFINITY or ceiling < soft
    try:
        if free and (hard == resource.RLIM_INFINITY or ceiling < hard):
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def give_back() -> None:
    """Give memory that was freed back to the system, where glibc keeps it: else the process counts as larger than it is."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def mapped() -> int:
    """Bytes of address space of this process, as Linux counts them; 0 elsewhere."""
    try:
        with open("/proc/self/statm", encoding="ascii") as counts:
            return int(counts.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0
