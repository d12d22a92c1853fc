"""The `emosafe` command: one word chooses a module, which alone is then imported.

Someone who asks for help must not wait for PyTorch, and someone who classifies needs no training code. An expected
failure of any of them is told here, so that all of them fail in the same way; a module that is run by `python -m` comes
here too.
"""

import importlib
import os
import sys
from pathlib import Path

from emosafe_lib.study.errors import SURROUNDINGS, EmosafeError

COMMANDS = {
    "classify": ("emosafe_lib.ondevice.classify", "classify messages with an exported model"),
    "onnx": ("emosafe_lib.ondevice.export", "add ONNX files, in fp32 and int8, to an exported model"),
    "train": ("emosafe_lib.finetuning.train_command", "a model's training runs, or one of them, for accelerate launch"),
    "data": ("emosafe_lib.data.sources.fetch", "list or download the sources of a study"),
    "params": ("emosafe_lib.study.settings", "find a setting: its default, its values, its meaning"),
    "compare": ("emosafe_lib.evaluation.compare_studies", "two finished studies, number by number, on the same rows"),
    "run": ("workflow.command", "studies and single stages, as `make study` runs them"),
}


def module_of(command: str):
    """The module behind a command; the runner stands beside this package, in a checkout.

    Raises
    ------
    EmosafeError : the runner is asked for, and the package was installed without a checkout
    """
    module = COMMANDS[command][0]
    if module.startswith("workflow."):
        checkout = Path(__file__).resolve().parents[1]
        if not (checkout / "workflow" / "Snakefile").is_file():
            raise EmosafeError(f"emosafe {command}", "needs a checkout, with its notebooks", "clone the repository")
        sys.path.insert(0, str(checkout))
    return importlib.import_module(module)


def run_unoptimized(arguments: list[str]) -> None:
    """Become the same command without PYTHONOPTIMIZE, for which nobody here asked: it takes the assertions out of a
    notebook, and transformers cannot be imported without its docstrings.
    """
    os.environ.pop("PYTHONOPTIMIZE", None)
    os.execv(sys.executable, [sys.executable, "-m", "emosafe_lib.cli", *arguments])


def tell(line: str) -> None:
    """A line for people; where standard error is closed, `print` would put it among the results."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def settle_output() -> None:
    """Put out what waits for standard output; what cannot be goes nowhere, or Python would try once more at its end and
    report a traceback.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: list[str] | None = None) -> int:
    """Run `emosafe COMMAND ...`; 2 and one line where the command is unknown, 1 and one line on an expected failure,
    130 after Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if sys.flags.optimize:
        run_unoptimized(given)
    try:
        status = run(given)
        if sys.stdout is not None:
            sys.stdout.flush()  # output that is lost is a failure
        return status
    except EmosafeError as error:
        tell(f"error: {error}")
        return 1
    except ModuleNotFoundError as absent:
        if (absent.name or "").split(".")[0] in ("", "emosafe_lib", "workflow"):
            raise
        remedy = "in a checkout run `pip install -e '.[study]'`"
        tell(f"error: emosafe {given[0]}: needs {absent.name}, which is not installed; {remedy}")
        return 1
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has enough of it
        return 1
    except OSError as error:
        if error.errno not in SURROUNDINGS:  # it may be ours, and shows where
            raise
        place = Path(error.filename).name if error.filename else "a file"
        tell(f"error: {place}: {error.strerror}; free space, or let it be written")
        return 1
    finally:
        settle_output()


def run(given: list[str]) -> int:
    """The status of a command; 2 where nobody knows it. What was given is not shown: it may be a message."""
    if not given or given[0] in ("-h", "--help"):
        print("\n".join(["usage: emosafe COMMAND ...", *(f"  {name:10}{of[1]}" for name, of in COMMANDS.items())]))
        return 0
    if given[0] not in COMMANDS:
        tell(f"emosafe: no such command; use one of {', '.join(COMMANDS)}")
        return 2
    return module_of(given[0]).main(given[1:])


if __name__ == "__main__":
    sys.exit(main())
