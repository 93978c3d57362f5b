"""What training reports while it runs, and what it needs to go on after an interruption."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from db.training.progress import EpochRecord

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """Where training stands. `stage`, `epoch` and `step` count from 0.

    `stages`, `epochs`, `steps`: how many there are. `loss`: that of the epoch so far. `rate`: slices/s.
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
    """Enough to go on after an epoch as if nothing had happened.

    `arrays`: by name. `network`: the weights with which the stage began. `loss_before`: the validation loss
    that the stage must beat.
    """

    stage: int
    epoch: int
    history: list[EpochRecord]
    best_epoch: int
    loss_before: float | None
    arrays: dict[str, Arrays]
    network: Arrays


class TrainingObserver:
    """Receives reports of training; this base class ignores them. Any method may raise to end the run."""

    def step(self, at: Step) -> None:
        """Take note of a finished step."""

    def alive(self) -> None:
        """Take note that the work goes on; called now and then while there is nothing else to report."""

    def epoch(self, record: EpochRecord) -> None:
        """Take note of a finished epoch."""

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """Keep a checkpoint after an epoch, if wanted. `make()` returns it, at the cost of a copy of the weights."""

    def ended_early(self) -> None:
        """Take note that a stop ended training before its last epoch."""

    def stopped(self) -> bool:
        """Return whether to end training now and keep what it has learned, as `config.Stage.keep` says."""
        return False
