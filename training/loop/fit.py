"""Trains a network stage by stage. Training can be observed, stopped and resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.training.progress import EpochRecord
from training.config import Config
from training.data.slices import Data
from training.loop.observer import Checkpoint, TrainingObserver
from training.loop.stage import Fitting
from training.loop.stage_data import check_later_stages
from training.network.backend import memory_errors


@dataclass(frozen=True)
class Fitted:
    """The result of training: all epochs in order, and the stage whose weights the network has.

    `stage`: its index, or None if the network has its initial weights.
    """

    history: list[EpochRecord]
    stage: int | None


@memory_errors()
def fit(
    network: Any,
    config: Config,
    data: Data,
    *,
    seed: int,
    folder: Path,
    observer: TrainingObserver | None = None,
    resume: Checkpoint | None = None,
) -> Fitted:
    """Train `network` (uint8[n,224,224,1] to logit and cam) in place.

    Each stage leaves its best or its last weights in the network. `Fitting.run` describes a stage without progress.
    `folder` is for the features of frozen layers during a stage. If the features of a later stage do not fit on its
    disk, nothing is trained.

    Raises Diverged, NoRoom, MemoryError, and what the observer raises.
    """
    observer = observer or TrainingObserver()
    history = list(resume.history) if resume else []
    kept = resume.network_stage if resume else None
    first = resume.stage if resume else 0
    if not observer.stopped():
        check_later_stages(network, config, first, data, folder)
    for index in range(first, len(config.stages)):
        at = resume if resume and resume.stage == index else None
        if at:
            network.set_weights(at.network)
        fitting = Fitting(network, config, index, data, seed, folder, observer, history, kept)
        is_complete = fitting.run(at)
        kept = fitting.network_stage
        if observer.stopped():
            if not is_complete or index + 1 < len(config.stages):
                observer.ended_early()
            break
    return Fitted(history, kept)
