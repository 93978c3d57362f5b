"""Records the slices that an ingest worker has read, and the predictions of an inference worker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from db.bulk import insert_rows, one_of
from db.clock import from_now
from db.crash_points import crash_point
from db.ledger import chunks, completion, leases
from db.ledger.leases import Claim, StaleClaim
from db.ledger.predictions import PredictedSlice, insert_predictions, open_slices
from db.models import Chunk, Job, Outcome, Slice, Upload, Work
from db.models.slices import natural_key
from db.series.rows import FOLDER, LOOSE, Owner, series_of

Place = tuple[int, int, int]
"""The place of a slice in its job: the id of its upload, the ordinal of the entry, and the frame."""
Known = Mapping[Place, int | None]
WAITS = 0  # default for a frame without a row, so that it is written

WAITS_FOR_READING = and_(Slice.state == Outcome.OPEN, Slice.chunk_id.is_(None))
"""The condition that a slice waits to be read again.

A retry put it back, because its entry was not read or because its prepared pixels are lost.
"""


@dataclass(frozen=True)
class ReadSlice:
    """An entry that ingest has handled: prepared (with a row in the chunk's array), rejected, or cancelled unread.

    `patient`: a digest of the patient's ID. `issuer`, `birth_date`, `sex`: each is a digest of the patient's ID
    together with this value. A digest is "" if the file does not state the value. Only keyed hashes of the digests are
    stored. `study_uid`: None if the file does not state it. If it is None, the slices that one patient has in one
    series form a study of their own.
    """

    ordinal: int
    frame: int
    name: str
    state: Outcome
    reason: str | None = None
    detail: str | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    notes: tuple[str, ...] = ()
    array_row: int | None = None
    patient: str = ""
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    study_uid: str | None = None
    series_uid: str | None = None
    series_label: str = ""
    instance_number: int | None = None
    position: float | None = None
    location: float | None = None
    orientation: str | None = None
    sop_uid: str | None = None
    lung_fraction: float | None = None


def read_ordinals(s: Session, upload_id: int) -> set[int]:
    """Return the ordinals of an upload's entries that need not be read again when ingest goes on with the upload."""
    ordinals = select(Slice.ordinal).where(Slice.upload_id == upload_id).group_by(Slice.ordinal)
    return set(s.scalars(ordinals.having(func.count().filter(WAITS_FOR_READING) == 0)))


def record_read(
    s: Session,
    claim: Claim,
    upload: Upload,
    rows: Sequence[ReadSlice],
    array_sha256: str | None,
    decode_seconds: float = 0.0,
    decode_failures: int = 0,
    dicomdirs: int = 0,
) -> bool:
    """Record the entries of a chunk and make the chunk, in one transaction.

    `decode_seconds`: the processor time that decoding the entries took. `decode_failures`: how many of them crashed a
    decoder or used up its time. `dicomdirs`: how many DICOMDIR files ingest has skipped since this claim. If none of
    the entries is new, this is not progress of the upload. Return whether the job was cancelled meanwhile. Raises
    StaleClaim.
    """
    job = completion.lock_job(s, upload.job_id)
    if not leases.keep(s, Upload, claim):
        raise StaleClaim(f"upload {claim.id}, fence {claim.fence}")
    spent = {
        "decode_seconds": Upload.decode_seconds + decode_seconds,
        "decode_failures": Upload.decode_failures + decode_failures,
        "dicomdirs": max(upload.dicomdirs, dicomdirs),
    }
    fresh = _write_slices(s, job, [(upload, row) for row in _labelled(s, upload, rows)], array_sha256)
    progress = {"attempts": 1, "put_offs": 0} if fresh else {}
    s.execute(update(Upload).where(Upload.id == upload.id).values(**spent, **progress))
    return job.cancel_requested_at is not None


@dataclass(frozen=True)
class LooseFile:
    """A claimed upload of one file, and the rows of its frames."""

    claim: Claim
    upload: Upload
    rows: Sequence[ReadSlice]


def record_loose_files(s: Session, files: Sequence[LooseFile], array_sha256: str | None) -> bool:
    """Record loose files of one job, make a chunk of their slices, and close their uploads, in one transaction.

    Return whether the job was cancelled meanwhile. Raises StaleClaim; in that case nothing is kept.
    """
    job = completion.lock_job(s, files[0].upload.job_id)
    _write_slices(s, job, [(file.upload, row) for file in files for row in file.rows], array_sha256)
    _close_uploads(s, job, [file.claim for file in files])
    return job.cancel_requested_at is not None


def cancel_loose_files(s: Session, job: Job) -> None:
    """Cancel the loose files of a cancelled job that no worker has claimed. The caller has locked the job.

    Their names are known without reading them. An archive is left to an ingest worker, which lists its entries.
    """
    loose = Upload.job_id == job.id, Upload.kind == LOOSE, Upload.entries == 1
    query = select(Upload).where(*loose, Upload.state == Work.READY)
    uploads = s.scalars(leases.locked(query, s, of=Upload)).all()
    if not uploads:
        return
    _write_slices(s, job, [(upload, cancelled_slice(upload)) for upload in uploads], None)
    ids = [upload.id for upload in uploads]
    _end_unread(s, job, ids)
    cancelled = {"state": Work.CANCELLED, "lease_until": None, "closed_at": from_now()}
    s.execute(update(Upload).where(one_of(s, Upload.id, ids)).values(cancelled))


def cancelled_slice(upload: Upload) -> ReadSlice:
    """Return the row of a loose file that was not read, because its job was cancelled."""
    return ReadSlice(0, 0, upload.filename, Outcome.CANCELLED)


def _write_slices(
    s: Session, job: Job, read: Sequence[tuple[Upload, ReadSlice]], array_sha256: str | None
) -> Sequence[ReadSlice]:
    """Insert new slices, update slices that wait for reading, and make a chunk of the prepared slices.

    Return the slices that had no outcome before.
    """
    series = series_of(s, job.id, filter(None, (_owner(row, upload) for upload, row in read)))
    known = _known_slices(s, read)
    fresh = [(upload, row) for upload, row in read if known.get(_place(upload, row), WAITS) is not None]
    prepared = sum(row.state == Outcome.OPEN for _, row in fresh)
    chunk = chunks.new_chunk(s, job, array_sha256, prepared) if array_sha256 is not None and prepared else None

    def values(upload: Upload, row: ReadSlice) -> dict[str, Any]:
        columns = {k: v for k, v in vars(row).items() if k not in Owner._fields}
        owner = _owner(row, upload)
        return {
            **columns,
            "name_key": natural_key(row.name),
            "upload_id": upload.id,
            "series_id": None if owner is None else series[owner],
            "chunk_id": chunk.id if chunk is not None and row.state == Outcome.OPEN else None,
        }

    waiting = [values(*one) | {"id": known[_place(*one)]} for one in fresh if _place(*one) in known]
    if waiting:
        s.execute(update(Slice), waiting)
    insert_rows(s, Slice, [values(*one) for one in fresh if _place(*one) not in known], job_id=job.id)
    if chunk is not None:
        chunks.offer_chunk(s, job, chunk)
    return [row for _, row in fresh]


def _place(upload: Upload, row: ReadSlice) -> Place:
    return upload.id, row.ordinal, row.frame


def _labelled(s: Session, upload: Upload, rows: Sequence[ReadSlice]) -> Sequence[ReadSlice]:
    """Begin the labels of series with the name of their archive, if its job has several uploads."""
    uploads = s.scalar(select(func.count()).select_from(Upload).where(Upload.job_id == upload.job_id)) or 0
    if upload.kind == LOOSE or uploads == 1:
        return rows
    return [replace(row, series_label=f"{upload.filename}: {row.series_label}") for row in rows]


def _owner(row: ReadSlice, upload: Upload) -> Owner | None:
    """Return the patient, study and series of a slice, or None if its series is not known.

    Folders with the same name in two archives are different series. Loose files share one series, except files that are
    a series themselves.
    """
    uid = row.series_uid
    if uid is None:
        return None
    if uid.startswith(FOLDER) and (upload.kind != LOOSE or uid == FOLDER + row.name):
        uid = f"{FOLDER}{upload.position}:{uid.removeprefix(FOLDER)}"
    return Owner(row.patient, row.issuer, row.birth_date, row.sex, row.study_uid, uid, row.series_label)


def _known_slices(s: Session, read: Sequence[tuple[Upload, ReadSlice]]) -> Known:
    """Return the slices of these entries that have a row, by place.

    The value is the slice's id if the slice waits for reading. It is None if the slice already has an outcome, which
    then stays.
    """
    ordinals = [row.ordinal for _, row in read]
    query = select(Slice.upload_id, Slice.ordinal, Slice.frame, Slice.id, WAITS_FOR_READING)
    span = Slice.ordinal.between(min(ordinals, default=0), max(ordinals, default=0))
    found = s.execute(query.where(one_of(s, Slice.upload_id, {upload.id for upload, _ in read}), span))
    return {(upload, ordinal, frame): id_ if waits else None for upload, ordinal, frame, id_, waits in found}


def close_upload(s: Session, claim: Claim, upload: Upload, error: str | None = None) -> None:
    """Close an upload that was read to its end. With `error`, close one that cannot be read. Raises StaleClaim.

    Slices that still wait for reading become cancelled if the job was cancelled, and quarantined otherwise.
    """
    _close_uploads(s, completion.lock_job(s, upload.job_id), [claim], error)


def _close_uploads(s: Session, job: Job, claims: Sequence[Claim], error: str | None = None) -> None:
    _end_unread(s, job, [claim.id for claim in claims])
    state = Work.FAILED if error is not None else Work.CANCELLED if job.cancel_requested_at is not None else Work.DONE
    for claim in claims:
        leases.close(s, Upload, claim, state, error=error, closed_at=from_now())
    completion.finish_if_done(s, job)


def _end_unread(s: Session, job: Job, upload_ids: Sequence[int]) -> None:
    unread = update(Slice).where(one_of(s, Slice.upload_id, upload_ids), WAITS_FOR_READING)
    if job.cancel_requested_at is not None:
        s.execute(unread.values(state=Outcome.CANCELLED))
    else:
        s.execute(unread.values(state=Outcome.QUARANTINED, reason="file_lost"))


@dataclass(frozen=True)
class ScoredChunk:
    """A claimed chunk, and the scores of its slices."""

    chunk: Chunk
    claim: Claim
    scored: Sequence[PredictedSlice]


def record_predictions(s: Session, claim: Claim, chunk: Chunk, engine: str, scored: Sequence[PredictedSlice]) -> None:
    """Record the predictions of one chunk, as `record_chunks` does."""
    record_chunks(s, engine, [ScoredChunk(chunk, claim, scored)])


def record_chunks(s: Session, engine: str, done: Sequence[ScoredChunk]) -> None:
    """Record the predictions of chunks of one job, and close the chunks, in one transaction. All claims must be valid.

    If the job was cancelled meanwhile, cancel the slices. Raises StaleClaim; in that case nothing is kept.
    """
    job = completion.lock_job(s, done[0].chunk.job_id)
    cancelled = job.cancel_requested_at is not None
    for one in done:
        leases.close(s, Chunk, one.claim, Work.CANCELLED if cancelled else Work.DONE, closed_at=from_now())
        if cancelled:
            chunks.close_slices(s, [one.chunk.id], Outcome.CANCELLED)
    if not cancelled:
        pixels = open_slices(s, *(one.chunk.id for one in done))
        fenced = ((one.claim.fence, predicted) for one in done for predicted in one.scored)
        still_open = [(fence, predicted) for fence, predicted in fenced if predicted.slice_id in pixels]
        insert_predictions(s, job, engine, still_open, pixels)
    completion.finish_if_done(s, job)
    crash_point("before-record-commit")
