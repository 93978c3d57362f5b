"""Predicts chunks: claim enough to fill a batch, run the engine, record under the claim."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.background import run_with_heartbeat
from db.crash_points import crash_point
from db.database import current, in_transaction, read_scope, session_scope
from db.ledger import chunks, completion, leases, queue, recording
from db.ledger.leases import Claim, StaleClaim
from db.ledger.predictions import PredictedSlice, cam_bytes, copy_known
from db.models import Chunk, ModelVersion, Outcome, Slice
from db.registry import champions, engine_proofs
from db.registry.calibration import calibration_of, limit_of
from db.storage import FileDamaged, FileMissing, storage
from db.timing.published import publish
from db.timing.stages import Stage, timed
from worker import claimed
from worker.engines import trial
from worker.engines.interface import Engine, Scores
from worker.engines.load import EngineUnproven
from worker.engines.package import PackageError, probability
from worker.heartbeat import Heartbeat
from worker.imaging.recipe import SIDE
from worker.jobs.loaded_engines import EngineUnavailable, Files, Loaded, files_of, load

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 10  # claims of a chunk whose files cannot be read, a minute apart
REFUSED_SECONDS = 300.0  # how long a worker leaves a model version to others after no engine proved itself here
REST_SECONDS = 10.0  # how long a worker without an engine rests: it would fail quicker than others predict


class EngineError(Exception):
    """The engine failed on these slices."""


_refused: dict[Files, float] = {}  # by the files of a model version: until when, by the monotonic clock


@dataclass(frozen=True)
class Share:
    """One claimed chunk with its slices that have no outcome yet: ids, pixel hashes, rows of its array."""

    chunk: Chunk
    claim: Claim
    slice_ids: list[int]
    pixels: list[str]
    array_rows: list[int]


def predict_next(worker: str) -> bool:
    """Claim the chunks whose turn it is, predict and record them.

    If there are none, load the champion's engine for the next job, try what was imported, and return False.
    """
    if not claimed.may_claim():
        return False
    with timed(Stage.RECORD, 0):
        taken, version = in_transaction(lambda s: _claim(s, worker))
    if version is None:
        _load_champion()
        _try_imported()
        return False
    crash_point("after-claim-chunk")
    claims = [claim for _, claim in taken]
    claimed.carry_out(
        Chunk,
        claims,
        lambda heartbeat: _predict(taken, version, heartbeat),
        fail=lambda error: _fail(claims, version, error),
        put_off=lambda _: _put_off(claims),
    )
    return True


def _claim(s: Session, worker: str) -> tuple[list[tuple[Chunk, Claim]], ModelVersion | None]:
    """Claim the chunks whose turn it is; return them and their one model version, or None if there are none."""
    taken = queue.claim_chunks(s, worker, current().chunk_slices, _left_to_others(s))
    return taken, taken[0][0].job.model_version if taken else None


def _load_champion() -> None:
    """Load the champion's engine ahead of its next job. A failure is only logged: a job's chunks meet it again."""
    with read_scope() as s:
        version = champions.champion(s)
    if version is None or files_of(version) in _refused_now():
        return
    try:
        load(version)
    except Exception as error:
        if isinstance(error, EngineUnproven):
            _refused[files_of(version)] = time.monotonic() + REFUSED_SECONDS
        log.warning("the champion's engine cannot be loaded", exc_info=True)


def _try_imported() -> None:
    """Try an imported model version that nobody has tried: the gate waits for it. A failure is only logged."""
    with read_scope() as s:
        version = engine_proofs.next_untried(s, socket.gethostname())
    if version is None:
        return
    log.info("trying an imported model version", extra={"model_version": version.label})
    try:
        trial.try_version(version)
    except Exception:
        log.warning("the imported model version cannot be tried", exc_info=True)


def _fail(claims: list[Claim], version: ModelVersion, error: Exception) -> None:
    """Decide by the kind of error whether the slices, this machine or nobody is to blame."""
    log.error("predicting failed", exc_info=error)
    match error:
        case EngineError():
            for claim in claims:
                with session_scope() as s:
                    chunks.fail_chunk(s, claim, "engine_error")
        case FileMissing() | FileDamaged() | PackageError():
            _put_off(claims, "file_lost")
        case EngineUnproven():
            _refused[files_of(version)] = time.monotonic() + REFUSED_SECONDS
            _put_off(claims)
        case EngineUnavailable():
            _put_off(claims, "engine_error")
            rest_and_end()
        case _:
            raise error


def _refused_now() -> set[Files]:
    return {files for files, until in _refused.items() if time.monotonic() < until}


def _left_to_others(s: Session) -> list[int]:
    """Return the ids of the model versions of which no engine proved itself here a while ago."""
    refused = _refused_now()
    return [one.id for one in s.scalars(select(ModelVersion)) if files_of(one) in refused] if refused else []


def _predict(taken: list[tuple[Chunk, Claim]], version: ModelVersion, heartbeat: Heartbeat) -> None:
    loaded = load(version, heartbeat.progress)
    shares = [share for chunk, claim in taken if (share := _share(chunk, claim))]
    pixels = run_with_heartbeat(lambda: _pixels(shares), heartbeat.progress)  # storage may hang
    scores = dict(zip(pixels, _run(loaded, list(pixels.values()), heartbeat), strict=True))
    crash_point("mid-predict")
    for share in shares:
        pairs = zip(share.slice_ids, share.pixels, strict=True)
        scored = [replace(scores[hash_], slice_id=slice_id) for slice_id, hash_ in pairs]
        try:
            claimed.patiently(heartbeat, partial(_record, share, loaded.engine.name, scored))
        except StaleClaim:
            log.info("chunk is someone else's now", extra={"chunk": share.chunk.id})
        crash_point("after-record-commit")
    log.info("predicted", extra={"chunks": len(shares), "slices": len(pixels), "engine": loaded.engine.name})


def _record(share: Share, engine: str, scored: list[PredictedSlice]) -> None:
    with timed(Stage.RECORD, len(scored)), session_scope() as s:
        recording.record_predictions(s, share.claim, share.chunk, engine, scored)
        publish(s)


def _share(chunk: Chunk, claim: Claim) -> Share | None:
    """Return what is left to predict of a chunk, after copying predictions of the same pixels.

    Return None, and copy nothing, if someone else has the chunk by now.
    """
    with timed(Stage.RECORD, 0), session_scope() as s:
        job = completion.lock_job(s, chunk.job_id)
        if not leases.keep(s, Chunk, claim):
            log.info("chunk is someone else's now", extra={"chunk": chunk.id})
            return None
        copy_known(s, job, chunk.id)
        rows = s.execute(
            select(Slice.id, Slice.pixels_sha256, Slice.array_row)
            .where(Slice.chunk_id == chunk.id, Slice.state == Outcome.OPEN)
            .order_by(Slice.array_row)
        ).all()
    return Share(chunk, claim, [r[0] for r in rows], [r[1] or "" for r in rows], [r[2] or 0 for r in rows])


def _pixels(shares: list[Share]) -> dict[str, NDArray[np.uint8]]:
    """Return each distinct slice once, uint8[224, 224], by its pixels' hash, after checking the array files' hashes.

    Raises FileMissing, FileDamaged.
    """
    pixels: dict[str, NDArray[np.uint8]] = {}
    for share in shares:
        with timed(Stage.CHUNK_FILE, 0):
            path = storage().verified_path(share.chunk.array_sha256)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            for hash_, row in zip(share.pixels, share.array_rows, strict=True):
                if hash_ not in pixels:
                    pixels[hash_] = np.array(array[row])  # read now, since a page of a mapped file may hang too
    return pixels


def _run(loaded: Loaded, slices: list[NDArray[np.uint8]], heartbeat: Heartbeat) -> list[PredictedSlice]:
    """Return the scores of all slices, without slice ids yet, a batch of the engine at a time.

    Raises EngineError, EngineUnavailable.
    """
    scores: list[PredictedSlice] = []
    size = loaded.engine.batch_size
    for start in range(0, len(slices), size):
        batch = np.stack(slices[start : start + size])
        try:
            with timed(Stage.ENGINE, len(batch), time.process_time):  # an engine's own threads count
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
    """Raise EngineUnavailable if an engine that failed cannot predict a black slice either."""
    try:
        black = engine.predict(np.zeros((1, SIDE, SIDE), np.uint8))
    except Exception as error:
        raise EngineUnavailable(f"{engine.name} fails on a black slice too") from error
    if not np.isfinite(black.logit).all():
        raise EngineUnavailable(f"{engine.name} does not give a number for a black slice either")


def rest_and_end() -> None:
    """End this process after a while, so that its parent starts another: a broken GPU stays broken for a process."""
    time.sleep(REST_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _scored(loaded: Loaded, scores: Scores) -> Iterator[PredictedSlice]:
    """Yield the scores of a batch as they are recorded, without slice ids yet."""
    package = loaded.package
    temperature, threshold = calibration_of(package, loaded.engine.name)
    chances = probability(scores.logit, temperature)
    limit = limit_of(package.ood, loaded.engine.name)
    for i, (logit, p, cam) in enumerate(zip(scores.logit, chances, scores.cam, strict=True)):
        distance = None if scores.distance is None else float(scores.distance[i])
        ood = None if distance is None or limit is None else distance > limit
        yield PredictedSlice(0, float(logit), float(p), bool(p >= threshold), cam_bytes(cam), distance, ood)


def _put_off(claims: list[Claim], reason: str | None = None) -> None:
    """Put chunks off. With a reason it counts as an attempt, and `MAX_ATTEMPTS` of them quarantine the slices."""
    for claim in claims:
        try:
            with session_scope() as s:
                if reason is None:
                    leases.put_off(s, Chunk, claim)
                elif s.get_one(Chunk, claim.id).attempts >= MAX_ATTEMPTS:
                    chunks.quarantine_chunk(s, claim, reason)
                else:
                    leases.put_off(s, Chunk, claim, is_attempt=True)
        except StaleClaim:
            continue
