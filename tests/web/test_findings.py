"""Findings over the API, in files, and on the page of a job: patients first, then series, then slices."""

import csv
import io
import re

import pytest
from sqlalchemy import update

from db.database import session_scope
from db.models import Job, ModelVersion
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, WorkerPart


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
    assert (whole[0]["rule"], whole[0]["rule_version"], whole[0]["used"]) == ("top-k-mean", 1, 4)
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
    assert api.get(f"/jobs/{job_id}/findings").json["items"] == []
    assert "Findings" not in anns_browser.get(f"/jobs/{job_id}").text


def test_findings_as_files(api: Api, ended: str) -> None:
    rows = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{ended}/findings.csv").text)))
    assert [row["verdict"] for row in rows[::3]] == ["COVID", "non-COVID", ""]
    assert rows[-1]["left_out"] == "truncated: 3"
    assert {row["notice"] for row in rows} == {"Research use only, not for diagnosis."}
    items = api.get(f"/jobs/{ended}/findings").json["items"]
    assert api.get(f"/jobs/{ended}/findings.json").json["findings"] == items
    assert api.get(f"/jobs/{ended}/results.json").json["findings"] == items


def test_page_leads_with_patients_then_series_then_slices(anns_browser: Browser, ended: str) -> None:
    page = anns_browser.get(f"/jobs/{ended}").text
    order = [page.index(mark) for mark in ('id="findings"', 'id="patient-1"', 'id="series-', 'id="results"')]
    assert order == sorted(order)
    assert "3 patients, 3 series" in page
    assert "More than a quarter of the slices were rejected" in page
    assert "left out: 3 truncated" in page
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


def test_retry_shows_series_again(api: Api, anns_browser: Browser, ended: str) -> None:
    with session_scope() as s:
        s.get_one(Job, ended).state = "running"
    assert 'class="ribbon"' not in anns_browser.get(f"/jobs/{ended}/findings").text


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
