"""What machines that watch see: alive, ready, counted, and no names; and what the web process never loads."""

import base64
import errno
import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from apiflask import APIFlask
from pydantic import SecretStr
from sqlalchemy import text, update
from werkzeug.test import TestResponse

from db import broker, database, paging
from db.clock import from_now
from db.database import read_scope, session_scope
from db.installation import claim_storage
from db.ledger import leases, queue
from db.ledger.backlog import PATIENCE_SECONDS, is_worked_on, record_sweep
from db.models import Installation, ModelVersion, Upload, Work
from db.settings import Settings
from db.storage import storage
from tests.builders.buckets import bucket_away
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, WorkerPart, end_workers, load_engines, ready_dataset
from web.monitoring.kept import Kept

PROJECT = Path(__file__).parents[2]


def test_alive(app: APIFlask) -> None:
    assert app.test_client().get("/healthz").json == {"status": "ok"}


@pytest.fixture
def app(own_app: APIFlask) -> APIFlask:
    """Readiness is kept for a while, and metrics count."""
    return own_app


def readyz(app: APIFlask) -> TestResponse:
    return app.test_client().get("/readyz")


def test_ready_without_a_broker_but_with_a_warning(app: APIFlask) -> None:
    with session_scope() as s:
        record_sweep(s)
    answer = readyz(app)
    assert (answer.status_code, answer.json["status"]) == (200, "ready")
    assert answer.json["checks"]["broker"] is False
    assert answer.json["warnings"] == ["broker"]


def test_ready_without_warnings_when_all_answer(app: APIFlask, valkey_url: str, settings: Settings) -> None:
    database.use(settings.model_copy(update={"broker_url": valkey_url}))
    with session_scope() as s:
        record_sweep(s)
    answer = readyz(app)
    assert (answer.status_code, answer.json["warnings"]) == (200, [])
    assert answer.json["checks"] == dict.fromkeys(("database", "storage", "disk", "broker", "workers"), True)


def test_not_ready_without_storage(app: APIFlask, settings: Settings) -> None:
    storage().incoming.folder.rmdir()
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["storage"]) == (503, False)


def test_empty_folder_in_place_of_the_storage_is_not_ready_and_receives_nothing(app: APIFlask, api: Api) -> None:
    with session_scope() as s:
        claim_storage(s)
    files = storage().folder
    files.rename(files.with_name("elsewhere"))
    (files / "incoming").mkdir(parents=True)  # as a process does that starts meanwhile
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["storage"]) == (503, False)
    answer = api.submit(("1.png", png()))
    assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:storage-away")
    assert [path for path in files.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", [None, "ExpiredToken", "400"])
def test_bucket_that_cannot_be_used_is_not_ready_and_receives_nothing(
    code: str | None, app: APIFlask, api: Api, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database.use(settings.model_copy(update={"storage_url": f"bucket://{tmp_path.name}"}))
    with bucket_away(code):
        answer = readyz(app)
        assert (answer.status_code, answer.json["checks"]["storage"]) == (503, False)
        answer = api.submit(("1.png", png()))
        assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:storage-away")
    assert (code or "EndpointConnectionError") in caplog.text


def test_not_ready_without_a_database(app: APIFlask, settings: Settings, tmp_path: Path) -> None:
    database.use(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'none' / 'x.db'}"}))
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["database"]) == (503, False)


def test_not_ready_with_a_database_at_another_revision(app: APIFlask) -> None:
    with session_scope() as s:
        s.execute(text("UPDATE alembic_version SET version_num = 'another'"))
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["database"]) == (503, False)


def test_disk_short_of_its_reserve_is_a_warning_because_results_can_be_read(app: APIFlask, settings: Settings) -> None:
    database.use(settings.model_copy(update={"reserve_bytes": 2**62}))
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["disk"], "disk" in answer.json["warnings"]) == (200, False, True)


def test_pages_of_queued_work_say_that_the_disk_is_short(
    admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    ready_dataset("site")
    job = admin.submit(("1.png", png())).json["id"]
    run = admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).json["id"]
    files = {"name": "new", "files": (io.BytesIO(png()), "COVID/1.png")}
    dataset = admin.post("/datasets", data=files, content_type="multipart/form-data").json["id"]
    pages = (f"/jobs/{job}", f"/runs/{run}", f"/datasets/{dataset}", "/workers")
    assert not any("CTBATCH_RESERVE_BYTES" in roots_browser.get(page).text for page in pages)
    database.use(settings.model_copy(update={"reserve_bytes": 2**62}))
    for page in pages:
        assert roots_browser.get(page).text.count("CTBATCH_RESERVE_BYTES") == 1
    assert "CTBATCH_RESERVE_BYTES" not in roots_browser.get("/datasets/1").text, "it is built already"


def test_full_disk_does_not_count_as_missing_storage(app: APIFlask, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage(), "check_writable", full)
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["storage"]) == (200, True)


def test_readiness_is_looked_for_once_for_many_who_ask(app: APIFlask, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    first = client.get("/readyz").json
    monkeypatch.setattr(storage(), "check_writable", lambda: pytest.fail("a second look"))
    assert client.get("/readyz").json == first


def test_value_that_cannot_be_found_is_looked_for_again() -> None:
    answers = iter([1, 0])
    kept = Kept(lambda: 1 // next(answers), lambda _: 0.0)
    assert kept.get() == 1
    with pytest.raises(ZeroDivisionError):
        kept.get()


def age_of_work(seconds: float) -> None:
    with session_scope() as s:
        s.execute(update(Upload).values(published_at=from_now(-seconds)))


def test_work_that_waits_while_nobody_works_is_a_warning(api: Api, worker: WorkerPart) -> None:
    def worked_on() -> bool:
        with read_scope() as s:
            return is_worked_on(s)

    assert not worked_on(), "nobody swept yet"
    with session_scope() as s:
        record_sweep(s)
    assert worked_on()
    api.submit(("1.png", png()))
    age_of_work(PATIENCE_SECONDS + 1)
    assert not worked_on()
    api.submit(("2.png", png()))
    worker.start()
    assert worked_on(), "a worker is at the other one"


def test_sweeper_that_has_stopped_is_a_warning(app: APIFlask) -> None:
    with session_scope() as s:
        s.execute(update(Installation).values(swept_at=from_now(-3600)))
    answer = readyz(app)
    assert (answer.status_code, answer.json["checks"]["workers"]) == (200, False)


def test_metrics_show_what_waits_and_what_was_lost(api: Api, worker: WorkerPart, app: APIFlask) -> None:
    for name in ("1.png", "2.png"):
        api.submit((name, png()))
    worker.start()
    with session_scope() as s:
        s.execute(update(Upload).where(Upload.state == Work.RUNNING).values(lease_until=from_now(-1)))
        record_sweep(s)
    age_of_work(1000)
    lines = api.client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['ctbatch_ready{work="upload"}'] == values['ctbatch_expired_leases{work="upload"}'] == "1.0"
    assert float(values['ctbatch_oldest_ready_seconds{work="upload"}']) >= 1000
    assert values['ctbatch_oldest_ready_seconds{work="chunk"}'] == "0.0"
    assert float(values["ctbatch_last_sweep_seconds"]) < 600
    assert float(values['ctbatch_free_disk_bytes{of="storage"}']) > 0


def test_metrics_show_what_was_put_off(api: Api) -> None:
    api.submit(("1.png", png()))
    with session_scope() as s:
        claim = queue.claim_upload(s, "w")
        assert claim is not None
        leases.put_off(s, Upload, claim)
    assert 'ctbatch_put_offs{work="upload"} 1.0' in api.client.get("/metrics").text


def test_metrics_show_the_processor_time_of_receiving(api: Api) -> None:
    api.submit(("1.png", png()))
    lines = api.client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['ctbatch_stage_core_seconds_sum{stage="receive"}']) > 0
    assert float(values['ctbatch_stage_core_seconds_bucket{le="+Inf",stage="receive"}']) >= 1
    assert values['ctbatch_stage_core_seconds_sum{stage="engine"}'] == "0.0"


def test_counts_are_kept_between_scrapes(api: Api) -> None:
    def queued() -> list[str]:
        return [line for line in api.client.get("/metrics").text.splitlines() if line.startswith("ctbatch_jobs{")]

    first = queued()
    api.submit(("1.png", png()))
    assert queued() == first


def test_metrics_ask_for_their_token_if_one_is_set(app: APIFlask, settings: Settings) -> None:
    database.use(settings.model_copy(update={"metrics_token": SecretStr("sesame")}))
    client = app.test_client()
    for given in ({}, {"Authorization": "Bearer sesam"}):
        assert client.get("/metrics", headers=given).status_code in (401, 303)
    assert client.get("/metrics", headers={"Authorization": "Bearer sesame"}).status_code == 200


def test_metrics_count_jobs_slices_and_requests(api: Api, worker: WorkerPart) -> None:
    api.submit(("secret-name.zip", zip_of({"1.png": png(1), "2.png": png(2)})))
    worker.whole_job(2)
    text_ = api.client.get("/metrics").text
    assert 'ctbatch_jobs{state="finished"} 1.0' in text_
    assert 'ctbatch_slices{outcome="predicted"} 2.0' in text_
    assert 'ctbatch_slices{outcome="rejected"} 0.0' in text_
    assert 'ctbatch_put_offs{work="upload"} 0.0' in text_
    assert 'ctbatch_request_seconds_count{method="POST",route="/api/v1/jobs",status="202"} 1.0' in text_
    assert "secret-name" not in text_
    assert "ann" not in text_


def test_metrics_give_results_of_proofs(app: APIFlask, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=False, bf16=True)
    load_engines(champion.id, "ct-2", int8=True)
    lines = app.test_client().get("/metrics").text.splitlines()
    labels = '{engine="openvino-%s",host="ct-%s",model_version="fake/1"}'
    expected = {("int8", 1): (0.0, 0.31), ("bf16", 1): (1.0, 0.0041), ("int8", 2): (1.0, 0.0041)}
    for which, (passed, largest) in expected.items():
        assert f"ctbatch_engine_proof_passed{labels % which} {passed}" in lines
        assert f"ctbatch_engine_proof_largest_difference{labels % which} {largest}" in lines
    assert len([line for line in lines if line.startswith("ctbatch_engine_proof")]) == 6


def test_metrics_have_no_series_of_a_host_whose_worker_is_gone(app: APIFlask, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=False)
    load_engines(champion.id, "ct-2", int8=True)
    end_workers("ct-1")
    text_ = app.test_client().get("/metrics").text
    assert 'host="ct-2"' in text_
    assert 'host="ct-1"' not in text_


def test_logs_hold_no_file_names(
    api: Api, anns_browser: Browser, worker: WorkerPart, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = api.submit(("Meier-Johanna.zip", zip_of({"Meier/1.png": png()})), name="Meier job").json["id"]
    api.submit(("Meier-cut.zip", zip_of({"1.png": png()})[:-30]))
    worker.start()
    worker.read(1, names="Meier{}.png", series="Meier")
    anns_browser.get(f"/jobs/{job_id}")
    api.get(f"/jobs/{job_id}/results.csv")
    assert "Meier" not in caplog.text


def test_unexpected_error_is_a_500_without_details(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    storage().incoming.folder.rmdir()
    answer = api.submit(("1.png", png()))
    assert (answer.status_code, answer.json["type"]) == (500, "urn:ctbatch:problem:internal")
    assert "incoming" not in answer.text
    assert "Unhandled FileNotFoundError" in caplog.text


def test_database_that_is_away_is_503(api: Api, settings: Settings, tmp_path: Path) -> None:
    database.use(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'none' / 'x.db'}"}))
    answer = api.get("/jobs")
    assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:unavailable")
    assert answer.headers["Retry-After"] == "5"


def test_database_that_is_away_is_a_page_in_a_browser(
    anns_browser: Browser, settings: Settings, tmp_path: Path
) -> None:
    database.use(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'none' / 'x.db'}"}))
    page = anns_browser.get("/jobs")
    assert (page.status_code, page.mimetype, page.headers["Retry-After"]) == (503, "text/html", "5")
    assert "The database cannot be reached right now." in page.text


def test_json_that_is_nested_too_deeply_is_a_bad_request(admin: Api) -> None:
    answer = admin.post("/models/rollback", data=b"[" * 200_000, content_type="application/json")
    assert answer.status_code == 400
    cursor = base64.urlsafe_b64encode(b"[" * 1_400).decode()
    assert admin.get(f"/jobs?cursor={cursor}").status_code == 422


def test_cursor_with_an_impossible_time_is_refused(api: Api) -> None:
    cursor = paging.encode("0001-01-01T00:00:00+14:00", "x")
    assert api.get(f"/jobs?cursor={cursor}").status_code == 422


@pytest.mark.slow
def test_web_process_loads_no_library_of_the_workers(tmp_path: Path) -> None:
    code = (
        "import sys, web.asgi, web.views.jobs, worker.imaging.render;"
        "heavy = {'tensorflow', 'keras', 'openvino', 'nncf', 'sklearn', 'scipy', 's3fs', 'jax', 'torch', 'pydicom'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environ = {"CTBATCH_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environ, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_unknown_addresses_are_problems_in_the_api_and_pages_elsewhere(app: APIFlask) -> None:
    client = app.test_client()
    assert client.get("/api/v1/nothing").mimetype == "application/problem+json"
    assert client.delete("/api/v1/jobs").status_code == 405
    page = client.get("/nothing")
    assert (page.status_code, page.mimetype) == (404, "text/html")


def test_static_files_are_kept_by_their_digest(app: APIFlask) -> None:
    with app.test_request_context():
        address = app.url_for("static", filename="ctbatch.css")
    answer = app.test_client().get(address)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "immutable" not in app.test_client().get("/static/ctbatch.css").headers["Cache-Control"]


def test_every_bundled_package_has_its_licence() -> None:
    folders = [path for path in (PROJECT / "web/static/vendor").iterdir() if path.is_dir()]
    assert {path.name for path in folders} == {"bootstrap", "bootstrap-icons", "htmx", "inter", "swagger-ui", "uplot"}
    for folder in folders:
        assert (folder / "LICENSE").read_text().strip()


def test_submission_wakes_an_ingest_worker(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[broker.Queue] = []
    monkeypatch.setattr(broker, "wake", woken.append)
    api.submit(("1.png", png()))
    assert woken == [broker.Queue.INGEST]


SEVERAL = """
import pathlib, sys
from tests.builders.versions import add_champion
from tests.conftest import make_settings
from db import database, migrate
settings = make_settings(pathlib.Path(sys.argv[1]))
database.use(settings)
migrate.upgrade()
from web.app import create_app
client = create_app(settings).test_client()
client.get("/healthz")
print([line for line in client.get("/metrics").text.splitlines() if "_count{" in line and "healthz" in line][0])
"""


@pytest.mark.slow
def test_several_web_processes_are_counted_together(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SEVERAL, str(tmp_path / "home")]
    counts = [
        subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(2)
    ]
    assert counts == ["1.0", "2.0"]
