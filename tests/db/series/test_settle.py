"""What is settled once all uploads of a job are read: order, notes, conflicts and bolus tracking; on both databases."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from db import database as base
from db.database import read_scope, session_scope
from db.ledger import job_view, jobs
from db.ledger.recording import ReadSlice
from db.models import Finding, Job, JobState, ModelVersion, Outcome, Patient, Prediction, Series, Slice, Study, User
from db.series.geometry import SEVERAL_SCANS, TRACKED, placed_series
from db.settings import Settings
from tests.builders.series import ct, predict_all, read_job, read_upload, submit_uploads
from tests.builders.statements import recorded_statements

pytestmark = pytest.mark.usefixtures("champion")


def names_in_order(job: Job, series_uid: str = "1.2.3") -> list[str]:
    with read_scope() as s:
        query = select(Slice.name).join(Series).where(Slice.job_id == job.id, Series.uid == series_uid)
        return list(s.scalars(query.order_by(Slice.series_rank)))


def ranks(job: Job) -> list[int | None]:
    with read_scope() as s:
        return sorted(s.scalars(select(Slice.series_rank).where(Slice.job_id == job.id)))


def outcomes(job: Job) -> dict[str, str]:
    """The outcome of each slice by name; the reason of a rejected one."""
    with read_scope() as s:
        rows = s.execute(select(Slice.name, Slice.state, Slice.reason).where(Slice.job_id == job.id))
        return {name: reason or state for name, state, reason in rows}


def notes(job: Job) -> list[str]:
    with read_scope() as s:
        return s.scalars(select(Series.notes).where(Series.job_id == job.id)).one()


def patients(job: Job) -> list[tuple[int, bool]]:
    """Ordinal and whether the patient is known, for each study."""
    with read_scope() as s:
        query = select(Patient.ordinal, Patient.is_known).join(Study).where(Study.job_id == job.id).order_by(Study.uid)
        return [(ordinal, known) for ordinal, known in s.execute(query)]


def check_sums(job: Job) -> job_view.JobView:
    """The ended job, whose every slice has one outcome, and a prediction if and only if it is predicted."""
    with read_scope() as s:
        view = job_view.job_view(s, s.get_one(Job, job.id))
        predicted = s.scalar(select(func.count()).select_from(Prediction).where(Prediction.job_id == job.id))
    counts = view.counts
    assert view.state == JobState.FINISHED
    assert counts.received == counts.predicted + counts.rejected + counts.quarantined + counts.cancelled
    assert predicted == counts.predicted
    return view


def test_order_is_by_position_then_number_then_name(ann: User) -> None:
    slices = [
        ct("c", 2.0, instance_number=1),
        ct("b", -3.5, instance_number=9),
        ct("none 10"),
        ct("none 2"),
        ct("numbered", instance_number=7),
        ct("a", 2.0, instance_number=1),
        ct("late", 2.0, instance_number=0),
    ]
    job = read_job(ann, slices)
    assert names_in_order(job) == ["b", "late", "a", "c", "numbered", "none 2", "none 10"]
    assert ranks(job) == list(range(7))


def test_folder_is_a_series_in_the_natural_order_of_names(ann: User) -> None:
    facts = {"patient": "", "study_uid": None, "sop_uid": None, "orientation": None, "format": "PNG"}
    slices = [ct(f"{folder}/{n}.png", series_uid=f"folder:{folder}", **facts) for n in (10, 2, 1) for folder in "ab"]
    job = read_job(ann, slices)
    assert names_in_order(job, "folder:0:b") == ["b/1.png", "b/2.png", "b/10.png"]
    assert patients(job) == [(1, False), (2, False)]


def test_folders_of_two_archives_are_two_series(ann: User) -> None:
    facts = {"patient": "", "study_uid": None, "sop_uid": None, "series_uid": "folder:ct"}
    job = read_job(ann, [ct("1", **facts)], [ct("1", **facts), ct("2", **facts)])
    assert ranks(job) == [0, 0, 1]
    assert len(patients(job)) == 2


positions = st.one_of(st.none(), st.sampled_from([-1.5, 0.0, 0.0001, 2.0]), st.floats(-500, 500))
facts = st.tuples(positions, st.one_of(st.none(), st.just(1), st.integers(-3, 3)), st.sampled_from(["1", "2"]))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@given(
    slices=st.lists(facts, min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=2),
    seed=st.randoms(use_true_random=False),
)
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_order_is_the_same_for_any_order_of_arrival(
    ann: User, slices: Sequence[tuple[float | None, int | None, str]], cuts: list[int], seed: random.Random
) -> None:
    rows = [
        ct(f"{n}", position, instance_number=number, series_uid=series)
        for n, (position, number, series) in enumerate(slices)
    ]
    shuffled = seed.sample(rows, len(rows))
    ends = [0, *sorted(cuts), len(rows)]
    one = read_job(ann, rows)
    other = read_job(ann, *(shuffled[start:end] for start, end in pairwise(ends)))
    for series in ("1", "2"):
        assert names_in_order(one, series) == names_in_order(other, series)
    assert notes_on_slices(one) == notes_on_slices(other)


def notes_on_slices(job: Job) -> list[tuple[str, list[str]]]:
    """The notes on each series of a job, without those on the archives in which its slices came."""
    with read_scope() as s:
        rows = s.execute(select(Series.uid, Series.notes).where(Series.job_id == job.id).order_by(Series.uid)).all()
    return [(uid, [note for note in notes if note != SEVERAL_SCANS]) for uid, notes in rows]


owners = st.tuples(
    st.sampled_from([("", ""), ("p", ""), ("p", "p A"), ("p", "p B"), ("q", "")]),
    st.sampled_from([None, "1", "2"]),
    st.sampled_from("abcdefgh"),
    st.integers(0, 1),
)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@given(
    slices=st.lists(owners, min_size=1, max_size=14),
    cut=st.integers(0, 14),
    predicted_between=st.booleans(),
    seed=st.randoms(use_true_random=False),
)
@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_outcomes_are_the_same_for_any_order_of_arrival(
    ann: User,
    slices: Sequence[tuple[tuple[str, str], str | None, str, int]],
    cut: int,
    predicted_between: bool,
    seed: random.Random,
) -> None:
    rows = [
        ct(f"{n}", float(place), patient=patient, issuer=issuer, study_uid=study, sop_uid=uid)
        for n, ((patient, issuer), study, uid, place) in enumerate(slices)
    ]
    shuffled = seed.sample(rows, len(rows))
    one, other = read_job(ann, rows), submit_uploads(ann, 2)
    read_upload(shuffled[:cut])
    if predicted_between:
        predict_all()
    read_upload(shuffled[cut:])
    predict_all()
    assert outcomes(one) == outcomes(other)
    assert check_sums(one).counts == check_sums(other).counts
    assert sorted(known for _, known in patients(one)) == sorted(known for _, known in patients(other))


def test_order_holds_after_a_retry(ann: User) -> None:
    job = submit_uploads(ann, 1)
    with session_scope() as s:
        jobs.cancel_job(s, s.get_one(Job, job.id))
    cancelled = ReadSlice(0, 0, "cancelled", Outcome.CANCELLED)
    read_upload([ct("b", 2.0), cancelled, ct("a", 1.0)])
    assert names_in_order(job) == ["a", "b"]
    with session_scope() as s:
        jobs.retry_job(s, s.get_one(Job, job.id))
    read_upload([ct("b", 2.0), ct("cancelled", 0.5), ct("a", 1.0)])
    assert names_in_order(job) == ["cancelled", "a", "b"]
    predict_all()
    assert check_sums(job).counts.predicted == 3


@pytest.mark.parametrize(
    ("expected", "places"),
    [
        ([], [0, 1.25, 2.5, 3.8, 5]),
        (["gap"], [0, 1, 2, 4, 5]),
        (["uneven"], [0, 1, 2, 3.3, 4.3]),
        (["doubled"], [0, 1, 1.001, 2]),
        (["no_position"], [0, 1, 2, None]),
        ([], [5]),
        (["no_position"], [None, None]),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_row_35_notes_on_positions(ann: User, expected: list[str], places: list[float | None]) -> None:
    assert notes(read_job(ann, [ct(f"{n}", place) for n, place in enumerate(places)])) == expected


def scan(folder: str, places: Sequence[float], **facts: Any) -> list[ReadSlice]:
    return [ct(f"{folder}/{n}.dcm", place, **facts) for n, place in enumerate(places)]


def copy(slices: Sequence[ReadSlice], folder: str) -> list[ReadSlice]:
    """The same pictures, in another folder."""
    return [replace(row, name=f"{folder}/{row.name.replace('/', '_')}") for row in slices]


def without(*lost: int) -> list[int]:
    return [n for n in range(40) if n not in lost]


def scans_in_turn(count: int) -> list[ReadSlice]:
    return [row for k in range(count) for row in scan("abcd"[k], [n + k / count for n in range(8)])]


SCAN = scan("a", range(16))
THIRDS = scan("b", [n + 0.3 for n in range(9)])
SCANS = {
    "doubled": (scan("a", range(6)) + scan("b", range(6)), True),
    "uneven": (scan("a", range(6)) + scan("b", [n + 0.3 for n in range(6)]), True),
    "quarters of spacings": (scan("a", range(6)) + scan("b", [n + 0.25 for n in range(6)]), True),
    "three": (
        scan("a", range(9)) + scan("b", [20 + n for n in range(9)]) + scan("c", [21.3 + n for n in range(9)]),
        True,
    ),
    "one folder": (scan("a", [n // 2 for n in range(12)]), False),
    "parts": (scan("a", range(6)) + scan("b", range(6, 12)), False),
    "overlapping parts": (scan("a", range(6)) + scan("b", range(5, 12)), False),
    "lost slice": (scan("a", without(17)) + scan("b", [n + 0.26 for n in range(40)]), True),
    "lost slices": (scan("a", without(17)) + scan("b", [n + 0.5 for n in without(3, 8, 30)]), True),
    "thin and thick": (
        scan("a", [*range(60), *(5 * n + 0.4 for n in range(12))])
        + scan("b", [*(n + 0.2 for n in range(60)), *(5 * n + 0.6 for n in range(12))]),
        True,
    ),
    "chest and abdomen": (
        scan("a", [*range(60), *range(-100, 0, 5)]) + scan("b", [n + 0.3 for n in [*range(60), *range(-100, 0, 5)]]),
        True,
    ),
    "short thin scan": (scan("a", range(0, 300, 5)) + scan("b", [100.3 + n / 2 for n in range(100)]), True),
    "in turn": (scan("a", range(8)) + scan("b", [n + 0.5 for n in range(8)]), True),
    "four in turn": (scans_in_turn(4), True),
    "some slices of the other": (scan("a", range(9)) + copy(THIRDS[:3], "a") + THIRDS, True),
    "spread": (scan("a", [0, 3, 4, 7, 9]) + scan("b", [1, 2, 5, 6, 8]), False),
    "late slice": (scan("a", without(5)) + scan("b", range(40, 80)) + scan("c", [5, *range(80, 120)]), False),
    "late slices": (scan("a", [n for n in range(40) if n not in (5, 6, 17, 30)]) + scan("b", [5, 6, 17, 30]), False),
    "two pictures of each place": (
        scan("a", [n // 2 for n in range(40)]) + scan("b", [n // 2 + 0.3 for n in range(40)]),
        True,
    ),
    "blocks": (scan("a", [*range(20), *range(40, 60)]) + scan("b", [*range(20, 40), *range(60, 80)]), False),
    "exported twice": (copy(SCAN[:12], "a") + copy(SCAN[4:], "b"), False),
    "exported in three parts": (copy(SCAN[:7], "a") + copy(SCAN[3:12], "b") + copy(SCAN[8:], "c"), False),
    "lost slices of exports": (copy(SCAN[:3] + SCAN[4:], "a") + copy(SCAN[:10] + SCAN[11:], "b"), False),
    "copies": (scan("a", range(6), pixels_sha256="p") + scan("b", range(6), pixels_sha256="p"), False),
    "uneven spread": (scan("a", [0, 3, 4, 7, 9, 10.5]) + scan("b", [1, 2, 5, 6, 8, 11.5]), False),
    "two slices a folder": (scan("a", [0, 9]) + scan("b", [1, 8]) + scan("c", [4, 6]) + scan("d", [3, 5]), False),
    "one uneven": (
        scan("a", range(0, 12, 3))
        + scan("b", [0.5 + n for n in range(0, 12, 3)])
        + scan("c", [n**1.5 for n in range(9)]),
        True,
    ),
    "single slices": (scan("a", [1]) + scan("b", [1]), False),
    "unplaced": ([ct(f"{folder}/{n}.dcm") for folder in "ab" for n in range(6)], False),
}


@pytest.mark.parametrize(("slices", "expected"), SCANS.values(), ids=SCANS)
@pytest.mark.parametrize("kind", ["archive", "archives", "loose"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_series_of_several_folders_that_cover_the_same_positions_is_noted(
    ann: User, slices: list[ReadSlice], expected: bool, kind: str
) -> None:
    seed = random.Random(3)
    shuffled = seed.sample(slices, len(slices))
    if kind == "archive":
        job = read_job(ann, shuffled)
    elif kind == "archives":
        folders = sorted({row.name[0] for row in slices})
        files = [[replace(row, name=row.name[2:]) for row in shuffled if row.name[0] == folder] for folder in folders]
        job = read_job(ann, *files)
    else:
        with session_scope() as s:
            received = [jobs.ReceivedFile(row.name, "0" * 64, 10, "file", 1) for row in shuffled]
            job = jobs.create_job(s, owner=ann, files=received)[0]
        for row in shuffled:
            read_upload([row])
    assert ("several_scans" in notes(job)) == expected
    predict_all()
    assert check_sums(job).several_scans == expected


@pytest.mark.parametrize(("scans", "has_verdict"), [(1, True), (2, False)], ids=["one scan", "in turn"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_folders_that_may_hold_slices_of_several_people_in_turn_have_no_verdict(
    ann: User, scans: int, has_verdict: bool
) -> None:
    job = read_job(ann, [replace(row, patient="") for row in scans_in_turn(scans)])
    predict_all()
    with read_scope() as s:
        reasons = set(s.scalars(select(Finding.reason).where(Finding.job_id == job.id)))
    assert reasons == {None if has_verdict else "patient_unclear"}


@pytest.mark.parametrize(
    ("uid", "format", "expected"), [("folder:a", "DICOM", ["no_uid"]), ("folder:a", "PNG", []), ("1.2", "DICOM", [])]
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_dicom_slices_that_only_their_folder_joins_are_noted(
    ann: User, uid: str, format: str, expected: list[str]
) -> None:
    job = read_job(ann, [replace(row, series_uid=uid, format=format) for row in scan("a", range(4))])
    assert notes(job) == expected


@pytest.mark.parametrize("name", ["all", "zz_all"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_copies_in_another_folder_do_not_hide_several_scans(ann: User, name: str) -> None:
    rows = scan("p1", range(6)) + scan("p2", [n + 0.3 for n in range(6)])
    copies = copy(rows, name)
    assert "several_scans" in notes(read_job(ann, rows + copies))
    assert "several_scans" in notes(read_job(ann, copies, rows))


@pytest.mark.parametrize(
    ("expected", "orientations"),
    [
        (["tilted"], ["1\\0\\0\\0\\0.97\\-0.243"] * 2),
        (["mixed_orientation"], ["1\\0\\0\\0\\1\\0", "-1\\0\\0\\0\\1\\0"]),
        (["tilted", "mixed_orientation"], ["1\\0\\0\\0\\1\\0", "1\\0\\0\\0\\0.97\\-0.243"]),
        ([], ["1\\0\\0\\0\\1\\0", "0.99999\\0.001\\0\\-0.001\\1\\0"]),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_notes_on_orientations(ann: User, expected: list[str], orientations: list[str]) -> None:
    assert notes(read_job(ann, [ct(f"{n}", n, orientation=o) for n, o in enumerate(orientations)])) == expected


@pytest.mark.parametrize("first", ["a", "b"])
def test_two_patients_in_a_study_hold_it_back_whatever_came_first(ann: User, first: str) -> None:
    a, b = [ct("a1", 1), ct("a2", 2)], [ct("b1", 3, patient="bob's digest")]
    other = ct("other", study_uid="9", series_uid="9.1", patient="bob's digest")
    job = submit_uploads(ann, 3)
    read_upload(a if first == "a" else b)
    read_upload([other])
    predict_all()
    read_upload(b if first == "a" else a)
    predict_all()
    conflict = dict.fromkeys(("a1", "a2", "b1"), "patient_conflict")
    assert outcomes(job) == {**conflict, "other": "predicted"}
    assert check_sums(job).rejections == {"patient_conflict": 3}
    assert [known for _, known in patients(job)] == [False, True]
    assert sorted(ordinal for ordinal, _ in patients(job)) == [1, 2]


@pytest.mark.parametrize("issuers", list(permutations(["", "HOSP", ""])))
@pytest.mark.parametrize("batch", [1, 3])
def test_missing_issuer_agrees_with_the_issuer_of_the_study(ann: User, issuers: tuple[str, ...], batch: int) -> None:
    slices = [ct(f"{n}", n, issuer=issuer, series_uid=f"1.2.{n}") for n, issuer in enumerate(issuers)]
    later = ct("later", study_uid="9", series_uid="9.1", issuer="HOSP")
    job = read_job(ann, [*slices, later], batch=batch)
    predict_all()
    assert patients(job) == [(1, True), (1, True)]
    assert check_sums(job).counts.predicted == 4


@pytest.mark.parametrize("issuers", list(permutations(["", "A", "B"])))
@pytest.mark.parametrize("batch", [1, 3])
def test_two_issuers_of_an_id_are_two_patients(ann: User, issuers: tuple[str, ...], batch: int) -> None:
    slices = [ct(f"{n}", n, issuer=issuer) for n, issuer in enumerate(issuers)]
    apart = [ct(f"{issuer}", study_uid=issuer, series_uid=f"{issuer}.1", issuer=issuer) for issuer in "AB"]
    job = read_job(ann, [*slices, *apart], batch=batch)
    predict_all()
    assert outcomes(job) == {**dict.fromkeys("012", "patient_conflict"), "A": "predicted", "B": "predicted"}
    assert [known for _, known in patients(job)] == [False, True, True]
    check_sums(job)


@pytest.mark.parametrize("facts", [{}, {"patient": ""}], ids=["known", "unknown"])
def test_statements_do_not_grow_with_the_patients_of_a_batch(ann: User, facts: dict[str, str]) -> None:
    numbers = []
    for count in (2, 128):
        studies = [{"study_uid": f"1.{n}", "series_uid": f"1.{n}.1", "patient": f"{n}"} | facts for n in range(count)]
        submit_uploads(ann, 1)
        with recorded_statements() as statements:
            read_upload([ct(f"{n}", **study) for n, study in enumerate(studies)], batch=count)
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]


def test_blank_patient_ids_never_merge_and_contradict_nothing(ann: User) -> None:
    blank = {"patient": ""}
    slices = [
        ct("a", study_uid="1", series_uid="1.1", **blank),
        ct("b", study_uid="2", series_uid="2.1", **blank),
        ct("c", study_uid="3", series_uid="3.1", **blank),
        ct("d", study_uid="3", series_uid="3.1"),
        ct("e", study_uid="4", series_uid="4.1"),
    ]
    job = read_job(ann, slices, batch=1)
    predict_all()
    assert patients(job) == [(1, False), (2, False), (3, True), (3, True)]
    assert check_sums(job).counts.predicted == 5


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("alone", "with_others", "expected"), [(4, 0, True), (3, 0, False), (9, 1, True), (5, 3, False)]
)
def test_job_whose_every_slice_is_a_patient_says_so(ann: User, alone: int, with_others: int, expected: bool) -> None:
    def blank(number: int, study: int) -> ReadSlice:
        return ct(f"{study} {number}", patient="", study_uid=f"1.{study}", series_uid=f"1.{study}.1")

    slices = [*(blank(0, n) for n in range(alone)), *(blank(n, 99) for n in range(with_others))]
    folders = [ct(f"{n}.png", patient="", study_uid=None, series_uid=f"folder:{n}", format="PNG") for n in range(9)]
    conflict = [ct(f"{n} {patient}", study_uid=f"1.{n}", patient=patient) for n in range(4) for patient in "pq"]
    job, *others = (read_job(ann, rows) for rows in (slices, folders, conflict))
    predict_all()
    assert check_sums(job).each_slice_a_patient == expected
    assert not any(check_sums(other).each_slice_a_patient for other in others)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("of_one", "of_others", "expected"), [(3, 0, True), (2, 0, False), (3, 3, True), (3, 4, False)]
)
@pytest.mark.parametrize("states_study", [True, False])
def test_job_whose_studies_have_one_patient_id_says_so(
    ann: User, of_one: int, of_others: int, expected: bool, states_study: bool
) -> None:
    def study(number: int, patient: str) -> list[ReadSlice]:
        uid = f"1.{number}" if states_study else None
        return [ct(f"{number} {n}", n, patient=patient, study_uid=uid, series_uid=f"1.{number}.1") for n in range(2)]

    folders = [ct(f"{n}.png", patient="", study_uid=None, series_uid=f"folder:{n}", format="PNG") for n in range(9)]
    rows = [row for n in range(of_one + of_others) for row in study(n, "one" if n < of_one else f"other {n}")]
    job = read_job(ann, rows, folders)
    predict_all()
    assert check_sums(job).one_patient_for_all == expected


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("alone", "with_others", "expected"), [(4, 0, True), (3, 0, False), (9, 1, True), (5, 3, False)]
)
@pytest.mark.parametrize("level", ["study_uid", "series_uid"])
def test_job_whose_every_slice_is_a_series_says_so(
    ann: User, alone: int, with_others: int, expected: bool, level: str
) -> None:
    rows = [ct(f"{n}", n, **{level: f"9.{n}"}) for n in range(alone)]
    job = read_job(ann, rows + [ct(f"with {n}", n) for n in range(with_others)])
    predict_all()
    view = check_sums(job)
    assert (view.each_slice_a_series, view.each_slice_a_patient) == (expected, False)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_series_whose_slices_are_all_damaged_do_not_count_as_series_of_one_slice(ann: User) -> None:
    rows = [
        ct(f"{s} {n}", n, study_uid=f"{s}", series_uid=f"{s}.1", patient=f"{s}") for s in range(4) for n in range(3)
    ]
    damaged = [replace(row, state=Outcome.REJECTED, reason="malformed") for row in rows]
    job = read_job(ann, [*damaged, ct("whole", 1)])
    predict_all()
    view = check_sums(job)
    assert (view.each_slice_a_series, view.each_slice_a_patient) == (False, False)


def test_patients_are_in_no_conflict_in_a_study_that_is_not_stated(ann: User) -> None:
    nowhere = {"study_uid": None, "series_uid": "folder:ct"}
    job = read_job(
        ann, [ct("a", **nowhere), ct("b", patient="bob's digest", **nowhere), ct("c", patient="", **nowhere)]
    )
    assert set(outcomes(job).values()) == {"open"}
    assert sorted(patients(job)) == [(1, True), (2, True), (3, False)]


@pytest.mark.parametrize("predicted_before", [True, False])
def test_instances_with_one_uid_and_other_bytes_are_all_rejected(ann: User, predicted_before: bool) -> None:
    twin = {"sop_uid": "1.2.3.9"}
    job = submit_uploads(ann, 2)
    read_upload([ct("a", 1, **twin), ct("b", 2), ct("copy", 2, sha256=ct("b").sha256, sop_uid="1.2.3.b")])
    if predicted_before:
        predict_all()
    read_upload([ct("other", 1, **twin), ct("c", 3)])
    predict_all()
    conflict = dict.fromkeys(("a", "other"), "uid_conflict")
    assert outcomes(job) == {**conflict, **dict.fromkeys("bc", "predicted"), "copy": "predicted"}
    check_sums(job)


def test_a_damaged_copy_is_not_in_conflict_with_its_slice(ann: User) -> None:
    damaged = replace(ct("damaged", 1, sop_uid="1.2.3.a"), state=Outcome.REJECTED, reason="malformed")
    job = submit_uploads(ann, 1)
    read_upload([ct("a", 1), damaged, ct("b", 2)])
    predict_all()
    assert outcomes(job) == {"a": "predicted", "damaged": "malformed", "b": "predicted"}
    check_sums(job)


def test_many_slices_at_one_place_are_bolus_tracking(ann: User) -> None:
    scan = [ct(f"scan {n}", n) for n in range(8)]
    tracking = [ct(f"track {n}", 3.0) for n in range(TRACKED)]
    alone = [ct(f"alone {n}", 7.0, series_uid="1.2.4") for n in range(TRACKED)]
    job = submit_uploads(ann, 2)
    read_upload(scan + tracking[1:])
    predict_all()
    read_upload([tracking[0], *alone])
    predict_all()
    found = outcomes(job)
    assert {name for name, outcome in found.items() if outcome == "bolus_tracking"} == {
        row.name for row in (scan[3], *tracking, *alone)
    }
    assert check_sums(job).counts.predicted == 7


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_series_in_time_and_copies_of_a_slice_are_no_bolus_tracking(ann: User, database: Settings) -> None:
    in_time = [ct(f"{place} {time}", place) for place in range(3) for time in range(TRACKED)]
    copies = [ct(f"copy {n}", 7.0, series_uid="1.2.4", pixels_sha256="p") for n in range(TRACKED)]
    assert set(outcomes(read_job(ann, in_time, copies)).values()) == {"open"}
    tracking = [ct(f"track {n}", 3.0) for n in range(TRACKED)]
    base.use(database.model_copy(update={"set_apart": ("localizer",)}))
    assert set(outcomes(read_job(ann, tracking)).values()) == {"open"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_series_in_time_is_kept_whole_if_the_share_of_lung_varies_at_some_places(ann: User) -> None:
    def share(place: int, time: int) -> float:
        return 0.2 + (0.03 * time if place < 2 else 0)

    in_time = [ct(f"{p} {n}", p, lung_fraction=share(p, n)) for p in range(4) for n in range(TRACKED)]
    assert set(outcomes(read_job(ann, in_time)).values()) == {"open"}


def test_series_in_time_is_predicted_whole_after_a_retry(ann: User) -> None:
    in_time = [ct(f"{place} {time}", place) for place in range(4) for time in range(TRACKED)]
    job = submit_uploads(ann, 2)
    read_upload([ct("other", 1, series_uid="1.2.4")])
    read_upload(in_time[: 2 * TRACKED], error="file_damaged")
    predict_all()
    assert list(outcomes(job).values()).count("bolus_tracking") == 2 * TRACKED
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 1
    read_upload(in_time)
    predict_all()
    assert check_sums(job).counts.predicted == 1 + 4 * TRACKED


def test_bolus_tracking_stays_rejected_after_a_retry_that_is_cancelled(ann: User) -> None:
    tracking = [ct(f"track {n}", 3.0) for n in range(TRACKED)]
    job = submit_uploads(ann, 2)
    read_upload([*tracking, ct("scan", 7.0)])
    read_upload([ct("other", 1.0, series_uid="1.2.4")], error="truncated_archive")
    predict_all()
    before = outcomes(job)
    assert {before[row.name] for row in tracking} == {"bolus_tracking"}
    for act in (jobs.retry_job, jobs.cancel_job):
        with session_scope() as s:
            assert act(s, s.get_one(Job, job.id)) == 1
    read_upload([], error="not_listed")
    assert outcomes(job) == before


def test_bolus_tracking_stays_rejected_after_a_retry(ann: User) -> None:
    tracking = [ct(f"track {n}", 3.0) for n in range(TRACKED)]
    job = submit_uploads(ann, 1)
    read_upload(tracking, error="file_damaged")
    predict_all()
    with session_scope() as s:
        jobs.retry_job(s, s.get_one(Job, job.id))
    predict_all()
    read_upload([*tracking, ct("scan", 7.0)])
    predict_all()
    assert outcomes(job) == {**{row.name: "bolus_tracking" for row in tracking}, "scan": "predicted"}
    check_sums(job)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_scan_whose_slices_all_state_one_position_is_no_bolus_tracking(ann: User) -> None:
    def at_one_position(series: str, shares: Sequence[float]) -> list[ReadSlice]:
        facts = {"series_uid": series}
        return [ct(f"{series} {n}", 0.0, instance_number=n, lung_fraction=x, **facts) for n, x in enumerate(shares)]

    scan = at_one_position("scan", [0.01, 0.1, 0.2, 0.25, 0.2, 0.1, 0.02] * 4)
    breathing = at_one_position("tracking", [0.2, 0.21, 0.24, 0.27, 0.25, 0.22])
    job = read_job(ann, scan, breathing)
    assert {name for name, outcome in outcomes(job).items() if outcome == "bolus_tracking"} == {
        row.name for row in breathing
    }
    assert names_in_order(job, "scan") == [row.name for row in scan]
    with read_scope() as s:
        assert s.scalars(select(Series.notes).where(Series.uid == "scan")).one() == ["doubled"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("locations", "expected"),
    [
        ([10.0 * n for n in range(8)], {"open"}),
        ([10.0] * 8, {"bolus_tracking"}),
        ([None, *(10.0 * n for n in range(7))], {"bolus_tracking"}),
        ([10.0 + 0.02 * n for n in range(8)], {"bolus_tracking"}),
    ],
)
def test_locations_count_if_all_slices_state_one_position(
    ann: User, locations: list[float | None], expected: set[str]
) -> None:
    scan = [ct(f"{n}.dcm", 5.0, location=location, lung_fraction=0.3) for n, location in enumerate(locations)]
    job = read_job(ann, scan[::-1])
    assert set(outcomes(job).values()) == expected
    if expected == {"open"}:
        assert names_in_order(job) == [f"{n}.dcm" for n in range(8)]
        assert notes(job) == ["by_location"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_locations_count_if_positions_differ_only_by_rounding(ann: User) -> None:
    positions = [5.0 + 0.0001 * (3 * n % 8) for n in range(8)]
    scan = [ct(f"{n}", place, location=10.0 * n, lung_fraction=0.3) for n, place in enumerate(positions)]
    job = read_job(ann, scan)
    assert set(outcomes(job).values()) == {"open"}
    assert notes(job) == ["by_location"]
    assert names_in_order(job) == [f"{n}" for n in range(8)]


def is_placed(job: Job) -> bool:
    with read_scope() as s:
        series_id = s.scalars(select(Series.id).where(Series.job_id == job.id)).one()
        return placed_series(s, [series_id]) == {series_id}


@pytest.mark.parametrize("missing", [range(9), range(2, 9, 3)], ids=["all", "some"])
def test_locations_order_a_series_that_lacks_positions_without_a_direction(ann: User, missing: Sequence[int]) -> None:
    slices = [ct(f"{n}", None if n in missing else float(n), location=-1.0 - n) for n in range(9)]
    job = read_job(ann, random.Random(3).sample(slices, 9))
    assert names_in_order(job) == [f"{n}" for n in reversed(range(9))]
    assert (notes(job), is_placed(job)) == (["by_location"], False)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("locations", [[-9.0, -1.0, None], [5.0, 5.0, 5.0]], ids=["not all", "one"])
def test_positions_and_locations_are_never_mixed(ann: User, locations: list[float | None]) -> None:
    positions = [1.0, 2.0, None]
    slices = [ct(f"{n}", p, location=x) for n, (p, x) in enumerate(zip(positions, locations, strict=True))]
    slices.append(ct("3", None, location=5.0, instance_number=1))
    slices.append(ct("4", 3.0, location=5.0, instance_number=1))
    job = read_job(ann, slices[::-1])
    assert names_in_order(job)[:3] == ["0", "1", "4"]
    assert (notes(job), is_placed(job)) == (["no_position"], False)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_dummy_in_place_of_all_positions_or_locations_is_not_bolus_tracking(ann: User) -> None:
    locations = [ct(f"location {n}", location=5.0 + n / 100, series_uid="1") for n in range(TRACKED)]
    positions = [ct(f"position {n}", 0.0, series_uid="2", orientation="") for n in range(TRACKED)]
    tracking = [ct(f"track {n}", 3.0 if n < TRACKED else n, series_uid="3", orientation="") for n in range(2 * TRACKED)]
    found = outcomes(read_job(ann, locations, positions, tracking))
    assert [name for name, outcome in found.items() if outcome == "bolus_tracking"] == [
        f"track {n}" for n in range(TRACKED)
    ]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_positions_that_differ_only_by_rounding_do_not_order_slices(ann: User) -> None:
    scan = [ct(f"{n}", 5.0 + 0.0001 * (3 * n % 4), instance_number=n) for n in range(4)]
    assert names_in_order(read_job(ann, scan)) == [f"{n}" for n in range(4)]


def test_conflict_holds_after_a_retry(ann: User, champion: ModelVersion) -> None:
    job = submit_uploads(ann, 1)
    with session_scope() as s:
        jobs.cancel_job(s, s.get_one(Job, job.id))
    read_upload([ct("a", 1), ReadSlice(0, 0, "b", Outcome.CANCELLED)])
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 2
    predict_all()
    assert outcomes(job)["a"] == "predicted"
    read_upload([ct("a", 1), ct("b", 2, patient="bob's digest")])
    predict_all()
    assert set(outcomes(job).values()) == {"patient_conflict"}
    check_sums(job)
