"""The jobs of the API: taking whatever is good, refusing whatever is not, and showing only one's own."""

import io
import json
from base64 import urlsafe_b64encode

import numpy as np
import pytest
from apiflask import APIFlask
from sqlalchemy import delete, func, select

from db.database import read_scope, session_scope
from db.models import Job, Promotion, Upload, User
from tests.builders.files import png, tar_of, zip_of
from tests.builders.statements import recorded_statements
from tests.web.actors import Api, Browser, WorkerPart
from worker.imaging.archives import archive


def count_jobs() -> int:
    with read_scope() as s:
        return s.scalar(select(func.count()).select_from(Job)) or 0


def test_archive_is_queued(api: Api) -> None:
    answer = api.submit(("scan.zip", zip_of({"a/1.png": png(1), "a/2.png": png(2)})))
    assert answer.status_code == 202
    job = answer.json
    assert answer.headers["Location"] == f"/api/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job["state"] == "queued"
    assert job["name"] == "scan.zip"
    assert job["stages"]["total"] == 2
    assert job["model_note"] == "fake engine: for tests only"
    assert "not for diagnosis" in job["notice"]


def test_archives_and_loose_images_are_mixed(api: Api) -> None:
    files = [("a.zip", zip_of({"1.png": png(1)})), ("b.tar.gz", tar_of({"2.png": png(2), "3.png": png(3)}, "w:gz"))]
    job = api.submit(*files, ("series 1/4.png", png(4)), name="mixed", priority="-3").json
    assert (job["name"], job["priority"], job["stages"]["total"], job["stages"]["uploads"]) == ("mixed", -3, 4, 3)
    with read_scope() as s:
        uploads = s.scalars(select(Upload).order_by(Upload.position)).all()
    assert [(u.filename, u.kind, u.entries) for u in uploads][2] == ("series 1/4.png", "file", 1)


def test_refused_archive_refuses_the_whole_submission(api: Api) -> None:
    answer = api.submit(("good.png", png()), ("cut.tar.gz", tar_of({"1.png": png(1), "2.png": png(2)}, "w:gz")[:-40]))
    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"
    assert answer.json["type"] == "urn:ctbatch:problem:archive-refused"
    assert answer.json["code"] == "truncated_archive"
    assert answer.json["file"] == "cut.tar.gz"
    assert count_jobs() == 0


def test_long_packed_tar_is_queued_after_a_look_at_its_beginning(
    api: Api, anns_browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking the whole of it could take a web thread an hour."""
    monkeypatch.setattr(archive, "LOOKED_BYTES", 256 * 1024)
    cut = tar_of({f"{n}.png": png(n, size=256) for n in range(8)}, "w:gz")[:-40]
    answer = api.submit(("cut.tar.gz", cut))
    assert answer.status_code == 202
    assert not answer.json["stages"]["total_known"]
    assert "0 read" in anns_browser.get(f"/jobs/{answer.json['id']}").text


def test_submission_without_files_is_refused(api: Api) -> None:
    answer = api.post("/jobs", data={"name": "nothing"}, content_type="multipart/form-data")
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:no-files")


def test_body_that_is_not_multipart_is_refused(api: Api) -> None:
    assert api.post("/jobs", json={"name": "x"}).status_code == 415


@pytest.mark.parametrize("form", ["application/x-www-form-urlencoded", "multipart/form-data"])
def test_form_is_refused_where_json_is_needed(admin: Api, form: str) -> None:
    answer = admin.post("/models/rollback", data={"reason": "x"}, content_type=form)
    assert (answer.status_code, answer.json["type"]) == (415, "urn:ctbatch:problem:unsupported-media-type")
    assert "application/json" in answer.json["detail"]
    assert admin.post("/models/rollback", data="{", content_type="application/json").status_code == 400


def test_only_admins_raise_the_priority(api: Api, admin: Api) -> None:
    refused = api.submit(("1.png", png()), priority="1")
    assert refused.status_code == 422
    assert list(refused.json["errors"]["form"]) == ["priority"]
    assert api.get("/jobs").json["items"] == []
    assert admin.submit(("1.png", png()), priority="1").status_code == 202


@pytest.mark.parametrize("priority", ["11", "-11", "high", "1.5"])
def test_priority_out_of_range_is_refused(api: Api, priority: str) -> None:
    answer = api.submit(("1.png", png()), priority=priority)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")


def test_same_key_and_request_give_the_same_job(api: Api) -> None:
    first = api.submit(("1.png", png()), key="k1")
    second = api.submit(("1.png", png()), key="k1")
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json["id"] == second.json["id"]
    assert count_jobs() == 1


def test_job_is_found_by_its_key_without_sending_it_again(api: Api, stranger: Api) -> None:
    made = api.submit(("1.png", png()), key="k1").json
    api.submit(("1.png", png()), key="k2")
    assert [job["id"] for job in api.get("/jobs?idempotency_key=k1").json["items"]] == [made["id"]]
    assert api.get("/jobs?idempotency_key=k3").json["items"] == []
    assert stranger.get("/jobs?idempotency_key=k1").json["items"] == []


def test_submit_form_that_is_sent_twice_makes_one_job(anns_browser: Browser) -> None:
    page = anns_browser.get("/submit").text
    key = page.split('name="idempotency_key" value="')[1].split('"')[0]
    token = anns_browser.csrf("/submit")
    for _ in range(2):
        form = {"csrf_token": token, "idempotency_key": key, "files": (io.BytesIO(png()), "1.png")}
        assert anns_browser.client.post("/submit", data=form).status_code == 303
    assert count_jobs() == 1


def test_same_key_with_another_body_is_refused(api: Api) -> None:
    api.submit(("1.png", png(1)), key="k1")
    answer = api.submit(("1.png", png(2)), key="k1")
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:idempotency-conflict")
    assert count_jobs() == 1


def test_idempotency_keys_are_of_one_user(api: Api, stranger: Api) -> None:
    ids = {one.submit(("1.png", png(1)), key="k1").json["id"] for one in (api, stranger)}
    assert len(ids) == 2


def test_malformed_key_is_refused(api: Api) -> None:
    assert api.submit(("1.png", png()), key="a b").status_code == 400


def test_without_a_model_nothing_is_received(api: Api) -> None:
    with session_scope() as s:
        s.execute(delete(Promotion))
    answer = api.submit(("1.png", png()))
    assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:no-model-version")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["CT of May/IM2", "CT of May/ST1/IM1"], "CT of May"),
        (["CT/IM1", "PET/IM1"], "IM1 and 1 more"),
        (["CT/IM1", "IM2"], "IM1 and 1 more"),
        (["/data/IM1", "/data/IM2"], "IM1 and 1 more"),
        (["../IM1", "../IM2"], "IM1 and 1 more"),
        (["CT/IM1"], "IM1"),
    ],
    ids=str,
)
def test_job_is_named_after_the_folder_that_holds_all_files(api: Api, files: list[str], name: str) -> None:
    assert api.submit(*((file, png(number)) for number, file in enumerate(files))).json["name"] == name


def test_name_loses_control_and_direction_characters(api: Api) -> None:
    job = api.submit(("1.png", png()), name=" a\tb\u202egnp.exe\x00 ").json
    assert job["name"] == "a b<U+202E>gnp.exe<U+0000>"


def test_jobs_are_listed_by_pages_newest_first(api: Api) -> None:
    made = [api.submit(("1.png", png(i))).json["id"] for i in range(5)]
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = api.get(f"/jobs?limit=2{cursor}").json
        seen += [job["id"] for job in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1]
    assert page["next_cursor"] is None


def test_list_of_jobs_takes_at_most_ten_statements(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    for number in range(12):
        api.submit(("1.png", png(number)))
    worker.whole_job(1)
    worker.start()
    with recorded_statements() as for_the_api:
        assert len(api.get("/jobs").json["items"]) == 12
    with recorded_statements() as for_the_page:
        assert anns_browser.get("/jobs").text.count("<tr id=") == 12
    assert max(len(for_the_api), len(for_the_page)) <= 10


def test_jobs_are_filtered_by_state(api: Api, worker: WorkerPart) -> None:
    finished = api.submit(("1.png", png(1))).json["id"]
    worker.whole_job(1)
    api.submit(("2.png", png(2)))
    assert [job["id"] for job in api.get("/jobs?state=finished").json["items"]] == [finished]


FOREIGN_CURSORS = [[1, 2], [1e99, 1], ["a", "b"], [10**30, 1], ["2026-01-01\0", "x"], [True, 1], [None, None]]


def encoded(key: list[object]) -> str:
    return urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


@pytest.mark.parametrize("cursor", ["x", "e30", *map(encoded, FOREIGN_CURSORS)])
def test_foreign_cursor_is_refused(api: Api, cursor: str) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    assert api.get(f"/jobs?cursor={cursor}").status_code == 422
    assert api.get(f"/jobs/{job_id}/results?sort=name&cursor={cursor}").status_code == 422


def test_unknown_filter_is_refused_with_its_name(api: Api) -> None:
    answer = api.get("/jobs?state=nonsense")
    assert answer.status_code == 422
    assert "state" in answer.json["errors"]["query"]


def test_parameter_that_is_given_twice_is_refused_with_its_name(api: Api) -> None:
    answer = api.get("/jobs?state=finished&limit=1&state=cancelled")
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")
    assert answer.json["errors"]["query"] == {"state": ["Send each parameter only once."]}


@pytest.mark.parametrize(
    "address",
    [
        "/jobs?idempotency-key=k",
        "/jobs/{}?wait=1",
        "/jobs/{}/results?states=rejected",
        "/jobs/{}/results.csv?state=rejected",
        "/jobs/{}/findings?lvel=patient",
        "/jobs/{}/findings.json?level=patient",
        "/jobs/{}/slices/1/image.png?heatmap=1",
    ],
)
def test_unknown_parameter_is_refused_with_its_name(api: Api, address: str) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    answer = api.get(address.format(job_id))
    assert answer.status_code == 422
    assert list(answer.json["errors"]["query"]) == [address.partition("?")[2].partition("=")[0]]


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("/models/rollback", {"reason": "worse", "champoin": "site/1"}),
        ("/models/1/promote", {"reason": "better", "forced": True}),
        ("/runs", {"dataset": "site", "alow_leaks": []}),
        ("/datasets/1/splits", {"sed": 8}),
    ],
)
def test_unknown_field_is_refused_with_its_name(admin: Api, address: str, body: dict[str, object]) -> None:
    answer = admin.post(address, json=body)
    assert answer.status_code == 422
    assert list(answer.json["errors"]["json"]) == [list(body)[-1]]


def test_row_39_strangers_job_is_not_found(api: Api, stranger: Api) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    wanted = api.get("/jobs/aaaaaaaaaaaaaaaa").json
    for answer in (
        stranger.get(f"/jobs/{job_id}"),
        stranger.get(f"/jobs/{job_id}/results"),
        stranger.get(f"/jobs/{job_id}/results.csv"),
        stranger.get(f"/jobs/{job_id}/results.json"),
        stranger.get(f"/jobs/{job_id}/slices/1/image.png"),
        stranger.post(f"/jobs/{job_id}/cancel"),
        stranger.post(f"/jobs/{job_id}/retry"),
    ):
        assert (answer.status_code, answer.json) == (404, wanted)
    assert stranger.get("/jobs").json["items"] == []


def test_admin_sees_everybodys_jobs(app: APIFlask, api: Api, root: User) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    admin = Api(app, root)
    assert admin.get(f"/jobs/{job_id}").json["owner"] == "ann"
    assert [job["id"] for job in admin.get("/jobs").json["items"]] == [job_id]


def test_unchanged_job_is_not_sent_again(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    first = api.get(f"/jobs/{job_id}")
    tag = first.headers["ETag"]
    assert tag.startswith('"')
    again = api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    worker.whole_job(1)
    changed = api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json["state"]) == (200, "finished")


def test_counts_add_up_to_what_was_received(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("1.zip", zip_of({f"{i}.png": png(i) for i in range(6)}))).json["id"]
    worker.start()
    worker.read(5)
    worker.reject("broken.png", "truncated")
    worker.finish_reading()
    worker.predict([0.9, 0.1, 0.8, 0.2, 0.3])
    job = api.get(f"/jobs/{job_id}").json
    counts = job["counts"]
    outcomes = ("predicted", "rejected", "quarantined", "cancelled", "open")
    assert counts["received"] == sum(counts[name] for name in outcomes) == 6
    assert (counts["predicted"], counts["positive"], counts["rejected"]) == (5, 2, 1)
    assert job["rejections"] == {"truncated": 1}
    assert job["finished_at"] is not None


def test_cancel_stops_an_open_job_and_only_that(api: Api) -> None:
    job_id = api.submit(("1.zip", zip_of({"1.png": png()}))).json["id"]
    answer = api.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json["cancelling"]) == (202, True)


def test_cancelled_job_of_loose_files_ends_at_once(api: Api) -> None:
    job_id = api.submit(("1.png", png()), ("2.png", png(2))).json["id"]
    job = api.post(f"/jobs/{job_id}/cancel").json
    assert (job["state"], job["counts"]["cancelled"]) == ("cancelled", 2)


def test_ended_job_cannot_be_cancelled(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    worker.whole_job(1)
    answer = api.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json["type"]) == (409, "urn:ctbatch:problem:conflict")


def test_retry_puts_back_only_what_failed(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("1.zip", zip_of({"1.png": png(1), "2.png": png(2)}))).json["id"]
    worker.start()
    worker.read(1)
    worker.read(1)
    worker.finish_reading()
    assert api.post(f"/jobs/{job_id}/retry").status_code == 409
    worker.predict()
    worker.lose_slice()
    assert api.get(f"/jobs/{job_id}").json["counts"]["quarantined"] == 1
    answer = api.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json["retried"]) == (202, 1)
    assert answer.json["job"]["counts"]["open"] == 1
    assert answer.json["job"]["counts"]["predicted"] == 1


def test_ended_job_that_was_retried_has_no_rate_and_no_duration(
    api: Api, worker: WorkerPart, anns_browser: Browser
) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.read(1)
    worker.finish_reading()
    api.post(f"/jobs/{job_id}/cancel")
    assert api.get(f"/jobs/{job_id}").json["retried_at"] is None
    api.post(f"/jobs/{job_id}/retry")
    worker.predict()
    job = api.get(f"/jobs/{job_id}").json
    assert (job["state"], job["rate"]) == ("finished", 0)
    assert job["retried_at"] is not None
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert "<dt>Rate</dt><dd>–</dd>" in page
    assert "<dt>Took</dt><dd>–</dd>" in page


def test_models_are_listed_with_the_champion(api: Api) -> None:
    (model,) = api.get("/models").json["items"]
    assert (model["label"], model["champion"], model["recipe"]) == ("fake/1", True, "lung-224-v1")


def state_of(api: Api, job_id: str) -> tuple[str, str, bool]:
    """The job's state, its state in words, and whether nothing was predicted."""
    job = api.get(f"/jobs/{job_id}").json
    return job["state"], job["state_text"], job["nothing_predicted"]


def test_job_of_rejected_files_only_says_that_nothing_was_predicted(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    assert state_of(api, job_id) == ("queued", "queued", False)
    worker.start()
    assert state_of(api, job_id) == ("running", "running", False)
    worker.reject("a.png", "format")
    worker.finish_reading()
    assert state_of(api, job_id) == ("finished", "finished, nothing predicted", True)


def test_empty_job_says_that_nothing_was_predicted(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.finish_reading()
    assert state_of(api, job_id) == ("finished", "finished, nothing predicted", True)


def test_one_prediction_is_enough_for_finished(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.read(1)
    worker.reject("b.png", "format")
    worker.finish_reading()
    worker.predict()
    assert state_of(api, job_id) == ("finished", "finished", False)


@pytest.mark.slow
def test_copied_predictions_count_as_predictions(api: Api, worker: WorkerPart) -> None:
    worker.pixels = np.zeros((1, 224, 224), np.uint8)
    for copied in (False, True):
        job_id = api.submit(("a.png", png())).json["id"]
        worker.start()
        worker.read(1)
        worker.finish_reading()
        assert worker.predict() == (0 if copied else 1)
        assert state_of(api, job_id) == ("finished", "finished", False)


def test_cancelled_job_says_whether_anything_was_predicted(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.read(1)
    worker.finish_reading()
    api.post(f"/jobs/{job_id}/cancel")
    assert state_of(api, job_id) == ("cancelled", "cancelled, nothing predicted", True)
    api.post(f"/jobs/{job_id}/retry")
    assert state_of(api, job_id) == ("running", "running", False)
    worker.predict()
    assert state_of(api, job_id) == ("finished", "finished", False)


def test_job_that_is_being_cancelled_says_so(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    api.post(f"/jobs/{job_id}/cancel")
    assert state_of(api, job_id) == ("running", "cancelling", False)


def test_failed_job_says_that_nothing_was_predicted(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.finish_reading("worker_lost")
    assert state_of(api, job_id) == ("failed", "failed, nothing predicted", True)
