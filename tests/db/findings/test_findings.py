"""The findings of a job: written when it ends, the same for any order of arrival, and taken back by a retry."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from cli.files.parts import gather
from db.database import read_scope, session_scope
from db.findings import views
from db.findings.recording import read_findings, write_findings
from db.findings.rules import DEFAULT_K, RULES
from db.findings.views import FindingsQuery, findings_page
from db.ledger import jobs
from db.ledger.job_view import job_view
from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.ledger.series import series_after
from db.models import (
    Finding,
    Job,
    Level,
    ModelVersion,
    Outcome,
    Patient,
    Prediction,
    Series,
    Slice,
    Study,
    Upload,
    User,
)
from db.models.documents import FindingRule, Rate, Tuning
from db.series.rows import LOOSE
from tests.builders.series import predict_all, read_upload, submit_uploads
from tests.builders.statements import recorded_statements

pytestmark = pytest.mark.usefixtures("champion")

ROWS_A_BATCH = 7


def slices(count: int, series: str = "1", study: str = "1", patient: str = "p", **values: Any) -> list[ReadSlice]:
    """Slices of one series; their names state what they are, and `probability_of` scores them by their name."""
    name = f"{study}/{series}"
    return [
        ReadSlice(
            0, 0, f"{name}/{i}.dcm", Outcome.OPEN, sha256=f"{name}/{i}", pixels_sha256=f"{name}/{i}", lung_fraction=0.2,
            patient=patient, study_uid=study, series_uid=series, series_label=f"series {series}", instance_number=i,
        )
        for i in range(count)
    ]  # fmt: skip


def rejected(reason: str, count: int, folder: str, **values: Any) -> list[ReadSlice]:
    return [ReadSlice(0, 0, f"{folder}/bad {reason} {i}", Outcome.REJECTED, reason, **values) for i in range(count)]


def not_read(count: int, folder: str) -> list[ReadSlice]:
    return [ReadSlice(0, 0, f"{folder}/{i}.dcm", Outcome.CANCELLED) for i in range(100, 100 + count)]


def probability_of(name: str) -> float:
    return random.Random(name).uniform(0, 1)


def run_job(owner: User, *uploads: Sequence[ReadSlice], error: str | None = None, ood: Iterable[str] = ()) -> Job:
    """Submit a job, read the rows of its uploads in this order, and predict what is open."""
    job = submit_uploads(owner, len(uploads))
    for rows in uploads:
        read_upload(rows, ROWS_A_BATCH, error)
    predict_all(lambda id_, name: scored_slice(id_, name, name in ood))
    return job


def rewrite_findings(s: Session, job: Job) -> None:
    own = s.get_one(Job, job.id)
    write_findings(s, own, read_findings(s, own))


def scored_slice(slice_id: int, name: str, ood: bool) -> PredictedSlice:
    chance = probability_of(name)
    return PredictedSlice(slice_id, 0.0, chance, chance >= 0.5, bytes(98), 1.0, ood)


def findings(job: Job) -> list[Finding]:
    with read_scope() as s:
        return list(s.scalars(select(Finding).where(Finding.job_id == job.id).order_by(Finding.ordinal)))


def only(job: Job, level: Level = Level.PATIENT) -> Finding:
    (finding,) = [one for one in findings(job) if one.level == level]
    return finding


def use_rule(rule: FindingRule) -> None:
    """Let all model versions use this rule of findings."""
    with session_scope() as s:
        s.execute(update(ModelVersion).values(finding_rule=rule))


def verdicts(job: Job) -> list[tuple[Any, ...]]:
    """The findings of a job without what is left out."""
    return [(one.level, one.verdict, one.reason, one.score, one.used, one.ood) for one in findings(job)]


def told(job: Job) -> set[tuple[Any, ...]]:
    """What the findings of a job say, without ids and places, which depend on what came first."""
    with read_scope() as s:
        query = (
            select(Finding, Patient.is_known, Study.uid, Series.uid)
            .join(Patient, Patient.id == Finding.patient_id)
            .outerjoin(Study, Study.id == Finding.study_id)
            .outerjoin(Series, Series.id == Finding.series_id)
            .where(Finding.job_id == job.id)
        )
        return {
            (f.level, known, study, series, f.verdict, f.reason, f.score, f.used, f.ood, tuple(f.left_out.items()))
            for f, known, study, series in s.execute(query)
        }


def test_patient_comes_first_then_studies_with_their_series(ann: User) -> None:
    job = run_job(ann, [*slices(3), *slices(3, "2"), *slices(3, "3", "2"), *slices(3, "4", "3", "q")])
    levels = [one.level for one in findings(job)]
    assert levels == ["patient", "study", "series", "series", "study", "series", "patient", "study", "series"]
    assert [one.used for one in findings(job)] == [9, 6, 3, 3, 3, 3, 3, 3, 3]


def test_finding_states_its_rule_and_what_it_rests_on(ann: User, champion: ModelVersion) -> None:
    rows = [*slices(12), replace(slices(13)[12], lung_fraction=0.001)]
    job = run_job(ann, rows, ood=["1/1/3.dcm"])
    finding = only(job)
    scores = sorted((probability_of(row.name) for row in rows[:12]), reverse=True)[:DEFAULT_K]
    assert finding.score == pytest.approx(np.mean(scores), abs=1e-12)
    assert (finding.rule, finding.rule_version, finding.k) == ("top-k-mean", 2, DEFAULT_K)
    assert finding.threshold == champion.threshold
    assert (finding.used, finding.ood, finding.left_out) == (12, 1, {"little_lung": 1})
    assert (finding.low, finding.high) == (None, None)


def test_the_finding_is_the_same_for_any_order_of_arrival(ann: User) -> None:
    rows = [
        *slices(20),
        *slices(9, "2"),
        *slices(11, "3", "2"),
        *slices(8, "4", "3", "q"),
        *rejected("truncated", 2, "1/1"),
        *slices(3, "5", "4", ""),
    ]
    ood = [row.name for row in rows[:4]]
    first = told(run_job(ann, rows, ood=ood))
    assert len(first) == 12
    for seed in range(4):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert told(run_job(ann, shuffled, ood=ood)) == first


def test_the_rule_that_was_tuned_is_used_with_its_interval(ann: User, champion: ModelVersion) -> None:
    right = {"precision": Rate(value=0.9, low=0.8, high=0.95), "negative_precision": Rate(value=0.7, low=0.6, high=0.8)}
    tuning = Tuning(dataset="site/1", engine="fake", seed=7, groups={"COVID": 20, "non-COVID": 20}, held_out=right)
    rule = FindingRule(rule="max", version=2, threshold=0.01, tuned=tuning)
    use_rule(rule)
    finding = only(run_job(ann, slices(5)))
    assert (finding.rule, finding.verdict, finding.low, finding.high) == ("max", "COVID", 0.8, 0.95)


PEOPLE = [("b1", ""), ("", "m"), ("b2", "")]


@pytest.mark.parametrize("seed", range(3))
def test_patient_of_several_birth_dates_has_no_verdict(ann: User, seed: int) -> None:
    people = random.Random(seed).sample(PEOPLE, 3)
    rows = [
        replace(row, birth_date=born, sex=sex)
        for n, (born, sex) in enumerate(people)
        for row in slices(5, f"{n}", f"study {n}")
    ]
    job = run_job(ann, random.Random(seed).sample(rows, len(rows)))
    reasons = [(one.level, one.reason) for one in findings(job)]
    assert reasons == [("patient", "patient_unclear"), *[("study", None), ("series", None)] * 3]


@pytest.mark.parametrize("seed", range(3))
def test_study_of_several_sexes_has_no_verdict_and_its_series_have(ann: User, seed: int) -> None:
    rows = [replace(row, sex=sex) for sex in ("", "m", "f") for row in slices(3, sex or "none")]
    job = run_job(ann, random.Random(seed).sample(rows, len(rows)))
    reasons = [(one.level, one.reason) for one in findings(job)]
    assert reasons == [("patient", "patient_unclear"), ("study", "patient_unclear"), *[("series", None)] * 3]


@pytest.mark.parametrize(("patient", "unclear"), [("", True), ("p", False)], ids=["no ID", "ID"])
@pytest.mark.parametrize("seed", range(3))
def test_series_of_several_scans_without_a_patient_has_no_verdict(
    ann: User, patient: str, unclear: bool, seed: int
) -> None:
    def scan(folder: str) -> list[ReadSlice]:
        return [
            replace(row, name=f"{folder}/{n}", sha256=f"{folder}{n}", pixels_sha256=f"{folder}{n}", position=float(n))
            for n, row in enumerate(slices(5, "one", "one", patient))
        ]

    rows = [*scan("a"), *scan("b"), *slices(5, "two", "one", patient)]
    job = run_job(ann, random.Random(seed).sample(rows, len(rows)))
    reasons = {(one.level, one.reason) for one in findings(job)}
    kept = {("series", None)}
    mixed = {(level, "patient_unclear") for level in ("patient", "study", "series")}
    assert reasons == (mixed | kept if unclear else kept | {("study", None), ("patient", None)})


def test_birth_date_that_some_files_leave_out_changes_no_verdict(ann: User) -> None:
    rows = [replace(row, birth_date=born) for born in ("", "b1") for row in slices(5, born or "none")]
    other = [replace(row, birth_date="b2") for row in slices(5, "3", "3", "q")]
    assert {one.reason for one in findings(run_job(ann, [*rows, *other]))} == {None}


@pytest.mark.parametrize(("fast", "threshold"), [(1, 0.5), (2, 0.3), (4, 0.3)])
def test_threshold_is_that_of_the_engine_of_most_predictions(ann: User, fast: int, threshold: float) -> None:
    with session_scope() as s:
        s.execute(update(ModelVersion).values(calibration={"a-fast": {"threshold": 0.3}}))
    rows = slices(fast + 2)
    submit_uploads(ann, 1)
    read_upload(rows[:2])
    predict_all(engine="keras-f32")  # the job below takes these two predictions from here
    job = submit_uploads(ann, 1)
    read_upload(rows)
    predict_all(engine="a-fast")
    assert only(job).threshold == threshold
    with read_scope() as s:
        assert job_view(s, s.get_one(Job, job.id)).thresholds == {"a-fast": 0.3, "keras-f32": 0.5}


def test_files_lost_in_the_folder_of_a_series_are_missing_from_it(ann: User) -> None:
    rows = [*slices(8), *slices(8, "2"), *rejected("truncated", 5, "1/1"), *rejected("format", 50, "1/2")]
    job = run_job(ann, rows)
    by_series = [(one.reason, one.left_out) for one in findings(job) if one.level == Level.SERIES]
    assert by_series == [("missing", {"truncated": 5}), (None, {})]
    assert only(job, Level.STUDY).left_out == {"truncated": 5}


@pytest.mark.parametrize("rule", RULES)
def test_slices_that_come_twice_count_once(ann: User, rule: str) -> None:
    use_rule(FindingRule(rule=rule, version=RULES[rule].version, k=10 if RULES[rule].takes_k else None, threshold=0.5))
    bare = replace(slices(20)[19], lung_fraction=0.001)
    damaged = [replace(row, sha256=row.name) for row in rejected("truncated", 4, "1/1")]
    rows = [*slices(19), bare, *slices(8, "2"), *damaged]
    once = run_job(ann, rows)
    within, uploads = run_job(ann, [*rows, *reversed(rows)]), run_job(ann, rows, rows)
    for twice in (within, uploads):
        assert verdicts(twice) == verdicts(once)
        assert only(twice).left_out == {"copy": 32, "little_lung": 1, "truncated": 4}
    assert only(once).verdict is not None


@pytest.mark.parametrize("rule", RULES)
def test_scan_in_five_reconstructions_gets_the_score_of_one(ann: User, rule: str) -> None:
    use_rule(FindingRule(rule=rule, version=2, k=10 if RULES[rule].takes_k else None, threshold=0.5))
    scores = []
    for count in (1, 5):
        job = submit_uploads(ann, 1)
        read_upload([row for number in range(count) for row in slices(30, f"kernel {number}")], 40)
        predict_all(lambda id_, name: scored_slice(id_, name.rpartition("/")[2], False))
        scores.append({one.score for one in findings(job)})
        assert only(job).used == 30 * count
    assert scores[0] == scores[1]
    assert len(scores[0]) == 1


def test_series_without_a_verdict_does_not_decide(ann: User) -> None:
    use_rule(FindingRule(rule="max", version=2, threshold=0.5))
    rows = [*slices(40), *slices(5, "2"), *rejected("truncated", 3, "1/2"), *slices(6, "3", "2")]
    rows += [replace(row, lung_fraction=0.001) for row in slices(9, "4")]
    job = run_job(ann, rows, ood=[row.name for row in slices(6, "3", "2")])
    by_series = [one for one in findings(job) if one.level == Level.SERIES]
    assert [one.reason for one in by_series] == [None, "missing", "no_lung", "ood"]
    assert only(job).score == by_series[0].score
    assert only(job).used == 51


@pytest.mark.parametrize(("threshold", "verdict"), [(0.0, "COVID"), (1.0, "non-COVID")])
def test_series_out_of_distribution_silences_neither_its_study_nor_its_patient(
    ann: User, threshold: float, verdict: str
) -> None:
    use_rule(FindingRule(rule="max", version=2, threshold=threshold))
    lung, soft = slices(60, "lung"), slices(60, "soft")
    job = run_job(ann, [*lung, *soft], ood=[row.name for row in soft])
    by_level = [(one.level, one.verdict, one.reason, one.ood) for one in findings(job)]
    of_parts = [("patient", verdict, None, 60), ("study", verdict, None, 60), ("series", verdict, None, 0)]
    assert by_level == [*of_parts, ("series", None, "ood", 60)]


@pytest.mark.parametrize(("threshold", "outcome"), [(0.0, ("COVID", None)), (1.0, (None, "missing"))])
@pytest.mark.parametrize(("whole", "cut", "lost"), [(40, 5, 3), (5, 5, 30), (5, 0, 5)])
def test_patient_with_a_series_that_lacks_slices_may_be_covid_but_not_non_covid(
    ann: User, whole: int, cut: int, lost: int, threshold: float, outcome: tuple[str | None, str | None]
) -> None:
    use_rule(FindingRule(rule="max", version=2, threshold=threshold))
    damaged = [replace(row, state=Outcome.REJECTED, reason="malformed") for row in slices(cut + lost, "2")[cut:]]
    job = run_job(ann, [*slices(whole), *slices(cut, "2"), *damaged])
    assert [(one.verdict, one.reason) for one in findings(job)][:2] == [outcome] * 2
    assert findings(job)[-1].reason == "missing"


@pytest.mark.parametrize(("threshold", "outcome"), [(0.0, ("COVID", None)), (1.0, (None, "odd_hu"))])
@pytest.mark.parametrize("lung", [0.2, 0.001])
def test_series_that_may_not_be_in_hu_gives_no_verdict_and_keeps_back_non_covid(
    ann: User, lung: float, threshold: float, outcome: tuple[str | None, str | None]
) -> None:
    use_rule(FindingRule(rule="max", version=2, threshold=threshold))
    half = [replace(row, notes=("odd_hu",)) for row in slices(5)]
    odd = [replace(row, notes=("odd_hu",), lung_fraction=lung) for row in slices(6, "2")]
    job = run_job(ann, [*half, *slices(10)[5:], *odd, *slices(12, "2")[7:]])
    assert [(one.verdict, one.reason) for one in findings(job)][:2] == [outcome] * 2
    assert [one.reason for one in findings(job) if one.level == Level.SERIES] == [None, "odd_hu"]


@pytest.mark.parametrize(("threshold", "outcome"), [(0.0, ("COVID", None)), (1.0, (None, "missing"))])
@pytest.mark.parametrize(("owned", "lost"), [(0, 6), (2, 4)])
def test_study_that_lacks_slices_of_unknown_series_does_not_decide(
    ann: User, owned: int, lost: int, threshold: float, outcome: tuple[str | None, str | None]
) -> None:
    use_rule(FindingRule(rule="max", version=2, threshold=threshold))
    together = [replace(row, name=f"ct/{row.name.replace('/', ' ')}") for row in [*slices(8), *slices(8, "2")]]
    damaged = [replace(row, state=Outcome.REJECTED, reason="malformed") for row in slices(8 + owned)[8:]]
    rows = [*together, *damaged, *rejected("truncated", lost, "ct"), *slices(99, "3", "2")]
    by_level = [(one.level, one.verdict, one.reason) for one in findings(run_job(ann, rows))]
    assert by_level[0] == ("patient", *outcome)
    assert ("study", None, "missing") in by_level
    assert ("series", None, "missing") not in by_level


def test_of_two_copies_the_predicted_one_counts(ann: User) -> None:
    job = run_job(ann, [*slices(4), *slices(4)])
    with session_scope() as s:
        lost = s.scalars(select(Slice.id).where(Slice.job_id == job.id).order_by(Slice.ordinal.desc()).limit(4)).all()
        s.execute(delete(Prediction).where(Prediction.slice_id.in_(lost)))
        s.execute(update(Slice).where(Slice.id.in_(lost)).values(state=Outcome.QUARANTINED, reason="worker_lost"))
        rewrite_findings(s, job)
    assert (only(job).used, only(job).left_out) == (4, {"copy": 4})


def of_archives(*names: str) -> list[ReadSlice]:
    """Four slices from each archive; each archive has a patient, a study and a series of its own."""
    rows = [(name, row) for name in names for row in slices(4, name, name, name)]
    return [replace(row, name=f"{name}/{i}.dcm") for i, (name, row) in enumerate(rows)]


def damaged(name: str, reason: str) -> ReadSlice:
    return ReadSlice(0, 0, name, Outcome.REJECTED, reason)


@pytest.mark.parametrize(
    ("name", "reason", "failed"),
    [
        ("a/1.zip", "malformed_archive", {"a/1.zip"}),  # slices of it were read
        ("a\\1.zip", "malformed_archive", {"a/1.zip"}),
        (
            "a/3.zip",
            "truncated_archive",
            {"a/1.zip", "a/2.tar.gz"},
        ),  # none was read: it may hold slices of those beside
        ("a/3.tar.xz", "corrupt", {"a/1.zip", "a/2.tar.gz"}),  # damaged before it was opened
        ("a/3.zip", "format", {"a/1.zip", "a/2.tar.gz"}),
        ("3.zip", "too_large_unpacked", {"a/1.zip", "a/2.tar.gz", "b/1.zip", "c.gz"}),
        ("d/3.zip", "truncated_archive", set()),
        ("c.gz", "truncated_archive", {"c.gz"}),
        ("a/3.zip", "nested", set()),
        ("a/3.dcm.gz", "truncated_archive", set()),  # one file
    ],
)
def test_archive_inside_an_upload_fails_what_it_may_hold(ann: User, name: str, reason: str, failed: set[str]) -> None:
    job = run_job(ann, [*of_archives("a/1.zip", "a/2.tar.gz", "b/1.zip", "c.gz"), damaged(name, reason)])
    for level in Level:
        assert sum(one.reason == "upload_failed" for one in findings(job) if one.level == level) == len(failed)
    with read_scope() as s:
        query = select(Series.uid).join(Finding, Finding.series_id == Series.id).where(Finding.job_id == job.id)
        assert set(s.scalars(query.where(Finding.reason == "upload_failed"))) == failed


def test_packed_file_that_is_damaged_is_missing_from_its_folder(ann: User) -> None:
    job = run_job(ann, [*slices(8), damaged("1/1/x.dcm.gz", "truncated_archive"), damaged("1/1/y.gz", "corrupt")])
    assert only(job).left_out == {"corrupt": 1, "truncated_archive": 1}


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("x.dcm", {"format": 1}), ("x.DCM", {"format": 1}), ("x.txt", {}), ("x", {}), ("dcm", {}), ("sub/x.dcm", {})],
)
def test_file_of_no_image_is_missing_if_slices_beside_it_have_its_suffix(
    ann: User, name: str, left_out: dict[str, int]
) -> None:
    assert only(run_job(ann, [*slices(8), damaged(f"1/1/{name}", "format")])).left_out == left_out


def test_study_of_two_patients_gives_no_verdict(ann: User) -> None:
    job = run_job(ann, [*slices(5), *slices(5, patient="q"), *slices(5, "3", "2")])
    reasons = {one.study_id: one.reason for one in findings(job) if one.level == Level.STUDY}
    assert sorted(map(str, reasons.values())) == ["None", "patient_conflict"]


def test_upload_that_breaks_off_gives_no_verdict(ann: User) -> None:
    assert only(run_job(ann, slices(5), error="truncated_archive")).reason == "upload_failed"


@pytest.mark.parametrize(("unread", "reason"), [(3, None), (4, "missing"), (87, "missing")])
def test_files_that_a_cancelled_job_did_not_read_are_missing(ann: User, unread: int, reason: str | None) -> None:
    job = run_job(ann, [*slices(10), *not_read(unread, "1/1")])
    assert {(one.reason, one.left_out["cancelled"]) for one in findings(job)} == {(reason, unread)}


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (not_read(5, "ct"), "upload_failed"),
        (rejected("decoder_budget", 5, "ct"), "upload_failed"),
        (rejected("truncated", 5, "ct"), None),
        (not_read(5, "other"), None),
    ],
)
def test_files_not_read_cut_off_all_patients_of_their_folder(
    ann: User, lost: list[ReadSlice], reason: str | None
) -> None:
    patients = [*slices(10), *slices(10, "2", "2", "q")]
    job = run_job(ann, [*(replace(row, name=f"ct/{row.name.replace('/', ' ')}") for row in patients), *lost])
    assert {one.reason for one in findings(job)} == {reason}


@pytest.mark.parametrize(("lost", "reason"), [(3, None), (4, "missing")])
@pytest.mark.parametrize(
    ("error", "code"), [("file_missing", "file_missing"), ("3 workers died while unpacking it", "upload_failed")]
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_loose_files_that_cannot_be_unpacked_are_missing_from_their_folder(
    ann: User, lost: int, reason: str | None, error: str, code: str
) -> None:
    files = [jobs.ReceivedFile(f"{i}.dcm", f"{i:064}", 10, LOOSE, None) for i in range(10 + lost)]
    with session_scope() as s:
        job = jobs.create_job(s, owner=ann, files=files)[0]
    for i, row in enumerate(slices(10)):
        read_upload([replace(row, name=f"{i}.dcm")])
    for _ in range(lost):
        read_upload([], error=error)
    predict_all()
    assert {(one.reason, one.left_out[code]) for one in findings(job)} == {(reason, lost)}


def send_loose(owner: User, names: Sequence[str]) -> Job:
    """Submit loose files, named as the CLI and the submit page name them."""
    files = [jobs.ReceivedFile(name, f"{i:064}", 10, LOOSE, None) for i, name in enumerate(names)]
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=files)[0]


@pytest.fixture
def two_folders(tmp_path: Path) -> list[str]:
    """The names under which the CLI sends six files of a folder and eight of another."""
    paths = [tmp_path / folder / f"{i}.dcm" for folder, count in (("A", 6), ("B", 8)) for i in range(count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return [part.filename for part in gather(paths)[0]]


@pytest.mark.parametrize(("lost", "code"), [(None, "file_missing"), ("corrupt", "corrupt"), ("format", "format")])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_loose_files_of_a_folder_without_slices_are_missing_from_all_loose_files(
    ann: User, two_folders: list[str], lost: str | None, code: str
) -> None:
    job = send_loose(ann, two_folders)
    for name, row in zip(two_folders, slices(6), strict=False):
        read_upload([replace(row, name=name)])
    for name in two_folders[6:]:
        read_upload([ReadSlice(0, 0, name, Outcome.REJECTED, lost)] if lost else [], error=None if lost else code)
    predict_all()
    assert {(one.reason, one.left_out[code]) for one in findings(job)} == {("missing", 8)}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_folder_of_a_lost_loose_file_decides_if_it_holds_slices(ann: User, two_folders: list[str]) -> None:
    job = send_loose(ann, two_folders)
    for name, row in zip(two_folders, [*slices(6), *slices(5, "2", "2", "q")], strict=False):
        read_upload([replace(row, name=name)])
    for name in two_folders[11:]:
        read_upload([ReadSlice(0, 0, name, Outcome.REJECTED, "corrupt")])
    predict_all()
    assert [one.left_out.get("corrupt", 0) for one in findings(job)] == [0, 0, 0, 3, 3, 3]
    assert [one.reason for one in findings(job)] == [None, None, None, "missing", "missing", "missing"]


@pytest.mark.parametrize("error", ["file_missing", "file_damaged", "not_listed", "3 workers died while unpacking it"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_loose_file_of_a_folder_without_slices_cuts_off_the_series_of_all_patients(ann: User, error: str) -> None:
    names = [f"{folder}/{i}.dcm" for folder in "ab" for i in range(3)] + ["c/1.dcm"]
    job = send_loose(ann, names)
    for name, row in zip(names, [*slices(3), *slices(3, "2", "2", "q")], strict=False):
        read_upload([replace(row, name=name)])
    read_upload([], error=error)
    predict_all()
    assert {one.reason for one in findings(job)} == {"upload_failed"}


@pytest.mark.parametrize("error", ["file_missing", "file_damaged", "not_listed", "3 workers died while unpacking it"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_loose_file_that_cannot_be_unpacked_cuts_off_the_series_of_all_patients_beside_it(
    ann: User, error: str
) -> None:
    files = [jobs.ReceivedFile(f"{i}.dcm", f"{i:064}", 10, LOOSE, None) for i in range(9)]
    with session_scope() as s:
        job = jobs.create_job(s, owner=ann, files=files)[0]
    for i, row in enumerate([*slices(4), *slices(4, "2", "2", "q")]):
        read_upload([replace(row, name=f"{i}.dcm")])
    read_upload([], error=error)
    predict_all()
    assert {one.reason for one in findings(job)} == {"upload_failed"}


@pytest.mark.parametrize(
    ("error", "slices_of_it", "failed"),
    [
        ("truncated_archive: no end", [], {"1", "2"}),
        ("file_missing", rejected("format", 1, "a"), {"1", "2"}),
        ("truncated_archive: no end", slices(2, "3", "3", "r"), {"1", "2", "3"}),
        ("no_images: nothing", [], set()),
    ],
)
def test_archive_that_is_not_listed_to_its_end_cuts_off_all_series_that_it_may_hold(
    ann: User, error: str, slices_of_it: list[ReadSlice], failed: set[str]
) -> None:
    picture = {"patient": "", "study_uid": None, "series_uid": "folder:png"}
    job = submit_uploads(ann, 2)
    read_upload([*slices(5), *slices(5, "2", "2", "q"), *(replace(row, **picture) for row in slices(5, "png"))])
    read_upload(slices_of_it, error=error)
    predict_all()
    for level in Level:
        assert sum(one.reason == "upload_failed" for one in findings(job) if one.level == level) == len(failed)
    with read_scope() as s:
        query = select(Series.uid).join(Finding, Finding.series_id == Series.id).where(Finding.job_id == job.id)
        assert set(s.scalars(query.where(Finding.reason == "upload_failed"))) == failed


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_archive_that_was_listed_to_its_end_and_then_lost_cuts_off_its_own_series(ann: User) -> None:
    job = submit_uploads(ann, 2)
    read_upload(slices(5))
    with session_scope() as s:
        s.execute(update(Upload).where(Upload.position == 1).values(entries=3))
    read_upload(slices(3, "2", "2", "q"), error="file_missing")
    predict_all()
    assert Counter(one.reason for one in findings(job)) == {None: 3, "upload_failed": 3}


def test_a_retry_takes_the_findings_back_until_the_job_ends_again(ann: User) -> None:
    job = run_job(ann, slices(30))
    before = told(job)
    with session_scope() as s:  # as if the workers of half of it had been lost
        half = list(s.scalars(select(Slice.id).where(Slice.job_id == job.id).limit(15)))
        s.execute(delete(Prediction).where(Prediction.slice_id.in_(half)))
        s.execute(update(Slice).where(Slice.id.in_(half)).values(state=Outcome.QUARANTINED, reason="worker_lost"))
        rewrite_findings(s, job)
    assert only(job).reason == "missing"
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 15
    assert findings(job) == []
    predict_all(lambda id_, name: scored_slice(id_, name, False))
    assert told(job) == before


@pytest.mark.parametrize("ends", [False, True], ids=["open", "ended again"])
def test_export_breaks_off_if_the_job_is_retried_meanwhile(
    ends: bool, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MAX_ROWS", 2)
    job = run_job(ann, slices(4))
    with session_scope() as s:
        ended = s.get_one(Job, job.id)
        assert len(list(views.iter_findings(ended))) == 3
        s.execute(delete(Prediction))
        s.execute(update(Slice).values(state=Outcome.QUARANTINED, reason="worker_lost"))
    exported = views.iter_findings(ended)
    next(exported)
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 4
    if ends:
        predict_all(lambda id_, name: scored_slice(id_, name, False))
    with pytest.raises(views.FindingsReplaced):
        list(exported)


def test_job_without_any_series_has_no_findings(ann: User) -> None:
    assert findings(run_job(ann, rejected("format", 3, "a"))) == []


def test_statements_do_not_grow_with_the_job(ann: User) -> None:
    numbers = []
    for count in (2, 6):
        rows = [row for number in range(count) for row in slices(4, f"s{number}", f"t{number}", f"p{number}")]
        job = run_job(ann, rows)
        with session_scope() as s, recorded_statements() as statements:
            rewrite_findings(s, job)
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("uploads", [1, 2])
def test_slices_are_read_for_the_names_of_uploads_only_if_there_are_several(ann: User, uploads: int) -> None:
    job = run_job(ann, *([slices(4)] * uploads))
    with read_scope() as s, recorded_statements() as statements:
        pages = [findings_page(s, job, FindingsQuery()).items, series_after(s, job, None, 9).items]
    names = [f"{number}.zip" for number in range(uploads)]
    assert all(row.uploads == names for page in pages for row in page)
    assert [len(page) for page in pages] == [3, 1]
    assert sum("upload.filename" in text and "slice" in text for text in statements) == (0 if uploads == 1 else 2)
