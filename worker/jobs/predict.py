"""Predicts chunks: claims enough chunks for a batch, runs the engine, and records the predictions."""

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.background import wait_for_storage
from db.crash_points import crash_point
from db.database import current, in_transaction, is_too_slow, read_scope, session_scope
from db.installation import is_storage_at_hand
from db.ledger import chunks, leases, queue
from db.ledger.leases import Claim, StaleClaim
from db.models import Chunk, ModelVersion
from db.registry import champions, engine_proofs
from db.storage import FileDamaged, FileMissing, storage
from db.timing.stages import Stage, timed
from worker import claimed
from worker.engines import trial
from worker.engines.load import EngineUnproven
from worker.engines.package import PackageError
from worker.heartbeat import Heartbeat, stop_request
from worker.imaging.recipe import SIDE
from worker.jobs.lanes import Lanes
from worker.jobs.loaded_engines import EngineUnavailable, Files, files_of, load
from worker.jobs.scoring import EngineError, score
from worker.jobs.shares import Share, open_shares, record

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 10  # the most claims of a chunk whose files cannot be read; the claims are a minute apart
REFUSED_SECONDS = 300.0  # how long a worker leaves a version to others if no engine passed its proof here
REST_SECONDS = 10.0  # how long a worker without an engine rests; otherwise it would claim more than others
CLAIM_SECONDS = 1.0  # engine time of the work in one claim; it is not shorter, because each claim takes time too
MOST_CLAIMED = 512  # the most slices that are claimed at once, 26 MB


_refused: dict[Files, float] = {}  # until when a model version's files are refused, by the monotonic clock


class _Pace:
    """The slices/s that this process reached with its last work."""

    def __init__(self) -> None:
        self.slices_per_second = 0.0

    @contextmanager
    def of(self, slices: int) -> Iterator[None]:
        """Measure how long the block takes, which predicts `slices` slices."""
        began = time.monotonic()
        yield
        self.slices_per_second = slices / max(time.monotonic() - began, 0.001)


_pace = _Pace()


def predict_next(worker: str) -> bool:
    """Claim the next chunks, predict them and record them. Go on for some seconds if more chunks wait.

    While the engine runs, later chunks are claimed and read, and earlier ones are recorded (`lanes`). If no chunk
    waits, load the champion's engine for the next job, try an imported version, and return False.
    """
    taken = _claim(worker)
    if taken is None:
        _load_champion()
        _try_imported()
        return False
    if taken.chunks[0][0].suspect:  # a suspect chunk may kill this process, so no other chunk is claimed with it
        _carry_out(taken)
    else:
        Lanes(lambda: _claim_more(worker), _carry_out).run(taken)
    return True


@dataclass(frozen=True)
class Taken:
    """Claimed chunks of one model version."""

    chunks: list[tuple[Chunk, Claim]]
    version: ModelVersion


def _slices_to_claim() -> int:
    """Return how many slices to claim at a time: as many as a chunk has, or more if the engine is quick."""
    return max(current().chunk_slices, min(int(_pace.slices_per_second * CLAIM_SECONDS), MOST_CLAIMED))


def _claim(worker: str, *, suspects: bool = True) -> Taken | None:
    """Claim the next chunks. Return None if no chunk waits, or the disk is full."""
    if not claimed.may_claim():
        return None

    def claim(s: Session) -> Taken | None:
        taken = queue.claim_chunks(s, worker, _slices_to_claim(), _left_to_others(s), suspects=suspects)
        return Taken(taken, taken[0][0].job.model_version) if taken else None

    with timed(Stage.RECORD, 0):
        return in_transaction(claim)


def _claim_more(worker: str) -> Taken | None:
    """Claim chunks that may be predicted beside others, or return None. First look without taking a write lock."""
    with timed(Stage.RECORD, 0), read_scope() as s:
        is_any = queue.is_any_chunk(s, _left_to_others(s), suspects=False)
    return _claim(worker, suspects=False) if is_any else None


def _carry_out(taken: Taken) -> None:
    crash_point("after-claim-chunk")
    claims = [claim for _, claim in taken.chunks]
    claimed.carry_out(
        Chunk,
        claims,
        lambda heartbeat: _predict(taken.chunks, taken.version, heartbeat),
        fail=lambda error: _fail(claims, taken.version, error),
        put_off=lambda error, _: _put_off(claims, "database_slow" if is_too_slow(error) else None),
    )


def _load_champion() -> None:
    """Load the champion's engine before the next job needs it. Only log a failure: the next chunk will report it."""
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
    """Try an imported model version that no machine has tried yet, for the gate. Only log a failure.

    The trial gives way to chunks, and is made again when no chunk waits.
    """
    with read_scope() as s:
        version = engine_proofs.next_untried(s, socket.gethostname())
    if version is None:
        return
    log.info("trying an imported model version", extra={"model_version": version.label})
    try:
        if not trial.try_version(version, _is_wanted):
            log.info("the trial gives way", extra={"model_version": version.label})
    except Exception:
        log.warning("the imported model version cannot be tried", exc_info=True)


def _is_wanted() -> bool:
    """Return whether this process must stop, or can claim a chunk."""
    if stop_request.is_set():
        return True
    with read_scope() as s:
        is_any = queue.is_any_chunk(s, _left_to_others(s))
    return is_any and not storage().is_short_of_disk()


def _fail(claims: list[Claim], version: ModelVersion, error: Exception) -> None:
    """Record the failure of claimed chunks. The kind of error shows whether the slices or this machine are to blame."""
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
    """Return the ids of model versions to leave to other workers.

    No engine of these versions has passed its proof here lately.
    """
    refused = _refused_now()
    return [one.id for one in s.scalars(select(ModelVersion)) if files_of(one) in refused] if refused else []


def _predict(taken: list[tuple[Chunk, Claim]], version: ModelVersion, heartbeat: Heartbeat) -> None:
    loaded = load(version, heartbeat.progress)
    shares = open_shares(taken)
    pixels = wait_for_storage(lambda: _pixels(shares), heartbeat.progress)
    _give_up(pixels, heartbeat)
    with _pace.of(len(pixels.slices)):
        scores = dict(zip(pixels.hashes, score(loaded, pixels.slices, heartbeat), strict=True))
    crash_point("mid-predict")
    record(pixels.shares, loaded.engine.name, scores, heartbeat)
    counts = {"chunks": len(pixels.shares), "slices": len(pixels.slices)}
    log.info("predicted", extra=counts | {"engine": loaded.engine.name})


@dataclass(frozen=True)
class _Pixels:
    """The distinct slices of `shares`: the hashes of their pixels, and the pixels, uint8[n, 224, 224].

    `lost`: the shares whose file is missing or damaged, each with its error.
    """

    shares: list[Share]
    hashes: list[str]
    slices: NDArray[np.uint8]
    lost: list[tuple[Share, Exception]]


def _pixels(shares: list[Share]) -> _Pixels:
    """Read the slices of all shares, and check the hashes of the files. Raises OSError."""
    hashes: dict[str, None] = {}  # in order
    parts = [np.empty((0, SIDE, SIDE), np.uint8)]
    whole: list[Share] = []
    lost: list[tuple[Share, Exception]] = []
    for share in shares:
        rows = {hash_: row for hash_, row in zip(share.pixels, share.array_rows, strict=True) if hash_ not in hashes}
        try:
            with timed(Stage.CHUNK_FILE, 0):
                path = storage().verified_path(share.chunk.array_sha256)
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                parts.append(array[list(rows.values())])  # read now, because reading a mapped file may hang too
        except (FileMissing, FileDamaged) as error:
            lost.append((share, error))
            continue
        hashes |= dict.fromkeys(rows)
        whole.append(share)
    return _Pixels(whole, list(hashes), np.concatenate(parts) if len(parts) > 2 else parts[-1], lost)


def _give_up(pixels: _Pixels, heartbeat: Heartbeat) -> None:
    """Put off the shares whose file is lost, so that the other shares can be predicted.

    Raises the error of the first lost share if all shares are lost, or if the whole storage may be unreachable.
    """
    if not pixels.lost:
        return
    if not pixels.shares or not is_storage_at_hand():
        raise pixels.lost[0][1]
    claims = [share.claim for share, _ in pixels.lost]
    log.error("files of chunks are lost", extra={"ids": [claim.id for claim in claims]})
    claimed.patiently(heartbeat, lambda: _put_off(claims, "file_lost"))


def rest_and_end() -> None:
    """End this process after a while, so that its parent starts a new one. A process cannot recover a broken GPU."""
    time.sleep(REST_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _put_off(claims: list[Claim], reason: str | None = None) -> None:
    """Put off chunks. With a reason, this counts as an attempt. After `MAX_ATTEMPTS`, quarantine the slices."""
    for claim in claims:
        try:
            with session_scope() as s:
                if reason is not None and leases.claimed_row(s, Chunk, claim).attempts >= MAX_ATTEMPTS:
                    chunks.quarantine_chunk(s, claim, reason)
                else:
                    chunks.put_off_chunk(s, claim, is_attempt=reason is not None)
        except StaleClaim:
            continue
