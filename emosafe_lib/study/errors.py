"""The one error type of the package, so that every failure reads the same way.

A person who meets an error needs three things: where it is (a file, a row, a key), which rule was broken, and
what to do next. They need it in one line, and that line must never carry message text or a secret, because it
ends up in logs and in rendered notebooks.
"""

import errno

# What the operating system refuses without anybody's bug: a full or read-only disk, a file that may not be written.
SURROUNDINGS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class EmosafeError(Exception):
    """An expected failure: `where: what; remedy`, always one line.

    Parameters
    ----------
    where : the file, row, key or stage concerned, never a message's text
    what : the rule that was broken, with the offending value only where that value is harmless
    remedy : what the reader can do about it
    """

    def __init__(self, where: object, what: str, remedy: str):
        self.where, self.what, self.remedy = str(where), what, remedy
        super().__init__(" ".join(f"{where}: {what}; {remedy}".split()))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback: the frames of a library say nothing about a missing file."""
        return [f"{type(self).__name__}: {self}"]


class SourceError(EmosafeError):
    """A raw source is missing, changed or malformed."""


class MergeError(EmosafeError):
    """The merge met rows that it must not accept."""


class AugmentationError(EmosafeError):
    """The chat API, its journal or its caps stopped an augmentation."""


class PromptError(EmosafeError):
    """A prompt cannot be built as declared."""


class ModelError(EmosafeError):
    """A model, tokenizer or adapter is absent, damaged or does not fit."""


class ServerError(AugmentationError, ModelError):
    """A chat server, its address or its key cannot be used, whichever of its two users asked."""


class TrainingError(EmosafeError):
    """Training stopped: a loss that is not finite, masked labels, exhausted memory."""


class PredictionError(EmosafeError):
    """Prediction files disagree with the rows, with each other or with their schema."""


class ParameterError(EmosafeError):
    """A parameter file breaks the schema."""


class StageError(EmosafeError):
    """A stage is out of order, stale, or did not really finish."""
