"""Finds the slices of claimed chunks without a prediction. Records their scores, in one transaction for each job."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.crash_points import crash_point
from db.database import read_scope, session_scope
from db.ledger import completion, leases, recording
from db.ledger.leases import Claim, StaleClaim
from db.ledger.predictions import PredictedSlice, copy_known, known_predictions
from db.ledger.recording import ScoredChunk
from db.models import Chunk, Job, Outcome, Slice
from db.timing.published import publish
from db.timing.stages import Stage, timed
from worker import claimed
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

T = TypeVar("T")
Scores = Mapping[str, PredictedSlice]
"""Scores by the hash of their pixels, without slice ids."""


@dataclass(frozen=True)
class Share:
    """A claimed chunk, with its slices that have no outcome yet: their ids, pixel hashes, and rows in the array."""

    chunk: Chunk
    claim: Claim
    slice_ids: list[int]
    pixels: list[str]
    array_rows: list[int]

    def scored(self, scores: Scores) -> ScoredChunk:
        """Return the chunk with the scores of its slices, taken from `scores`."""
        pairs = zip(self.slice_ids, self.pixels, strict=True)
        return ScoredChunk(
            self.chunk, self.claim, [replace(scores[hash_], slice_id=slice_id) for slice_id, hash_ in pairs]
        )


def open_shares(taken: Iterable[tuple[Chunk, Claim]]) -> list[Share]:
    """Copy existing predictions of the same pixels. Return the slices of claimed chunks that are left to predict.

    Leave out chunks that another worker has claimed by now, and copy nothing to them.
    """
    return [share for chunks in _by_job(taken, lambda one: one[0]) for share in _open_shares(chunks)]


def record(shares: Iterable[Share], engine: str, scores: Scores, heartbeat: Heartbeat) -> None:
    """Record the scores of chunks by this engine. Leave out chunks that another worker has claimed by now."""
    for of_job in _by_job(shares, lambda share: share.chunk):
        _record_of_job(of_job, engine, scores, heartbeat)
        crash_point("after-record-commit")


def _by_job(rows: Iterable[T], chunk: Callable[[T], Chunk]) -> list[list[T]]:
    """Group rows by the job of their chunk."""
    groups: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        groups[chunk(row).job_id].append(row)
    return list(groups.values())


def _record_of_job(shares: Sequence[Share], engine: str, scores: Scores, heartbeat: Heartbeat) -> None:
    """Record chunks of a job in one transaction. If another worker has claimed a chunk, record them one by one."""
    try:
        claimed.patiently(heartbeat, partial(_record, shares, engine, scores))
    except StaleClaim:
        if len(shares) == 1:
            log.info("chunk is someone else's now", extra={"chunk": shares[0].chunk.id})
            return
        for share in shares:
            _record_of_job([share], engine, scores, heartbeat)


def _record(shares: Sequence[Share], engine: str, scores: Scores) -> None:
    with timed(Stage.RECORD, sum(len(share.slice_ids) for share in shares)), session_scope() as s:
        recording.record_chunks(s, engine, [share.scored(scores) for share in shares])
        publish(s)


def _open_shares(taken: Sequence[tuple[Chunk, Claim]]) -> list[Share]:
    """Do what `open_shares` does, for the chunks of one job. Lock the job only if there are predictions to copy."""
    job_id, chunk_ids = taken[0][0].job_id, [chunk.id for chunk, _ in taken]
    with timed(Stage.RECORD, 0), read_scope() as s:
        if not known_predictions(s, s.get_one(Job, job_id), chunk_ids):
            return [_share(s, *one) for one in _held(s, taken, leases.is_held)]
    with timed(Stage.RECORD, 0), session_scope() as s:
        job = completion.lock_job(s, job_id)
        held = _held(s, taken, leases.keep)
        copy_known(s, job, [chunk.id for chunk, _ in held])
        return [_share(s, *one) for one in held]


def _held(
    s: Session, taken: Sequence[tuple[Chunk, Claim]], is_ours: Callable[[Session, type[Chunk], Claim], bool]
) -> list[tuple[Chunk, Claim]]:
    """Return the chunks whose claim is still ours, by `is_ours`. Log the other chunks."""
    held = []
    for chunk, claim in taken:
        if is_ours(s, Chunk, claim):
            held.append((chunk, claim))
        else:
            log.info("chunk is someone else's now", extra={"chunk": chunk.id})
    return held


def _share(s: Session, chunk: Chunk, claim: Claim) -> Share:
    rows = s.execute(
        select(Slice.id, Slice.pixels_sha256, Slice.array_row)
        .where(Slice.chunk_id == chunk.id, Slice.state == Outcome.OPEN)
        .order_by(Slice.array_row)
    ).all()
    return Share(chunk, claim, [r[0] for r in rows], [r[1] or "" for r in rows], [r[2] or 0 for r in rows])
