"""The errors that end a training run, and their messages for people."""

import errno
from pathlib import Path

from db.datasets.slices import DatasetError
from db.storage import FileDamaged, FileMissing
from training.config import ConfigError

MAX_WEIGHTS_BYTES = 1 << 30  # ResNet50's weights have 100 MB, or 300 MB with the state of an optimiser


class Cancelled(Exception):
    """The run was cancelled, and keeps nothing."""


class RunFailed(Exception):
    """The run cannot go on. The message says why, and what to do."""


class NotRepeatable(RunFailed):
    """Runs of this process do not repeat bit for bit."""


class Diverged(RunFailed):
    """The loss or a weight became NaN. `when`: the epoch and the step. `rate`: the learning rate of the stage."""

    def __init__(self, stage: str, when: str, rate: float) -> None:
        super().__init__(
            f"the loss or a weight is not a number any more (stage {stage}, {when}); "
            f"lower the learning rate with the setting stages.{stage}.rate={rate / 10:g}"
        )


class NoRoom(RunFailed):
    """The disk is too small for the features of a stage. `copies`: how many would fit.

    `needed`, `free`: bytes; the reserve is not counted as free. `problem`: what is wrong, without what to do.
    """

    def __init__(self, stage: str, folder: Path, *, needed: int, free: int, copies: int) -> None:
        fewer = f"keep fewer copies (setting stages.{stage}.copies={copies}), or " if copies else ""
        self.problem = (
            f"the frozen layers of stage {stage} need {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are"
            " free besides the reserve (CTBATCH_RESERVE_BYTES)"
        )
        super().__init__(f"{self.problem}; {fewer}make room there, or set CTBATCH_HOME to a folder on a larger disk")


class WeightsError(RunFailed):
    """A file cannot be used as initial weights. `problem`: the sentence that follows the name of the file."""

    def __init__(self, file: Path | str, problem: str) -> None:
        super().__init__(f"{file} {problem}")
        self.problem = problem


class WeightsTooLarge(WeightsError):
    """The file is larger than initial weights can be."""


def is_full_disk(error: Exception) -> bool:
    """Return whether an error says that a disk is full, or too full for the features of a stage."""
    return isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


def message_for_waiting(error: Exception) -> str:
    """Return in one line, for people, why a run waits for a full disk, and what to do."""
    problem = error.problem if isinstance(error, NoRoom) else "the disk is full"
    return f"{problem}; make room on it, and the run goes on from its checkpoint"


def message_for(error: Exception) -> str:
    """Return in one line, for people, what ended a run and what to do."""
    if isinstance(error, WeightsError):  # the path in storage means nothing to people
        return f"the weights file {error.problem}"
    if isinstance(error, RunFailed | ConfigError | DatasetError):
        return str(error)
    if isinstance(error, FileMissing | FileDamaged):
        return f"a file of the dataset, the weights or the checkpoint is gone or damaged: {error}"
    if isinstance(error, MemoryError):
        return "there was not enough memory; lower the batch size with the setting stages.NAME.batch=16"
    if is_full_disk(error):
        return (
            "the disk is full: make room on it, keep fewer augmented copies (setting stages.NAME.copies=1), or set "
            "CTBATCH_HOME to a folder on a larger disk"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or 'a file of this run'}"
    return f"{type(error).__name__}: {error}"
