"""What training reports while it runs, and what it needs to go on after an interruption."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from db.training.progress import EpochRecord

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """Where training stands: stage, epoch and step from 0, of how many; the epoch's loss so far, slices/s."""

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
    """Enough to go on after an epoch as if nothing had happened.

    `arrays` by name; `network` as the stage began. `loss_before`: the validation loss that the stage must beat.
    """

    stage: int
    epoch: int
    history: list[EpochRecord]
    best_epoch: int
    loss_before: float | None
    arrays: dict[str, Arrays]
    network: Arrays


class TrainingObserver:
    """Hears how training goes; this one does nothing. Any method may raise to end the run at once."""

    def step(self, at: Step) -> None:
        """Hear of a step that is done."""

    def alive(self) -> None:
        """Hear that the work goes on, now and then while there is nothing else to report."""

    def epoch(self, record: EpochRecord) -> None:
        """Hear of an epoch that is done."""

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """Keep a checkpoint after an epoch, if wanted: `make()` gives it, and costs a copy of the weights."""

    def ended_early(self) -> None:
        """Hear that a stop ended training before its last epoch."""

    def stopped(self) -> bool:
        """Return whether to end training now and keep what it has learned, as `config.Stage.keep` says."""
        return False
