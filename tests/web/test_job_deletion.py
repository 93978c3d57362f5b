"""Deleting a job by the API and by its page: who may, when, and that nobody sees the job afterwards."""

import pytest
from sqlalchemy import select, update

from db.database import read_scope, session_scope
from db.models import Job, JobState, Slice
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, WorkerPart


@pytest.fixture
def seen(api: Api, worker: WorkerPart) -> str:
    """A finished job of Ann's that was made with a key."""
    job_id: str = api.submit(("a.zip", zip_of({"1.png": png(1), "2.png": png(2)})), key="k1").json["id"]
    worker.whole_job(2)
    return job_id


def test_deleted_job_is_at_no_address_any_more(api: Api, admin: Api, anns_browser: Browser, seen: str) -> None:
    with read_scope() as s:
        slice_id = s.scalars(select(Slice.id).where(Slice.job_id == seen).limit(1)).one()
    of_api = ["", "/findings", "/findings.csv", "/findings.json", "/results", "/series", "/results.csv"]
    of_api += ["/results.json", "/results.parquet", f"/slices/{slice_id}/image.png"]
    of_pages = ["", "/row", "/live", "/results", "/findings", f"/slices/{slice_id}"]

    def statuses() -> set[int]:
        found = {one.get(f"/jobs/{seen}{path}").status_code for path in of_api for one in (api, admin)}
        return found | {anns_browser.get(f"/jobs/{seen}{path}").status_code for path in of_pages}

    assert statuses() == {200}
    answer = api.delete(f"/jobs/{seen}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert statuses() == {404}
    assert api.delete(f"/jobs/{seen}").status_code == 404
    for act in ("cancel", "retry"):
        assert api.post(f"/jobs/{seen}/{act}").status_code == 404
    assert api.put(f"/jobs/{seen}/slices/{slice_id}/review", json={"label": "COVID"}).status_code == 404
    assert api.get("/jobs").json["items"] == admin.get("/jobs").json["items"] == []
    assert api.get("/jobs?idempotency_key=k1").json["items"] == []
    assert "No jobs yet" in anns_browser.get("/jobs").text


def test_request_with_the_key_of_a_deleted_job_makes_a_new_job(api: Api, seen: str) -> None:
    api.delete(f"/jobs/{seen}")
    again = api.submit(("a.zip", zip_of({"1.png": png(1), "2.png": png(2)})), key="k1")
    assert again.status_code == 202
    assert again.json["id"] != seen


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING])
def test_open_job_must_be_cancelled_first(api: Api, anns_browser: Browser, state: JobState) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    with session_scope() as s:
        s.execute(update(Job).values(state=state))
    answer = api.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json["type"], answer.json["code"]) == (
        409,
        "urn:ctbatch:problem:conflict",
        "job_open",
    )
    assert anns_browser.post(f"/jobs/{job_id}/delete").status_code == 409
    assert f'action="/jobs/{job_id}/delete"' not in anns_browser.get(f"/jobs/{job_id}").text
    assert api.get(f"/jobs/{job_id}").status_code == 200


def test_only_the_owner_and_an_admin_delete_a_job(api: Api, stranger: Api, admin: Api, seen: str) -> None:
    foreign, unknown = stranger.delete(f"/jobs/{seen}"), stranger.delete(f"/jobs/{'a' * 16}")
    assert (foreign.status_code, foreign.json) == (404, unknown.json)
    assert api.get(f"/jobs/{seen}").status_code == 200
    assert admin.delete(f"/jobs/{seen}").status_code == 204
    assert api.get(f"/jobs/{seen}").status_code == 404


def test_job_that_a_dataset_is_being_built_from_names_the_dataset(api: Api, admin: Api, seen: str) -> None:
    slice_id = api.get(f"/jobs/{seen}/results").json["items"][0]["slice_id"]
    api.put(f"/jobs/{seen}/slices/{slice_id}/review", json={"label": "COVID"})
    answer = admin.post("/datasets", data={"name": "reviewed", "jobs": seen}, content_type="multipart/form-data")
    assert answer.status_code == 202, answer.json
    refused = api.delete(f"/jobs/{seen}")
    assert (refused.status_code, refused.json["code"]) == (409, "dataset_building")
    assert "reviewed/1" in refused.json["detail"]


def test_page_deletes_a_job_and_says_so_on_the_list(anns_browser: Browser, seen: str) -> None:
    page = anns_browser.get(f"/jobs/{seen}").text
    assert f'action="/jobs/{seen}/delete"' in page
    answer = anns_browser.post(f"/jobs/{seen}/delete")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs")
    assert "The job is deleted. Its files leave the disk after about 17 days" in anns_browser.get("/jobs").text
    assert "The job is deleted" not in anns_browser.get("/jobs").text


def test_page_deletes_nothing_without_its_token(anns_browser: Browser, api: Api, seen: str) -> None:
    assert anns_browser.client.post(f"/jobs/{seen}/delete").status_code == 400
    assert api.get(f"/jobs/{seen}").status_code == 200


def test_metrics_do_not_count_a_deleted_job(api: Api, anns_browser: Browser, seen: str) -> None:
    api.delete(f"/jobs/{seen}")
    text = anns_browser.get("/metrics").text
    assert 'ctbatch_jobs{state="finished"} 0.0' in text
    assert 'ctbatch_slices{outcome="predicted"} 0.0' in text
