"""Findings over the API, in files, and on the page of a job: patients first, then series, then slices."""

import csv
import io
import re
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from db.database import read_scope, session_scope
from db.ledger.recording import ReadSlice
from db.ledger.results import ResultRow, ResultsQuery, results_page
from db.models import Job, ModelVersion, Outcome, User
from tests.builders.files import png, zip_of
from tests.builders.series import ct, predict_all, read_upload, submit_uploads
from tests.web.actors import Api, Browser, WorkerPart

NOTICE = "Model fake/1: fake engine: for tests only. Research use only, not for diagnosis."


@pytest.fixture
def ended(api: Api, worker: WorkerPart) -> str:
    """A job of three series, each of a folder and so a patient of its own: COVID, non-COVID, and one damaged."""
    job_id: str = api.submit(("a.zip", zip_of({f"{i}.png": png() for i in range(12)}))).json["id"]
    worker.start()
    for series, chances in (("ill", [0.97, 0.9]), ("well", [0.1, 0.2]), ("<i>cut", [0.4, 0.6])):
        worker.read(4, series=series, names=f"{series}/{{}}.png")
        worker.predict(chances)
    for number in range(3):
        worker.reject(f"<i>cut/{number} bad.png", "truncated")
    worker.finish_reading()
    return job_id


def test_findings_come_by_patient_in_pages(api: Api, ended: str) -> None:
    whole = api.get(f"/jobs/{ended}/findings").json["items"]
    assert [one["level"] for one in whole] == ["patient", "study", "series"] * 3
    assert [one["verdict"] for one in whole if one["level"] == "patient"] == ["COVID", "non-COVID", None]
    assert whole[-1]["reason"] == "missing"
    assert whole[-1]["left_out"] == {"truncated": 3}
    assert whole[0]["score"] == pytest.approx(0.935)
    assert (whole[0]["rule"], whole[0]["rule_version"], whole[0]["used"]) == ("top-k-mean", 2, 4)
    pages, cursor = [], None
    while cursor or not pages:
        page = api.get(f"/jobs/{ended}/findings?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
        pages.append(page["items"])
        cursor = page["next_cursor"]
    assert [one for page in pages for one in page] == whole
    assert len(pages) == 5


def test_findings_are_filtered(api: Api, ended: str) -> None:
    def found(query: str) -> list[tuple[str, int]]:
        return [(one["level"], one["patient"]) for one in api.get(f"/jobs/{ended}/findings?{query}").json["items"]]

    assert found("level=patient&verdict=COVID") == [("patient", 1)]
    assert found("level=series&verdict=none") == [("series", 3)]
    assert found("patient=2") == [("patient", 2), ("study", 2), ("series", 2)]
    assert found("find=ell") == [("series", 2)]
    assert api.get(f"/jobs/{ended}/findings?level=lung").status_code == 422
    assert api.get(f"/jobs/{ended}/findings?cursor=nonsense").status_code == 422


def test_open_job_has_no_findings_yet(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.start()
    worker.read(1)
    for path in ("findings", "findings.csv", "findings.json"):
        answer = api.get(f"/jobs/{job_id}/{path}")
        assert (answer.status_code, answer.json["type"]) == (409, "urn:ctbatch:problem:not-ended")
    assert "Findings" not in anns_browser.get(f"/jobs/{job_id}").text


def test_findings_as_files(api: Api, ended: str) -> None:
    rows = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{ended}/findings.csv").text)))
    assert [row["verdict"] for row in rows[::3]] == ["COVID", "non-COVID", ""]
    assert rows[-1]["left_out"] == "truncated: 3"
    assert {row["notice"] for row in rows} == {NOTICE}
    items = api.get(f"/jobs/{ended}/findings").json["items"]
    assert api.get(f"/jobs/{ended}/findings.json").json["findings"] == items
    assert api.get(f"/jobs/{ended}/results.json").json["findings"] == items


def test_page_leads_with_patients_then_series_then_slices(anns_browser: Browser, ended: str) -> None:
    page = anns_browser.get(f"/jobs/{ended}").text
    order = [page.index(mark) for mark in ('id="findings"', 'id="patient-1"', 'id="series-', 'id="results"')]
    assert order == sorted(order)
    assert "3 patients, 3 series" in page
    assert "More than a quarter of the slices" in page
    assert "left out: truncated (3)" in page
    assert "<i>cut" not in page
    assert not re.search(r"\sstyle=", page)
    series = anns_browser.get(f"/jobs/{ended}?find=ell").text
    assert series.count('class="ribbon"') == 1


def test_ribbon_says_in_words_what_it_draws(anns_browser: Browser, ended: str) -> None:
    page = anns_browser.get(f"/jobs/{ended}").text
    words = re.findall(r'class="ribbon" role="img" aria-label="([^"]*)"', page)
    assert len(words) == 3
    assert "4 slices" in words[0]
    assert "0.970 at slice 1;" in words[0]
    assert "4 of 4 predicted" in words[0]


def test_page_states_the_threshold_of_the_engine(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    with session_scope() as s:
        s.execute(update(ModelVersion).values(calibration={"fake": {"threshold": 0.3}}))
    one, several = (api.submit(("a.zip", zip_of({"1.png": png(n)}))).json["id"] for n in range(2))
    for engines in (("fake", "fake"), ("fake", "keras-f32")):
        worker.start()
        for engine in engines:
            worker.read(2)
            worker.predict([0.9, 0.1], engine)
        worker.finish_reading()
    page = anns_browser.get(f"/jobs/{one}").text
    assert "COVID if the probability is at least 0.300<" in page
    assert "2 of 4 predicted slices are COVID (at least 0.300)," in page
    assert re.findall(r'class="ribbon-threshold" .*? y1="([0-9.]+)"', page) == ["70.0"]
    page = anns_browser.get(f"/jobs/{several}").text
    assert "COVID if the probability is at least 0.300 (fake) or 0.500 (keras-f32)<" in page
    assert "2 of 4 predicted slices are COVID, not" in page
    assert "ribbon-threshold" not in page


def test_patients_of_one_verdict_lead_to_their_series(anns_browser: Browser, ended: str) -> None:
    page = anns_browser.get(f"/jobs/{ended}?verdict=none").text
    assert re.findall(r'<h3 id="patient-(\d+)"', page) == ["3"]
    assert re.findall(r'<h3 id="patient-(\d+)"', anns_browser.get(f"/jobs/{ended}?patient=2").text) == ["2"]


def test_blind_review_hides_findings(anns_browser: Browser, ended: str) -> None:
    for path in (f"/jobs/{ended}?blind=1", f"/jobs/{ended}/findings?blind=1"):
        page = anns_browser.get(path).text
        assert "hidden in a blind review" in page
        assert "ribbon" not in page


def test_blind_review_tells_no_answers_by_numbers_filters_or_orders(
    api: Api, anns_browser: Browser, finished: str
) -> None:
    plain, hidden = (anns_browser.get(f"/jobs/{finished}{query}").text for query in ("", "?blind=1"))
    live = anns_browser.get(f"/jobs/{finished}/live?blind=1").text
    for told in (
        "<dt>COVID",
        "key-positive",
        "seg-negative",
        '<select class="form-select" name="label"',
        "probability</",
    ):
        assert told in plain
        assert told not in hidden + live
    in_order = re.findall(r'id="slice-(\d+)"', hidden)
    first = api.get(f"/jobs/{finished}/results?sort=-probability&limit=1").json
    for query in (
        "label=COVID",
        "sort=-probability",
        "sort=probability",
        f"sort=-probability&cursor={first['next_cursor']}",
    ):
        page = anns_browser.get(f"/jobs/{finished}?blind=1&{query}").text
        assert re.findall(r'id="slice-(\d+)"', page) == in_order
        assert query.split("=")[1] not in " ".join(re.findall('(?:href|action|hx-get)="(.*?)"', page))


def test_blind_review_hides_what_the_model_says_of_the_series_of_an_open_job(
    api: Api, anns_browser: Browser, worker: WorkerPart
) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png(1)}))).json["id"]
    worker.start()
    worker.read(2)
    worker.predict([0.93])
    for path in (f"/jobs/{job_id}?blind=1", f"/jobs/{job_id}/findings?blind=1"):
        page = anns_browser.get(path).text
        assert re.search(r'href="/jobs/\w+\?series=\d+&amp;blind=1#results"', page)
        assert "Mean probability" not in page
        assert "0.930" not in page


def test_retry_shows_series_again(api: Api, anns_browser: Browser, ended: str) -> None:
    with session_scope() as s:
        s.get_one(Job, ended).state = "running"
    assert 'class="ribbon"' not in anns_browser.get(f"/jobs/{ended}/findings").text


def test_each_series_is_on_a_page_below_its_study(api: Api, anns_browser: Browser, ann: User) -> None:
    job = submit_uploads(ann, 1)
    read_upload([scan(study, series) for study in range(1, 9) for series in range(1, 13)], 100)
    predict_all()
    found = api.get(f"/jobs/{job.id}/findings?limit=1000").json["items"]
    study_of = {str(one["series_id"]): one["study_uid"] for one in found if one["level"] == "series"}
    numbers = {f"1.{number}": str(number) for number in range(1, 9)}
    shown, heads, address = [], [], f"/jobs/{job.id}"
    while address:
        page = anns_browser.get(address).text
        for block in page.split('class="study-head"')[1:]:
            head, _, rows = block.partition("</p>")
            number = re.findall(r"Study (\d+)", head)[0]
            heads.append((number, "continued" in head, 'class="outcome' in head))
            here = re.findall(r'<li id="series-(\d+)"', rows)
            assert {numbers[study_of[series]] for series in here} <= {number}
            shown += here
        after = re.search(r'rel="next" href="[^"]*after=(\d+)', page)
        address = f"/jobs/{job.id}?after={after[1]}" if after else ""
    assert sorted(shown) == sorted(study_of)
    assert [number for number, continued, _ in heads if not continued] == list(numbers.values())
    assert [head for head in heads if head[1] == head[2]] == []
    assert len(heads) == 9  # one study is continued


def test_series_that_are_found_are_below_the_number_of_their_study(anns_browser: Browser, ann: User) -> None:
    job = submit_uploads(ann, 1)
    read_upload([scan(study, series) for study in (1, 2) for series in (1, 2)], 100)
    predict_all()
    page = anns_browser.get(f"/jobs/{job.id}?find=study 2 series 1").text
    assert re.findall(r"<strong>Study (\d+)", page) == ["2"]
    assert page.count('<li id="series-') == 1
    assert "continued" not in page


def test_verdict_of_a_series_is_left_out_only_if_it_is_the_only_one(anns_browser: Browser, ann: User) -> None:
    """The first page ends after the first of the two series of the last patient."""
    job = submit_uploads(ann, 1)
    lone = [scan(number, 1, patient=f"p{number}") for number in range(1, 20)]
    read_upload([*lone, scan(20, 1, patient="last"), scan(20, 2, patient="last")], 100)
    predict_all()
    page = anns_browser.get(f"/jobs/{job.id}").text
    rows = re.findall(r'<li id="series-\d+">\s*<p class="series-name">(.*?)</p>', page, re.DOTALL)
    assert [("outcome" in row) for row in rows] == [False] * 19 + [True]


SERIES = {
    "placed DICOM": ("DICOM", "1.2.a", (1.0, 3.5, 6.0)),
    "unplaced DICOM": ("DICOM", "1.2.b", (None, None, None)),
    "DICOM at one place": ("DICOM", "1.2.c", (0.0, 0.0, 0.0)),
    "DICOM placed in part": ("DICOM", "1.2.d", (1.0, None, None)),
    "NIfTI": ("NIfTI", "folder:ct.nii", (-6.0, -3.5, -1.0)),
    "PNG": ("PNG", "folder:png", (None, None, None)),
}


@pytest.mark.parametrize("kind", SERIES)
def test_pages_name_feet_and_head_only_if_positions_are_known(anns_browser: Browser, ann: User, kind: str) -> None:
    form, uid, positions = SERIES[kind]
    is_placed = kind in ("placed DICOM", "NIfTI")
    rows = [ct(f"{n}", position, format=form, series_uid=uid) for n, position in enumerate(positions)]
    rows.append(replace(rows[0], name="4", state=Outcome.REJECTED, reason="truncated", position=None, sop_uid="4"))
    job = submit_uploads(ann, 1)
    read_upload(rows, 10)
    predict_all()
    page = anns_browser.get(f"/jobs/{job.id}").text
    (words,) = re.findall(r'class="ribbon" role="img" aria-label="([^"]*)"', page)
    assert ("feet to the head" in words, "numbers and names" in words) == (is_placed, not is_placed)
    ends = re.findall(r'class="ribbon-ends"[^>]*><span>(\w+)</span><span>(\w+)</span>', page)
    assert ends == [("feet", "head") if is_placed else ("first", "last")]
    for row in results(job):
        shown = anns_browser.get(f"/jobs/{job.id}/slices/{row.slice_id}").text
        assert f", slice {(row.series_rank or 0) + 1}" in shown
        assert ("from the feet" in shown) == (is_placed and row.position is not None)


def results(job: Job) -> list[ResultRow]:
    with read_scope() as s:
        return results_page(s, s.get_one(Job, job.id), ResultsQuery()).items


def test_uids_with_letters_are_stated(api: Api, ann: User) -> None:
    job = submit_uploads(ann, 1)
    read_upload([ct("1", study_uid="STUDY-7", series_uid="1.2.anon.7"), ct("2", study_uid=None)])
    predict_all()
    found = api.get(f"/jobs/{job.id}/findings?level=series").json["items"]
    assert [(one["study_uid"], one["series_uid"]) for one in found] == [("STUDY-7", "1.2.anon.7"), (None, "1.2.3")]


def test_uploads_of_many_loose_files_fit_into_a_cell_and_a_line(
    api: Api, anns_browser: Browser, worker: WorkerPart
) -> None:
    names = [f"{'long ' * 90}{number}.png" for number in range(70)]
    job_id = api.submit(*((name, png(number)) for number, name in enumerate(names))).json["id"]
    for _ in names:
        worker.start()
        worker.read(1)
        worker.finish_reading()
    while worker.predict():
        pass
    patient, *_ = csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/findings.csv").text))
    assert patient["uploads"].split("; ") == [*names[:20], "and 50 more"]
    assert len(patient["uploads"]) < 32_767
    assert api.get(f"/jobs/{job_id}/findings").json["items"][0]["uploads"] == names
    assert '<span class="sub">in 70 files</span>' in anns_browser.get(f"/jobs/{job_id}").text


def scan(study: int, series: int, **values: Any) -> ReadSlice:
    """A slice of its own series."""
    label = f"study {study} series {series}"
    uids = {"study_uid": f"1.{study}", "series_uid": f"1.{study}.{series}", "sop_uid": f"1.{study}.{series}.1"}
    return ct(label, 1.0, series_label=label, **uids | values)


@pytest.mark.slow
def test_page_of_a_job_of_many_patients_is_bounded(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.start()
    for number in range(120):
        worker.read(1, series=f"folder {number}")
        worker.predict([0.9])
    worker.finish_reading()
    gzip = {"Accept-Encoding": "gzip"}
    assert len(anns_browser.get(f"/jobs/{job_id}/findings", headers=gzip).data) < 10_000
    page = anns_browser.get(f"/jobs/{job_id}/findings?after=59").text
    assert re.findall(r'<h3 id="patient-(\d+)"', page)[0] == "21"
    assert page.count('class="ribbon"') == 20
