"""The ways to run one exported classifier here: PyTorch in fp32 or bf16, ONNX in fp32 or int8, and how they compare."""

import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import bootstrap, metrics, predictions
from emosafe_lib.models import close_calls
from emosafe_lib.models.batching import Encoded, encode
from emosafe_lib.models.classifier import logits_of
from emosafe_lib.models.precision import half_precision
from emosafe_lib.models.seals import read_seal
from emosafe_lib.ondevice import trials
from emosafe_lib.ondevice.exported import load_exported
from emosafe_lib.ondevice.exports import MIXED, ONNX_FILES, RUNTIMES, WEIGHTS
from emosafe_lib.ondevice.onnx_classifier import OnnxClassifier
from emosafe_lib.ondevice.task_classifier import TaskClassifier
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.optional import missing, optional
from emosafe_lib.study.taxonomy import TASKS

TIMED_ROWS, TIMED_PASSES = 128, 5


def rates(parts: dict, texts: list[str]) -> dict[str, float]:
    """Rows per second of each of a task's runtimes, tokenizing included: the median of `TIMED_PASSES` over `TIMED_ROWS`
    texts at most, after one to warm up. The runtimes take turns, so that a busy second falls on all of them.
    """
    timed, seconds = texts[:: -(-len(texts) // TIMED_ROWS)], {runtime: [] for runtime in parts}
    for _ in range(1 + TIMED_PASSES):
        for runtime, part in parts.items():
            started = time.perf_counter()
            part.probabilities(timed)
            seconds[runtime].append(time.perf_counter() - started)
    return {runtime: len(timed) / float(np.median(taken[1:])) for runtime, taken in seconds.items()}


def compare_runtimes(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """An export's runtimes on the same rows: size, speed, and whether they still say what PyTorch says.

    Parameters
    ----------
    folder : an export, which may lack its ONNX files
    rows : labelled rows, such as the test split

    Returns
    -------
    one row a task and runtime: task, runtime, file_mb, rows_per_second (see `rates`), agreement (share of rows with the
    label, or the whole set of labels, that PyTorch gives), largest_difference (between probabilities), macro_f1, rows,
    basis ("measured" or "not measured"), reason (why not); a runtime that fails here has nothing but these last two

    Raises
    ------
    ModelError : PyTorch, with which the others are compared, cannot read the export
    """
    truth, found, texts = metrics.truth_of(rows), [], rows["text"].tolist()
    for task in (task for task in TASKS if (Path(folder) / task).is_dir()):
        parts, answers = {}, {}
        for runtime in RUNTIMES:
            # Each is optional but PyTorch's own in fp32, with which the others are compared.
            with nullcontext() if runtime == "torch" else optional("runtime", f"{runtime}, {task}"):
                refuse_unable(runtime)
                parts[runtime] = open_task(Path(folder) / task, runtime)
                answers[runtime] = finite_chances(parts[runtime], texts)
        speeds = rates({runtime: parts[runtime] for runtime in answers}, texts)
        for runtime, chances in answers.items():
            facts = compared(task, parts[runtime], (chances, answers["torch"]), rows, truth)
            found.append(facts | {"rows_per_second": round(speeds[runtime], 1), "basis": "measured", "reason": ""})
        for runtime in [each for each in RUNTIMES if each not in answers]:
            why = missing["runtime", f"{runtime}, {task}"]
            found.append({"task": task, "runtime": runtime, "basis": "not measured", "reason": why})
    return pd.DataFrame(found, columns=COMPARED)


def finite_chances(part: TaskClassifier, texts: list[str]) -> np.ndarray:
    """Probabilities of all texts; ModelError where one is not finite."""
    chances, _ = part.probabilities(texts)
    if not np.isfinite(chances).all():
        raise ModelError(part.path, "gives answers that are not finite", "use another runtime")
    return chances


def compared(task: str, part: TaskClassifier, chances: tuple, rows: pd.DataFrame, truth) -> dict:
    """How one runtime's probabilities, the first of `chances`, compare with PyTorch's, the second; see
    `compare_runtimes`.
    """
    fitted = part.fitted.get("thresholds")
    own, plain = (predictions.make(rows["id"], task, "fine-tuned", each, thresholds=fitted) for each in chances)
    same = [set(a) == set(b) for a, b in zip(plain["label"], own["label"], strict=True)]
    return {
        "task": task,
        "runtime": part.runtime,
        "file_mb": round(part.path.stat().st_size / 2**20, 2),
        "agreement": round(float(np.mean(same)), 4),
        "largest_difference": round(float(np.abs(chances[0] - chances[1]).max()), 6),
        "macro_f1": bootstrap.scores(truth, metrics.align(own, truth))["macro_f1", ""],
        "rows": len(rows),
    }


def refuse_unable(runtime: str) -> None:
    """Raise ModelError where a trial has shown that a runtime is no good on this machine."""
    if runtime == MIXED and not half_precision():
        raise ModelError(runtime, trials.SLOW_BF16, "use the torch runtime")
    if runtime in ONNX_FILES and (why := trials.onnx()):
        raise ModelError(runtime, why, "use the torch runtime")


COMPARED = "task runtime file_mb rows_per_second agreement largest_difference macro_f1 rows basis reason".split()


class TorchClassifier(TaskClassifier):
    """One task in PyTorch, in fp32 or in `MIXED`.

    Raises
    ------
    ModelError : the folder is not an export, its files are damaged, or it records no bound for bf16
    """

    def __init__(self, folder: Path, runtime: str):
        self.network, self.tokenizer, facts = load_exported(folder)
        super().__init__(folder, runtime, facts)
        self.rough, self.bound = None, facts.get("bf16", {}).get("bound")
        if runtime == MIXED:
            if self.bound is None:
                raise ModelError(
                    folder, "records no bound for bf16", "export it where bf16 runs, or use the torch runtime"
                )
            self.rough = close_calls.in_bf16(self.network)

    def tokens_of(self, texts: list[str]) -> Encoded:
        return encode(self.tokenizer, texts, self.fitted["max_length"])

    def raw_logits(self, encoded: Encoded) -> np.ndarray:
        return logits_of(self.network, self.tokenizer, encoded, self.tokens_per_batch)

    def logits(self, encoded: Encoded) -> np.ndarray:
        def exact(chosen: Encoded) -> np.ndarray:
            return TaskClassifier.logits(self, chosen)

        if self.rough is None:
            return exact(encoded)
        offset = np.array(self.fitted["log_weights"])
        rough = logits_of(self.rough, self.tokenizer, encoded, self.tokens_per_batch) - offset
        close = close_calls.margins(rough, self.fitted.get("thresholds")) <= self.bound
        if self.alarm is not None:
            close |= close_calls.alarm_margins(rough, self.fitted["temperature"], self.alarm) <= self.bound
        return close_calls.rescored(rough, close, encoded, exact)


def open_task(folder: Path, runtime: str = "") -> TaskClassifier:
    """One task of an export in one of `RUNTIMES`; where none is named, in the one that gives PyTorch's labels here and
    starts soonest: the fp32 ONNX graph, else `MIXED`, else PyTorch in fp32.

    Raises
    ------
    ModelError : the folder is not an export of this runtime, or its files are damaged
    """
    if not runtime:
        facts = read_seal(folder, unread=WEIGHTS)
        if ONNX_FILES["onnx"] in facts["files"]:
            runtime = "onnx"
        else:
            runtime = MIXED if half_precision() and "bf16" in facts else "torch"
    return (OnnxClassifier if runtime in ONNX_FILES else TorchClassifier)(Path(folder), runtime)
