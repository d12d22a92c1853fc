"""An exported classifier read by onnxruntime, tokenizers and numpy alone: what `emosafe classify` starts with.

fp32 rows share batches. The int8 graph takes one scale per product from all rows that are read together, so that a
message's answer would hang on its company: there each row is read by itself, and the processor's cores share the rows.
"""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np

from emosafe_lib.models.batching import STARTS, Encoded, budget_batches, start_token
from emosafe_lib.models.seals import read_object
from emosafe_lib.ondevice.exports import REMEDY, one_line, read_facts
from emosafe_lib.ondevice.task_classifier import TaskClassifier
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.memory import give_back

SMALL = "onnx-int8"  # what a small device reads
INPUTS = ("input_ids", "attention_mask")
# The name under which an ONNX file says that weights lie in another file, whose path it chooses; ours hold their own.
ELSEWHERE = b"location"


def threads() -> int:
    """How many batches are read at once: OMP_NUM_THREADS, or the cores that this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(told)) if told.isdecimal() else cores


@cache
def readers() -> ThreadPoolExecutor:
    """The threads that share batches; onnxruntime works outside of Python's lock."""
    return ThreadPoolExecutor(threads(), thread_name_prefix="reader")


class Tokens:
    """A tokenizer as it lies in an export, read by `tokenizers` alone; it gives what transformers would give.

    Raises
    ------
    ModelError : damaged, or without a token for padding
    """

    def __init__(self, folder: Path, max_length: int):
        import tokenizers

        config = read_object(folder / "tokenizer_config.json", REMEDY)
        with one_line(folder / "tokenizer.json", "is no tokenizer"):
            self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.encode_special_tokens = True  # a control token spelled out in a text is data
            self.tokenizer.no_padding()
            side = "left" if config.get("truncation_side") == "left" else "right"
            self.tokenizer.enable_truncation(max_length, direction=side)
            special = {name: self.id_of(config.get(f"{name}_token")) for name in STARTS}
            self.largest = max(self.tokenizer.get_vocab().values())
        if special["pad"] is None:
            raise ModelError(folder / "tokenizer_config.json", "names no token for padding", REMEDY)
        self.max_length, self.pad, self.left = max_length, special["pad"], config.get("padding_side") == "left"
        self.start = start_token(*special.values())

    def id_of(self, token: object) -> int | None:
        """The id of a special token, which stands as a text or as an object with its content; None where there is none."""
        content = token.get("content") if isinstance(token, dict) else token
        return self.tokenizer.token_to_id(content) if isinstance(content, str) else None

    def encode(self, texts: list[str]) -> Encoded:
        """The texts' tokens, the end cut off; a text of none gets one, as a network needs."""
        found = self.tokenizer.encode_batch(list(texts))
        cut = np.array([bool(each.overflowing) for each in found], dtype=bool)
        return Encoded([each.ids or [self.start] for each in found], cut)

    def padded(self, rows: list[list[int]]) -> dict[str, np.ndarray]:
        """Token ids and their mask, both (rows, tokens) int64."""
        longest = max(map(len, rows))
        ids, mask = np.full((len(rows), longest), self.pad, np.int64), np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), None) if self.left else slice(len(row))
            ids[number, place], mask[number, place] = row, 1
        return dict(zip(INPUTS, (ids, mask), strict=True))


class OnnxNetwork:
    """An ONNX classifier on one CPU thread: a padded batch in, logits (n, labels) out; several threads may call it.

    Raises
    ------
    ModelError : no graph, one whose weights lie elsewhere, or one with other inputs and outputs than a classifier's
    """

    def __init__(self, path: Path):
        self.session = open_graph(path)
        inputs = {each.name: (each.type, len(each.shape)) for each in self.session.get_inputs()}
        outputs = [(each.name, each.type) for each in self.session.get_outputs()]
        if inputs != dict.fromkeys(INPUTS, ("tensor(int64)", 2)) or outputs != [("logits", "tensor(float)")]:
            raise ModelError(path, "has other inputs or outputs than a classifier's", REMEDY)

    def __call__(self, inputs: dict) -> np.ndarray:
        return self.session.run(None, {name: np.asarray(inputs[name]) for name in INPUTS})[0].astype(np.float64)


def open_graph(path: Path, joined: Path | None = None):
    """A graph in onnxruntime, on one thread and in silence. Where a path is given, the graph is written there with its
    operations joined, by rules that hang on no processor. Else it is taken as it is: exports hold joined graphs, and
    joining at each start would take as long as loading.

    Raises
    ------
    ModelError : no graph that onnxruntime can run, or one whose weights lie elsewhere
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise
    except ImportError:  # as where a library of the system is too old for it
        raise ModelError(path, "needs onnxruntime, which cannot be loaded here", "install it again") from None

    onnxruntime.set_default_logger_severity(4)  # what it would print names nodes and shapes, over several lines
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with one_line(path, "is no graph that onnxruntime can run"):
        if holds(path, ELSEWHERE):
            raise ModelError(path, "has weights in another file", REMEDY)
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
        if joined:
            options.graph_optimization_level, options.optimized_model_filepath = levels.ORT_ENABLE_EXTENDED, str(joined)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def holds(path: Path, word: bytes) -> bool:
    """Whether a file holds a word; its bytes are not copied."""
    if not path.stat().st_size:
        return False
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def try_out(answer: Callable, labels: int, max_length: int, vocabulary: int, where: Path) -> None:
    """Let a network answer once before anybody asks it: to the longest message, to padding, to the last token.

    Parameters
    ----------
    answer : token ids, a list a row, to logits (rows, labels)
    vocabulary : how many tokens there are

    Raises
    ------
    ModelError : it fails, or gives another shape, what is not finite, or the same to whatever it reads
    """
    ids = [[(5 * number) % vocabulary for number in range(max_length - 1)] + [vocabulary - 1], [vocabulary - 1]]
    with one_line(where, "is a network that fails"):
        found = [np.asarray(answer(rows)) for rows in (ids[:1], [ids[1], ids[1] * 2])]
    if [each.shape for each in found] != [(1, labels), (2, labels)]:
        raise ModelError(where, "has a head for other labels", REMEDY)
    if not all(np.isfinite(each).all() for each in found):
        raise ModelError(where, "gives answers that are not finite", REMEDY)
    if np.array_equal(found[0][0], found[1][0]):
        raise ModelError(where, "gives the same answer to whatever it reads", REMEDY)


class SharedTokens:
    """The tokenizers of an export's tasks, one for all that read alike; tasks may be opened side by side."""

    def __init__(self):
        self.found, self.lock = {}, Lock()

    def of(self, classifier: TaskClassifier, folder: Path) -> Tokens:
        """What a classifier in this folder reads by."""
        with self.lock:
            if classifier.reads not in self.found:
                self.found[classifier.reads] = Tokens(folder, classifier.fitted["max_length"])
            return self.found[classifier.reads]


class OnnxClassifier(TaskClassifier):
    """One task in an ONNX runtime.

    Raises
    ------
    ModelError : the folder is not an export of this runtime, or its files are damaged
    """

    def __init__(self, folder: Path, runtime: str, shared: SharedTokens | None = None):
        folder = Path(folder)
        facts = read_facts(folder, runtime)
        super().__init__(folder, runtime, facts)
        self.tokens = (shared or SharedTokens()).of(self, folder)
        self.network, self.apart = OnnxNetwork(self.path), runtime == SMALL
        give_back()  # the file as it was read, or the next one's bytes would come on top
        counts = len(facts["labels"]), self.fitted["max_length"], self.tokens.largest + 1
        try_out(self.answer, *counts, self.path)

    def answer(self, rows: list[list[int]]) -> np.ndarray:
        """Logits of some rows of tokens, read together."""
        return self.network(self.tokens.padded(rows))

    def tokens_of(self, texts: list[str]) -> Encoded:
        return self.tokens.encode(texts)

    def raw_logits(self, encoded: Encoded) -> np.ndarray:
        alone = [[row] for row in range(len(encoded.ids))]
        batches = alone if self.apart else budget_batches(encoded.lengths, self.tokens_per_batch)
        work = [[encoded.ids[row] for row in batch] for batch in batches]
        with one_line(self.path, "is a network that fails"):
            answers = list(readers().map(self.answer, work) if len(work) > 1 else map(self.answer, work))
        found = np.concatenate(answers)
        return found[np.argsort(np.concatenate(batches))]


def open_tasks(folder: Path, tasks: tuple[str, ...], runtime: str) -> dict[str, OnnxClassifier]:
    """The tasks of an export: side by side, or in int8 one after the other, since two files being read take most memory.

    Raises
    ------
    ModelError : as for `OnnxClassifier`
    """
    shared = SharedTokens()
    if runtime == SMALL:
        return {task: OnnxClassifier(folder / task, runtime, shared) for task in tasks}
    opened = {task: readers().submit(OnnxClassifier, folder / task, runtime, shared) for task in tasks}
    wait(opened.values())  # whoever bounds this process' memory does it for this call: no reader may outlive it
    return {task: part.result() for task, part in opened.items()}
