"""What ends a training run, and the line about it that people read."""

import errno
from pathlib import Path

from db.datasets.slices import DatasetError
from db.storage import FileDamaged, FileMissing
from training.config import ConfigError

MAX_WEIGHTS_BYTES = 1 << 30  # ResNet50's weights take 100 MB, with an optimiser's state three times as much


class Cancelled(Exception):
    """The run was asked to end and to keep nothing."""


class RunFailed(Exception):
    """The run cannot reach its end. The message says why, and what to do."""


class NotRepeatable(RunFailed):
    """Runs of this process do not repeat bit for bit."""


class Diverged(RunFailed):
    """The loss or a weight is not a number any more. `when`: the epoch and step; `rate`: the stage's learning rate."""

    def __init__(self, stage: str, when: str, rate: float) -> None:
        super().__init__(
            f"the loss or a weight is not a number any more (stage {stage}, {when}); "
            f"lower the learning rate: --set stages.{stage}.rate={rate / 10:g}"
        )


class NoRoom(RunFailed):
    """The disk is too small for the features of a stage. `needed` and `free`: bytes; `copies`: how many would fit."""

    def __init__(self, stage: str, folder: Path, *, needed: int, free: int, copies: int) -> None:
        fewer = f"keep fewer copies (--set stages.{stage}.copies={copies}), or " if copies else ""
        super().__init__(
            f"the frozen layers of stage {stage} need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are"
            f" free; {fewer}make room there, or set CTBATCH_HOME to a folder on a larger disk"
        )


class WeightsError(RunFailed):
    """A file cannot be initial weights. `problem` is the rest of a sentence that begins with the file's name."""

    def __init__(self, file: Path | str, problem: str) -> None:
        super().__init__(f"{file} {problem}")
        self.problem = problem


class WeightsTooLarge(WeightsError):
    """The file has more bytes than initial weights can have."""


def is_full_disk(error: Exception) -> bool:
    """Return whether an error says that a disk has no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def message_for(error: Exception) -> str:
    """Return one line for people: what ended a run, and what to do."""
    if isinstance(error, WeightsError):  # people do not know the file by its path in storage
        return f"the weights file {error.problem}"
    if isinstance(error, RunFailed | ConfigError | DatasetError):
        return str(error)
    if isinstance(error, FileMissing | FileDamaged):
        return f"a file of the dataset, the weights or the checkpoint is gone or damaged: {error}"
    if isinstance(error, MemoryError):
        return "there was not enough memory; lower the batch size: --set stages.NAME.batch=16"
    if is_full_disk(error):
        return (
            "the disk is full: make room on it, keep fewer augmented copies (--set stages.NAME.copies=1), or set "
            "CTBATCH_HOME to a folder on a larger disk"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'a file of this run'}"
    return f"{type(error).__name__}: {error}"
