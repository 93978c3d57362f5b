"""Evaluations carried out: the scores of a model version on labelled slices, their figures, and who is better."""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import OperationalError

from db import TRAIN, VALIDATION
from db.database import read_scope, session_scope
from db.datasets.slices import DatasetError, rows_of, without_patient
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.evaluation.gate import floor_of
from db.ledger.leases import Claim
from db.models import Evaluation, ModelVersion
from db.storage import FileDamaged, FileMissing, storage
from training.data.seen_slices import find_known, taught_slices
from training.data.slices import Labelled, load_part
from training.evaluation.metrics import compare, with_intervals
from training.evaluation.site_check import Floors, check_site, count_groups
from worker import claimed
from worker.engines.interface import Engine
from worker.engines.load import EngineUnproven, engine_of
from worker.engines.package import PackageError, calibration_of, limit_of, probability
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

LEARNED_FROM = (TRAIN, VALIDATION)  # the parts that train a version, and that its threshold is chosen on
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ScoredPart:
    """What an engine said of n slices: `logit` float32[n]; `distance` float32[n], or None where it gives none."""

    engine: str
    logit: NDArray[np.float32]
    distance: NDArray[np.float32] | None


def evaluate_next(worker: str, evaluation_id: int | None = None, progress: Progress = lambda fraction: None) -> bool:
    """Claim the oldest evaluation that waits (or the one of this id) and carry it out; False if there is none."""
    with session_scope() as s:
        taken = evaluations.claim(s, worker, evaluation_id)
    if taken is None:
        return False
    evaluation, claim = taken

    def work(heartbeat: Heartbeat) -> None:
        try:
            _carry_out(evaluation, claim, _reporter(claim, heartbeat, progress))
        except KeyboardInterrupt:
            with session_scope() as s:
                evaluations.give_back(s, claim)
            raise

    def fail(error: Exception) -> None:
        log.info("evaluation failed", extra={"evaluation": evaluation.id}, exc_info=error)
        with session_scope() as s:
            evaluations.fail(s, claim, _why(error, evaluation))

    def put_off(_: Exception) -> None:
        with session_scope() as s:
            evaluations.put_off(s, claim)

    claimed.carry_out(Evaluation, [claim], work, fail=fail, put_off=put_off, away=(OperationalError,))
    return True


def _why(error: Exception, evaluation: Evaluation) -> str:
    """One line for people; every user may read it, so it names no path and no server."""
    if isinstance(error, FileMissing | FileDamaged):
        what = f"a file of the dataset {evaluation.dataset.label} or of {evaluation.model_version.label}"
        return f"{what} is gone or damaged: {error}"
    if isinstance(error, EvaluationError | DatasetError | PackageError | EngineUnproven):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}; the evaluation worker's log tells more"


def _reporter(claim: Claim, heartbeat: Heartbeat, progress: Progress) -> Progress:
    notes = claimed.ProgressNotes(heartbeat)

    def told(fraction: float) -> None:
        def write() -> None:
            with session_scope() as s:
                evaluations.report(s, claim, fraction)

        progress(fraction)
        notes.alive(write)

    return told


def _carry_out(evaluation: Evaluation, claim: Claim, told: Progress) -> None:
    if evaluation.attempts > evaluations.MAX_CLAIMS:
        raise EvaluationError(f"given up: {evaluations.MAX_CLAIMS} workers died of it")
    told(0.0)
    with read_scope() as s:
        rows = rows_of(s, evaluation.dataset_id, evaluation.split, evaluation.part)
        taught = taught_slices(s, evaluation.model_version, LEARNED_FROM)
    if not rows:
        raise EvaluationError(f"there are no slices in {evaluation.part or 'all'} of {evaluation.dataset.label}")
    data = load_part(evaluation.dataset, rows, lambda: told(0.0))
    version = evaluation.model_version
    scored = score(engine_of(version)[1], data.pixels, told)
    result = _result(version, data, scored)
    if evaluation.part is None:
        floors = Floors(recall=floor_of(version))
        groups = count_groups(data.labels, data.groups)
        known = float(find_known(data.pixels, chain.from_iterable(taught), lambda: told(1.0)).mean())
        nameless = without_patient(evaluation.dataset) / len(rows)
        check = check_site(result, groups, floors, known=known, nameless=nameless, apart=result["apart"])
        result["site_check"] = check.as_dict()
    _finish(claim, evaluation, scored.logit, data, result, told)


def score(engine: Engine, pixels: NDArray[np.uint8], told: Progress) -> ScoredPart:
    """Scores of slices, uint8[n, 224, 224], a batch at a time; `told` hears the fraction done after each.

    Raises EvaluationError where a score is no number.
    """
    logit, distance = [], []
    for start in range(0, len(pixels), engine.batch_size):
        found = engine.predict(pixels[start : start + engine.batch_size])
        logit.append(found.logit)
        if found.distance is not None:
            distance.append(found.distance)
        told(min(1.0, (start + engine.batch_size) / len(pixels)))
    scores = np.concatenate(logit).astype(np.float32)
    if not np.isfinite(scores).all():
        raise EvaluationError(f"{engine.name} gave a score that is no number")
    return ScoredPart(engine.name, scores, np.concatenate(distance) if distance else None)


def _result(version: ModelVersion, data: Labelled, scored: ScoredPart) -> dict[str, Any]:
    """The figures at the engine's own threshold and temperature, and the share of slices that lie apart."""
    temperature, threshold = calibration_of(version, scored.engine)
    figures = with_intervals(probability(scored.logit, temperature), data.labels, data.groups, threshold)
    limit = limit_of(version.ood, scored.engine)
    apart = None if scored.distance is None or limit is None else float((scored.distance > limit).mean())
    return {**figures, "engine": scored.engine, "threshold": threshold, "apart": apart}


def _finish(
    claim: Claim,
    evaluation: Evaluation,
    logit: NDArray[np.float32],
    data: Labelled,
    result: dict[str, Any],
    told: Progress,
) -> None:
    """Compare with all that is done on the same slices, and record both; again with what ended meanwhile."""
    packed = io.BytesIO()
    np.save(packed, logit, allow_pickle=False)
    sha256 = storage().put(packed.getvalue())
    against: dict[int, dict[str, Any]] = {}
    while True:
        with read_scope() as s:
            others = evaluations.done_beside(s, evaluation)
        for other in others:
            if other.id not in against:
                told(1.0)  # half a minute each for 100,000 slices
                ours = calibration_of(evaluation.model_version, result["engine"])
                against[other.id] = _compared(ours, logit, other, data)
        with session_scope() as s:
            if evaluations.finish(s, claim, sha256, result, against):
                return


def _compared(
    calibration: tuple[float, float], logit: NDArray[np.float32], other: Evaluation, data: Labelled
) -> dict[str, Any]:
    """The paired comparison with another version; nothing where its scores are gone."""
    try:
        scores = np.load(storage().verified_path(other.scores_sha256 or ""), allow_pickle=False)
    except (FileMissing, FileDamaged) as error:
        log.warning("scores are gone or damaged", extra={"evaluation": other.id})
        if isinstance(error, FileDamaged):
            storage().delete(other.scores_sha256 or "")  # so that the next asking makes them anew
        return {}
    temperature, threshold = calibration
    their_temperature, their_threshold = calibration_of(other.model_version, other.result.get("engine", ""))
    return compare(
        probability(logit, temperature),
        threshold,
        probability(scores, their_temperature),
        their_threshold,
        data.labels,
        data.groups,
    )
