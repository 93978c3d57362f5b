"""DICOM studies from their files to their end: patients, conflicts and the order of slices, on both databases."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from db.database import read_scope
from db.ledger.job_view import JobView
from db.models import Finding, Job, JobState, Patient, Series, Slice, Study, User
from db.storage import storage
from tests.worker.imaging.builders import dicom
from worker.jobs import ingest, predict

View = Callable[[Job], JobView]
pytestmark = pytest.mark.usefixtures("champion")


def ct(number: int, **changes: Any) -> bytes:
    """A file of a CT slice, of its own pixels and UID, `number` mm up from the first; all are numbered 1."""
    stored = np.random.default_rng(number).integers(0, 2000, (24, 24)).astype(np.int16)
    facts: dict[str, Any] = {
        "SOPInstanceUID": f"1.2.3.4.{number}",
        "InstanceNumber": 1,
        "ImagePositionPatient": [-100.0, -120.0, float(number)],
    }
    return dicom(stored, **(facts | changes))


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def outcomes(job: Job) -> dict[str, str]:
    """The outcome of each slice by name; the reason of a rejected one."""
    with read_scope() as s:
        rows = s.execute(select(Slice.name, Slice.state, Slice.reason).where(Slice.job_id == job.id))
        return {name: reason or state for name, state, reason in rows}


def check_sums(view: JobView) -> None:
    counts = view.counts
    assert view.state == JobState.FINISHED
    assert counts.received == counts.predicted + counts.rejected + counts.quarantined + counts.cancelled


@pytest.mark.parametrize("blamed", ["a", "c"])
def test_row_30_study_of_two_patients_is_held_back(ann: User, submit: Any, view: View, blamed: str) -> None:
    files = {"a": ct(1), "b": ct(2), "c": ct(3)}
    files[blamed] = ct(9, PatientID="another")
    files["other"] = ct(4, PatientID="another", StudyInstanceUID="5", SeriesInstanceUID="5.1")
    job = submit(ann, files)
    work()
    assert outcomes(job) == {**dict.fromkeys("abc", "patient_conflict"), "other": "predicted"}
    check_sums(view(job))


def test_row_31_instance_with_other_bytes_is_kept_twice_and_not_predicted(ann: User, submit: Any, view: View) -> None:
    twin = {"SOPInstanceUID": "1.2.3.4.1"}
    job = submit(ann, {"a": ct(1), "b": ct(2), "changed": ct(3, **twin), "copy of b": ct(2)})
    work()
    assert outcomes(job) == {
        "a": "uid_conflict",
        "changed": "uid_conflict",
        "b": "predicted",
        "copy of b": "predicted",
    }
    check_sums(view(job))
    with read_scope() as s:
        kept = s.scalars(select(Slice.sha256).where(Slice.reason == "uid_conflict")).all()
    assert len(set(kept)) == 2
    assert all(storage().exists(sha256 or "") for sha256 in kept)


def test_row_32_blank_patient_ids_are_as_many_patients_as_studies(ann: User, submit: Any, view: View) -> None:
    studies = [{"StudyInstanceUID": f"1.{n}", "SeriesInstanceUID": f"1.{n}.1"} for n in range(4)]
    blank = [ct(n, PatientID=value, **studies[n]) for n, value in enumerate(["", " ", None])]
    job = submit(ann, {f"{n}": data for n, data in enumerate([*blank, ct(3, **studies[3])])})
    work()
    assert set(outcomes(job).values()) == {"predicted"}
    check_sums(view(job))
    with read_scope() as s:
        known = s.scalars(select(Patient.is_known).where(Patient.job_id == job.id).order_by(Patient.ordinal)).all()
    assert known == [False, False, False, True]


def test_patient_is_known_by_issuer_and_id_and_neither_is_stored(ann: User, submit: Any) -> None:
    other = {"StudyInstanceUID": "5", "SeriesInstanceUID": "5.1", "IssuerOfPatientID": "B"}
    first = submit(ann, {"a": ct(1, IssuerOfPatientID="A"), "b": ct(2, **other), "c": ct(3, IssuerOfPatientID="A")})
    second = submit(ann, {"a": ct(1, IssuerOfPatientID="A")})
    work()
    with read_scope() as s:
        keys = {job.id: s.scalars(select(Patient.key).where(Patient.job_id == job.id)).all() for job in (first, second)}
    assert [len(of_job) for of_job in keys.values()] == [2, 1]
    assert not set(keys[first.id]) & set(keys[second.id])
    assert not any("SECRET-ID" in key for of_job in keys.values() for key in of_job)


def test_missing_issuer_agrees_with_the_issuer_of_another_series(ann: User, submit: Any, view: View) -> None:
    scanner = {"SeriesInstanceUID": "1.1", "IssuerOfPatientID": "HOSP"}
    job = submit(ann, {"a": ct(1, **scanner), "b": ct(2, SeriesInstanceUID="1.2", IssuerOfPatientID=None)})
    work()
    assert set(outcomes(job).values()) == {"predicted"}
    check_sums(view(job))


def test_one_id_for_several_people_gives_no_verdict_on_the_patient(ann: User, submit: Any) -> None:
    def study(number: int, born: str | None, sex: str | None) -> bytes:
        uids = {"StudyInstanceUID": f"5.{number}", "SeriesInstanceUID": f"5.{number}.1"}
        return ct(number, PatientID="ANONYMOUS", PatientBirthDate=born, PatientSex=sex, **uids)

    people = {"born": ["19500131", "19620228", None], "sex": [None, "M", "F"], "same": ["19500131", "19500131", None]}
    for name, values in people.items():
        facts = [(None, value) if name == "sex" else (value, None) for value in values]
        job = submit(ann, {f"{n}": study(n, *stated) for n, stated in enumerate(facts)})
        work()
        with read_scope() as s:
            query = select(Finding.reason).where(Finding.job_id == job.id, Finding.level == "patient")
            (reason,) = s.scalars(query)
        assert (reason == "patient_unclear") == (name != "same")


DUMMY = dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), "REMOVED")


@pytest.mark.parametrize("patient", [None, "REMOVED", "own"])
def test_dummies_in_place_of_uids_join_no_folders(ann: User, submit: Any, view: View, patient: str | None) -> None:
    def slice_of(person: int, number: int) -> bytes:
        place = [-100.0, -120.0, number + 0.3 * person]
        own = f"P{person}" if patient == "own" else patient
        return ct(10 * person + number, ImagePositionPatient=place, PatientID=own, **DUMMY)

    job = submit(ann, {f"p{person}/{n}": slice_of(person, n) for person in range(3) for n in range(3)})
    work()
    assert set(outcomes(job).values()) == {"predicted"}
    with read_scope() as s:
        labels = s.scalars(select(Series.label).where(Series.job_id == job.id)).all()
        people = s.scalars(select(Patient.id).where(Patient.job_id == job.id)).all()
        notes = s.scalars(select(Slice.notes).where(Slice.job_id == job.id)).all()
    assert sorted(labels) == ["p0", "p1", "p2"]
    assert len(people) == (1 if patient == "REMOVED" else 3)
    assert all("bad_uid" in of_slice for of_slice in notes)
    check_sums(view(job))


def test_uids_that_differ_after_the_64th_character_are_two(ann: User, submit: Any) -> None:
    long = "1." + "2" * 70
    files = {
        f"{n}": ct(n, StudyInstanceUID=f"{long}{n}", SeriesInstanceUID=f"{long}{long}{n}", SOPInstanceUID=f"{long}{n}")
        for n in range(3)
    }
    job = submit(ann, files)
    work()
    assert set(outcomes(job).values()) == {"predicted"}
    with read_scope() as s:
        for table in (Study, Series):
            assert len(set(s.scalars(select(table.uid).where(table.job_id == job.id)))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_shuffled_study_goes_from_upload_to_its_end_in_order(ann: User, submit: Any, view: View) -> None:
    numbers = list(range(600))
    random.Random(7).shuffle(numbers)
    job = submit(ann, {f"IM{place:04}": ct(number) for place, number in enumerate(numbers)})
    work()
    done = view(job)
    check_sums(done)
    assert done.counts.predicted == 600
    with read_scope() as s:
        ranked = s.execute(select(Slice.series_rank, Slice.sop_uid).order_by(Slice.series_rank)).all()
        assert s.scalars(select(Series.notes)).all() == [[]]
    assert [tuple(row) for row in ranked] == [(number, f"1.2.3.4.{number}") for number in range(600)]
