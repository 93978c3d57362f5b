"""Trains a network stage by stage. Training can be observed, stopped and resumed."""

from pathlib import Path
from typing import Any

from db.training.progress import EpochRecord
from training.config import Config
from training.data.slices import Data
from training.loop.observer import Checkpoint, TrainingObserver
from training.loop.stage import Fitting
from training.network.backend import memory_errors


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
) -> list[EpochRecord]:
    """Train `network` (uint8[n,224,224,1] to logit and cam) in place, and return all epochs in order.

    Each stage leaves its best or its last weights in the network. `folder` is for the features of frozen layers during
    a stage.

    Raises Diverged, NoRoom, MemoryError, and what the observer raises.
    """
    observer = observer or TrainingObserver()
    history = list(resume.history) if resume else []
    for index in range(resume.stage if resume else 0, len(config.stages)):
        at = resume if resume and resume.stage == index else None
        if at:
            network.set_weights(at.network)
        is_complete = Fitting(network, config, index, data, seed, folder, observer, history).run(at)
        if observer.stopped():
            if not is_complete or index + 1 < len(config.stages):
                observer.ended_early()
            break
    return history
