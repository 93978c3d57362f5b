"""The reports of training while it runs, and the checkpoints with which it continues after an interruption."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from db.training.progress import EpochRecord

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """The present position of training. `stage`, `epoch` and `step` are counted from 0.

    `stages`, `epochs`, `steps`: how many there are. `loss`: the mean of the epoch so far. `rate`: slices/s.
    """

    stage: int
    stages: int
    stage_name: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    rate: float | None
    message: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """All values that training needs to continue after an epoch as if nothing had happened.

    `arrays`: by name. `network`: the weights with which the stage began. `network_stage`: the stage that left them, or
    None for the initial weights. `loss_before`: the validation loss that the stage must improve.
    """

    stage: int
    epoch: int
    history: list[EpochRecord]
    best_epoch: int
    loss_before: float | None
    arrays: dict[str, Arrays]
    network: Arrays
    network_stage: int | None = None


class TrainingObserver:
    """Receives the reports of training. This base class ignores them. Any method may raise an error to end the run."""

    def step(self, at: Step) -> None:
        """Receive the report of a finished step."""

    def alive(self) -> None:
        """Receive a sign that the work goes on. This is called now and then while there is nothing else to report."""

    def epoch(self, record: EpochRecord) -> None:
        """Receive the record of a finished epoch."""

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """Store a checkpoint after an epoch, if wanted. `make()` returns the checkpoint, but copies the weights."""

    def ended_early(self) -> None:
        """Receive the report that a stop ended training before its last epoch."""

    def stopped(self) -> bool:
        """Return whether to stop training now, and keep what it has learned (see `config.Stage.keep`)."""
        return False
