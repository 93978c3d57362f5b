"""Files that are damaged: what they would have held is missing from the findings of the series that they belong to."""

import gzip
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from db.database import read_scope, session_scope
from db.ledger import jobs
from db.models import Finding, Job, Level, Series, User
from db.storage import storage
from tests.builders.files import png, tar_of, zip_of
from tests.worker.imaging.builders import dicom
from worker.jobs import ingest, predict

pytestmark = pytest.mark.usefixtures("champion")

SIDE = 96
DISTANCES = np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2))
CHEST = np.where(DISTANCES < 27, -850, np.where(DISTANCES < 42, 40, -1000))


def ct(number: int, patient: str = "1", series: str = "1", **changes: Any) -> bytes:
    """A slice with lung, `number` mm above the first of its series."""
    noise = np.random.default_rng(number).integers(-20, 20, CHEST.shape)
    facts: dict[str, Any] = {
        "PatientID": patient,
        "StudyInstanceUID": f"1.{patient}",
        "SeriesInstanceUID": f"1.{patient}.{series}",
        "SOPInstanceUID": f"1.{patient}.{series}.{number}",
        "InstanceNumber": number,
        "ImagePositionPatient": [-100.0, -120.0, float(number)],
    }
    return dicom((CHEST + noise + 1024).clip(0).astype(np.int16), **(facts | changes))


def cts(numbers: range, folder: str = "", patient: str = "1") -> dict[str, bytes]:
    return {f"{folder}{number:02}.dcm": ct(number, patient) for number in numbers}


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def told(job: Job, level: Level) -> Counter[tuple[Any, ...]]:
    """The reason, the slices used and those left out of each finding of a level."""
    query = select(Finding).where(Finding.job_id == job.id, Finding.level == level)
    with read_scope() as s:
        return Counter((row.reason, row.used, *row.left_out.items()) for row in s.scalars(query))


def test_a_cut_archive_inside_the_archive_fails_its_series(ann: User, submit: Any) -> None:
    whole = gzip.compress(tar_of(cts(range(20), "ct/")))
    job = submit(ann, {"1.tar.gz": whole[: len(whole) // 3], "2.zip": zip_of(cts(range(6), patient="2"))})
    work()
    for level in Level:
        (cut, _), (other, _) = sorted(told(job, level).items(), key=lambda one: one[0][0] is None)
        assert cut[0] == "upload_failed"
        assert 0 < cut[1] < 20
        assert other == (None, 6)


def test_an_unreadable_archive_fails_what_lies_beside_it(ann: User, submit: Any) -> None:
    parts = [zip_of(cts(range(start, start + 6))) for start in (0, 6)]
    files = {"1/a.zip": parts[0], "1/b.zip": parts[1][:-100], "2/a.zip": zip_of(cts(range(6), patient="2"))}
    job = submit(ann, files)
    work()
    for level in Level:
        assert told(job, level) == {("upload_failed", 6): 1, (None, 6): 1}


def test_damaged_slices_among_those_of_others_are_missing_from_their_series(ann: User, submit: Any) -> None:
    files = {f"{n}.dcm": ct(n)[: None if n < 6 else -5000] for n in range(12)}
    files |= {f"2-{n}.dcm": ct(n, "2") for n in range(6)}
    job = submit(ann, files)
    work()
    for level in Level:
        assert told(job, level) == {("missing", 6, ("malformed", 6)): 1, (None, 6): 1}


def test_a_damaged_series_gives_no_verdict_though_others_of_its_patient_do(ann: User, submit: Any) -> None:
    files = {f"{n}.dcm": ct(n)[: None if n < 3 else -5000] for n in range(6)}
    files |= {f"{series}-{n}.dcm": ct(n, series=series) for n in range(9) for series in "23"}
    files |= {
        f"scout {n}.dcm": ct(n, series="4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[:-5000] for n in (1, 2)
    }
    job = submit(ann, files)
    work()
    assert told(job, Level.SERIES) == {("missing", 3, ("malformed", 3)): 1, (None, 9): 2}
    assert told(job, Level.PATIENT) == {(None, 21, ("malformed", 3)): 1}


@pytest.mark.parametrize(
    ("stated", "rows", "reason"), [("", 1, None), ("3", 3, None), ("20", 20, "missing"), ("9999999", 2048, "missing")]
)
def test_each_frame_of_a_damaged_file_is_missing(
    ann: User, submit: Any, stated: str, rows: int, reason: str | None
) -> None:
    job = submit(ann, cts(range(12)) | {"many.dcm": ct(12, NumberOfFrames=stated)[:-5000]})
    work()
    for level in Level:
        assert told(job, level) == {(reason, 12, ("malformed", rows)): 1}


def test_a_series_of_damaged_slices_only_is_listed(ann: User, submit: Any) -> None:
    job = submit(ann, cts(range(3)) | {f"x{n}": ct(n, series="2")[:-5000] for n in range(2)})
    work()
    assert told(job, Level.SERIES) == {(None, 3): 1, ("missing", 0, ("malformed", 2)): 1}
    with read_scope() as s:
        assert set(s.scalars(select(Series.uid))) == {"1.1.1", "1.1.2"}


def test_loose_files_are_in_one_folder(ann: User) -> None:
    files = []
    for n in range(8):
        receiver = storage().receive()
        receiver.write(png(n)[: None if n < 5 else -50])
        received = receiver.close()
        files.append(jobs.ReceivedFile(f"{n}.png", received.sha256, received.size, "file", 1))
    with session_scope() as s:
        job = jobs.create_job(s, owner=ann, files=files)[0]
    work()
    for level in Level:
        (finding,) = told(job, level)
        assert ("truncated", 3) in finding


def test_files_of_zeros_and_other_bytes_under_the_name_of_slices_are_missing(ann: User, submit: Any) -> None:
    zeros = {f"{n}": bytes(9000) for n in range(20, 24)}
    nonsense = {f"{n}.DCM": b"\0" * 500 + b"nonsense" * 100 for n in range(30, 33)}
    texts = {f"{n}.txt": b"report" for n in range(40, 60)}
    job = submit(ann, cts(range(6)) | zeros | nonsense | texts)
    work()
    for level in Level:
        assert told(job, level) == {("missing", 6, ("corrupt", 4), ("format", 3)): 1}
