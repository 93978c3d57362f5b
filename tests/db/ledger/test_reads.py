"""Recording a chunk reads rows of that chunk, however many others there are, and sends few statements."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from db.database import session_scope
from db.ledger import jobs, queue, recording
from db.ledger.predictions import PredictedSlice, copy_known, open_slices
from db.ledger.recording import ReadSlice
from db.models import Chunk, Job, Outcome, Upload, User
from tests.builders.statements import recorded_statements

pytestmark = pytest.mark.usefixtures("champion")

READ = text(
    "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname IN ('slice', 'prediction')"
)


def rows_read(s: Session) -> int:
    return int(s.scalar(READ) or 0)


def unpack(owner: User, count: int, pixels: str) -> None:
    """Submit a job of one chunk, and record its slices."""
    with session_scope() as s:
        jobs.create_job(s, owner=owner, files=[jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", count)])
        claim = queue.claim_upload(s, "w")
        assert claim is not None
        upload = s.get_one(Upload, claim.id, populate_existing=True)
    rows = [
        ReadSlice(
            i,
            0,
            f"{i}.dcm",
            Outcome.OPEN,
            sha256=f"file {i}",
            pixels_sha256=f"{pixels}{i}",
            array_row=i,
            series_uid="1.2",
            sop_uid=f"1.2.{i}",
        )
        for i in range(count)
    ]
    with session_scope() as s:
        recording.record_read(s, claim, upload, rows, "a" * 64)
    with session_scope() as s:
        recording.close_upload(s, claim, upload)


def predict(slices: int) -> Chunk:
    """Claim one chunk and record predictions of its slices."""
    with session_scope() as s:
        ((chunk, claim),) = queue.claim_chunks(s, "w", slices)
    with session_scope() as s:
        scored = [PredictedSlice(id_, 1.0, 0.7, True, bytes(98)) for id_ in open_slices(s, chunk.id)]
        recording.record_predictions(s, claim, chunk, "openvino-f32", scored)
    return chunk


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_search_for_earlier_predictions_reads_only_those_of_the_same_pixels(ann: User) -> None:
    unpack(ann, 4_000, "earlier ")
    predict(4_000)
    unpack(ann, 50, "other ")
    with session_scope() as s:
        ((chunk, _),) = queue.claim_chunks(s, "w", 50)
    with session_scope() as s:
        before = rows_read(s)
        copy_known(s, s.get_one(Job, chunk.job_id), [chunk.id])
        assert rows_read(s) - before < 2_000


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_number_of_statements_does_not_grow_with_the_chunk(ann: User) -> None:
    counts = []
    for size in (10, 100):
        with recorded_statements() as statements:
            unpack(ann, size, f"of {size}: ")
            predict(size)
        assert not [one for one in statements if len(one) > 5_000]  # a parameter for each slice
        counts.append(len(statements))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_settling_a_job_sends_no_subquery_that_could_run_for_each_slice(ann: User) -> None:
    with recorded_statements() as statements:
        unpack(ann, 10, "p")
    changes = [one for one in statements if one.startswith(("UPDATE slice", "DELETE FROM prediction"))]
    assert changes
    assert not [one for one in changes if "IN (SELECT" in one]
