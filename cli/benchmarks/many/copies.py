"""Copies a job's rows many times. Queries can then be measured on more slices than there is time to classify."""

import base64
import secrets
from typing import Any

from sqlalchemy import func, insert, literal, select, update

from db.clock import from_now
from db.database import session_scope
from db.ledger.tally import count_tallies
from db.models import Job, Prediction, Slice, Upload

NOT_COPIED = {"id", "job_id", "upload_id", "ordinal", "slice_id"}


def copy_job(job_id: str, rows: int) -> str:
    """Make a new job of about `rows` slices by repeating the slices of a finished job. Return the new job's id.

    The finished job must have one upload.
    """
    new_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    with session_scope() as s:
        upload_id, step = s.execute(
            select(Slice.upload_id, func.max(Slice.ordinal) + 1).where(Slice.job_id == job_id).group_by(Slice.upload_id)
        ).one()
        _copy_row(s, Job, Job.id == job_id, id=new_id, idempotency_key=None, name=f"{rows} rows")
        _copy_row(s, Upload, Upload.id == upload_id, job_id=new_id)
        new_upload = s.scalars(select(Upload.id).where(Upload.job_id == new_id)).one()
    for offset in range(0, rows, step):
        with session_scope() as s:
            _copy_slices(s, upload_id, new_id, new_upload, offset)
    with session_scope() as s:
        tally = count_tallies(s, [new_id])[new_id]
        s.execute(update(Job).where(Job.id == new_id).values(tally=tally, finished_at=from_now()))
    return new_id


def _copy_row(s: Any, model: Any, condition: Any, **values: Any) -> None:
    """Copy one row. `values` replace values of the row. Without an id in `values`, the copy gets a new id."""
    names = [column.name for column in model.__table__.columns if column.name != "id" or "id" in values]
    columns = [
        literal(values[name], model.__table__.columns[name].type) if name in values else model.__table__.columns[name]
        for name in names
    ]
    s.execute(insert(model.__table__).from_select(names, select(*columns).where(condition)))


def _copy_slices(s: Any, upload_id: int, job_id: str, new_upload: int, offset: int) -> None:
    """Copy the slices of an upload, with their predictions. The copies' ordinals are larger by `offset`."""
    names = [column.name for column in Slice.__table__.columns if column.name not in NOT_COPIED]
    own = select(
        literal(job_id), literal(new_upload), Slice.ordinal + offset, *(getattr(Slice, name) for name in names)
    )
    query = own.where(Slice.upload_id == upload_id)
    s.execute(insert(Slice).from_select(["job_id", "upload_id", "ordinal", *names], query))
    names = [column.name for column in Prediction.__table__.columns if column.name not in NOT_COPIED]
    old = Slice.__table__.alias()
    query = (
        select(literal(job_id), Slice.id, *(getattr(Prediction, name) for name in names))
        .select_from(old)
        .join(Prediction, Prediction.slice_id == old.c.id)
        .join(
            Slice,
            (Slice.upload_id == new_upload) & (Slice.ordinal == old.c.ordinal + offset) & (Slice.frame == old.c.frame),
        )
        .where(old.c.upload_id == upload_id)
    )
    s.execute(insert(Prediction).from_select(["job_id", "slice_id", *names], query))
