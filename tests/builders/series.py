"""Jobs whose uploads hold slices of DICOM series, read and recorded as an ingest worker does, without files."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from db.database import session_scope
from db.ledger import jobs, queue, recording
from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.models import Job, Outcome, Slice, Upload, User

AXIAL = "1\\0\\0\\0\\1\\0"


def ct(name: str, position: float | None = None, **values: Any) -> ReadSlice:
    """A prepared CT slice of one series of a known patient; its bytes and pixels are its own, by its name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    facts: dict[str, Any] = {
        "patient": "ann's digest",
        "study_uid": "1.2",
        "series_uid": "1.2.3",
        "series_label": "series 1",
        "sop_uid": f"1.2.3.{name}",
        "orientation": AXIAL,
        "sha256": digest,
        "pixels_sha256": digest,
        "format": "DICOM",
    }
    return ReadSlice(0, 0, name, Outcome.OPEN, position=position, **(facts | values))


def submit_uploads(owner: User, count: int) -> Job:
    """A job of so many uploads, of which nothing is read."""
    files = [jobs.ReceivedFile(f"{i}.zip", "0" * 64, 10, "zip", None) for i in range(count)]
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=files)[0]


def read_upload(slices: Sequence[ReadSlice], batch: int = 3, error: str | None = None) -> None:
    """Read the next upload, `batch` entries at a time, to its end or to an error.

    A slice gets its place in `slices` as its ordinal.
    """
    with session_scope() as s:
        claim = queue.claim_upload(s, "w")
        assert claim is not None
        upload = s.get_one(Upload, claim.id, populate_existing=True)
    for start in range(0, len(slices), batch):
        some = slices[start : start + batch]
        rows = [
            ReadSlice(**(vars(row) | {"ordinal": start + i, "array_row": i if row.state == Outcome.OPEN else None}))
            for i, row in enumerate(some)
        ]
        with session_scope() as s:
            recording.record_read(s, claim, upload, rows, "a" * 64)
    with session_scope() as s:
        recording.close_upload(s, claim, upload, error)


def read_job(owner: User, *uploads: Sequence[ReadSlice], batch: int = 3) -> Job:
    """A job whose uploads are all read and of which nothing is predicted."""
    job = submit_uploads(owner, len(uploads))
    for slices in uploads:
        read_upload(slices, batch)
    return job


def certain(slice_id: int, _name: str) -> PredictedSlice:
    """The same score for each slice."""
    return PredictedSlice(slice_id, 1.0, 0.7, True, bytes(98))


def predict_all(scored: Callable[[int, str], PredictedSlice] = certain, engine: str = "openvino-f32") -> None:
    """Predict all chunks that wait. `scored` makes a prediction of a slice's id and name."""
    while True:
        with session_scope() as s:
            taken = queue.claim_chunks(s, "w", 1_000_000)
        if not taken:
            return
        for chunk, claim in taken:
            with session_scope() as s:
                rows = s.query(Slice.id, Slice.name).where(Slice.chunk_id == chunk.id).all()
                recording.record_predictions(s, claim, chunk, engine, [scored(id_, name) for id_, name in rows])
