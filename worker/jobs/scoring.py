"""Runs an engine on prepared slices. If it fails, finds out whether the slices or the engine are to blame."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from db.ledger.predictions import PredictedSlice, cam_bytes
from db.registry.calibration import calibration_of, limit_of
from db.timing.stages import Stage, shared_time
from worker.engines.interface import Engine, Scores
from worker.engines.package import probability
from worker.heartbeat import Heartbeat
from worker.imaging.recipe import SIDE
from worker.jobs.loaded_engines import EngineUnavailable, Loaded


class EngineError(Exception):
    """The engine failed on these slices."""


def score(loaded: Loaded, slices: NDArray[np.uint8], heartbeat: Heartbeat) -> list[PredictedSlice]:
    """Score all slices, uint8[n, 224, 224], one batch of the engine at a time. The scores have no slice ids yet.

    Raises EngineError, EngineUnavailable.
    """
    scores: list[PredictedSlice] = []
    size = loaded.engine.batch_size
    for start in range(0, len(slices), size):
        batch = slices[start : start + size]
        try:
            with shared_time(Stage.ENGINE, len(batch)):
                batch_scores = loaded.engine.predict(batch)
        except Exception as error:
            _check(loaded.engine)
            raise EngineError(f"{loaded.engine.name} on {len(batch)} slices") from error
        if not np.isfinite(batch_scores.logit).all():
            _check(loaded.engine)
            raise EngineError(f"{loaded.engine.name} gave a score that is not a number")
        scores += _scored(loaded, batch_scores)
        heartbeat.progress()
    return scores


def _check(engine: Engine) -> None:
    """Raise EngineUnavailable if an engine that has failed also fails on a black slice."""
    try:
        black = engine.predict(np.zeros((1, SIDE, SIDE), np.uint8))
    except Exception as error:
        raise EngineUnavailable(f"{engine.name} fails on a black slice too") from error
    if not np.isfinite(black.logit).all():
        raise EngineUnavailable(f"{engine.name} does not give a number for a black slice either")


def _scored(loaded: Loaded, scores: Scores) -> Iterator[PredictedSlice]:
    """Yield the scores of a batch in the form in which they are recorded, but without slice ids yet."""
    package = loaded.package
    temperature, threshold = calibration_of(package, loaded.engine.name)
    chances = probability(scores.logit, temperature)
    limit = limit_of(package.ood, loaded.engine.name)
    for i, (logit, p, cam) in enumerate(zip(scores.logit, chances, scores.cam, strict=True)):
        distance = None if scores.distance is None else float(scores.distance[i])
        ood = None if distance is None or limit is None else distance > limit
        yield PredictedSlice(0, float(logit), float(p), bool(p >= threshold), cam_bytes(cam), distance, ood)
