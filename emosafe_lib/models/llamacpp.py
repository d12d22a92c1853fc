"""llama.cpp's own server in this process, for a GGUF file: a real engine behind `backend: openai`, without a network.

It needs the package of the extra `llamacpp`. From a shell, until Ctrl-C, for any model whose weights are `gguf`:

    python -m emosafe_lib.models.llamacpp smollm2-135m --port 8080

A parameter file with `backend: openai`, `base_url: http://127.0.0.1:8080/v1` and the model's name as `path` is prompted
through it, and a study whose `augmentation` has `provider: openai`, that `base_url` and `prices: [0.0, 0.0]` has its
messages re-told by it. No key is needed.
"""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emosafe_lib.models.gguf_files import gguf_file
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import load_model

MOST_TOKENS = 4096  # a request of either user has a third of it
ENDS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def serving(
    file: Path, name: str, port: int = 0, threads: int = -1, context_tokens: int = 4096, slots: int = 1
) -> Iterator[str]:
    """The address of a server for a GGUF file, which calls itself `name`; port 0 takes a free one.

    It answers as many requests at once as it has `slots`, each of at most `context_tokens` tokens. It listens on this
    machine alone, keeps no page and tells nobody what it was asked.

    Raises
    ------
    ModelError : the package is not installed
    """
    try:
        import xllamacpp
    except ImportError:
        raise ModelError("xllamacpp", "is not installed", 'run `pip install -e ".[llamacpp]"`') from None
    options = xllamacpp.CommonParams()
    options.model.path, options.model_alias = str(file), {name}
    options.hostnames, options.port, options.cors_origins = ["127.0.0.1"], port, ""
    options.n_parallel, options.n_ctx = slots, slots * context_tokens
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
    options.ui = options.endpoint_slots = options.warmup = False
    options.verbosity = 0
    server = xllamacpp.Server(options)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # which ends it


def main() -> None:
    """Serve a model of params/models/ until somebody stops it."""
    parser = argparse.ArgumentParser(description="llama.cpp's server for a model whose weights are gguf")
    parser.add_argument("model", help="its name in params/models")
    parser.add_argument("--port", type=int, default=8080, help="the port of this machine at which it answers")
    parser.add_argument("--threads", type=int, default=-1, help="how many threads answer; llama.cpp chooses where -1")
    parser.add_argument("--slots", type=int, default=1, help="requests that are answered at once")
    given = parser.parse_args()
    model = load_model(given.model)
    context = min(model.context_tokens, MOST_TOKENS)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # before the engine's threads begin, which inherit it
    with serving(gguf_file(model), model.name, given.port, given.threads, context, given.slots) as address:
        print(f"{model.name} at {address}; Ctrl-C ends it", flush=True)
        signal.sigwait(ENDS)


if __name__ == "__main__":
    main()
