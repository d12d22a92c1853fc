"""One task's exported network: texts in, probabilities out. A runtime says how tokens and logits are made.

The answer is a function of the message: whoever is read beside it changes no digit that is shown, unless by the rounding of
sums in fp32 or bf16 (see `runtimes` and `onnx_classifier`).
"""

from pathlib import Path

import numpy as np

from emosafe_lib.evaluation.calibration import apply_temperature
from emosafe_lib.models.batching import Encoded
from emosafe_lib.ondevice.exports import MOST_LOGIT, one_line, weights_of


class TaskClassifier:
    """What the runtimes share: a task, what was fitted for it on validation rows, and probabilities from logits."""

    # Small batches stay in a processor's cache: MiniLM in bf16 reads a sixth more rows a second than with 2048 tokens.
    tokens_per_batch = 512

    def __init__(self, folder: Path, runtime: str, facts: dict):
        self.path, self.runtime = Path(folder) / weights_of(runtime), runtime
        self.task, self.fitted, self.name = facts["task"], facts["fitted"], facts["model"]
        self.curve, self.alarm = facts.get("alarms"), None  # of levels: where an alarm can begin, and where it does
        # equal where two tasks read the same tokens
        self.reads = (
            facts["files"]["tokenizer.json"],
            facts["files"]["tokenizer_config.json"],
            self.fitted["max_length"],
        )

    def encode(self, texts: list[str]) -> Encoded:
        """The texts' tokens, at most `max_length` each.

        Raises
        ------
        ModelError : the tokenizer fails, as one may that was read without complaint
        """
        with one_line(self.path.parent, "holds a tokenizer that fails"):
            return self.tokens_of(texts)

    def tokens_of(self, texts: list[str]) -> Encoded:
        """What `encode` returns, without a word about what a tokenizer raises."""
        raise NotImplementedError

    def raw_logits(self, encoded: Encoded) -> np.ndarray:
        """What the network answers, (n, 3) or (n, 6), with the weights that training put on labels."""
        raise NotImplementedError

    def logits(self, encoded: Encoded) -> np.ndarray:
        """Logits without the weights that training put on labels, (n, 3) or (n, 6)."""
        return self.raw_logits(encoded) - np.array(self.fitted["log_weights"])

    def chances(self, encoded: Encoded) -> np.ndarray:
        """Probabilities (n, 3) or (n, 6); a row is NaN where a logit is no number or beyond `MOST_LOGIT`.

        Levels are calibrated by a temperature. Categories are as the sigmoid gives them without the weights of training;
        what was fitted for them is the threshold.
        """
        logits = self.logits(encoded)
        logits = np.where((np.abs(logits) < MOST_LOGIT).all(axis=1, keepdims=True), logits, np.nan)
        if self.task == "safety":
            return apply_temperature(logits, self.fitted["temperature"])
        return 1 / (1 + np.exp(-logits.clip(-500, 500)))

    def probabilities(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (n, 3) or (n, 6), and which texts were cut at the end, (n,)."""
        encoded = self.encode(texts)
        return self.chances(encoded), encoded.truncated
