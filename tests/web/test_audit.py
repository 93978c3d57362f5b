"""What people do by pages and by the API leaves an event in the audit trail. Admins can list the events."""

import sqlite3
from datetime import UTC, datetime

import pytest
from apiflask import APIFlask
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db.access import audit as trail
from db.access.audit import Action
from db.database import read_scope, session_scope
from db.models import AuditEvent, User
from db.settings import Settings
from tests.builders.files import png
from tests.web.actors import PASSWORD, Api, Browser, WorkerPart
from web.security import audit

Event = tuple[str | None, str, str, str]


@pytest.fixture(autouse=True)
def nothing_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """No earlier test counts for what is recorded once an hour."""
    monkeypatch.setattr(audit, "_due", {})


def events(kind: str = "") -> list[Event]:
    """Actor, action, object and detail of all events of a kind, oldest first."""
    with read_scope() as s:
        rows = s.scalars(select(AuditEvent).where(AuditEvent.action.startswith(kind)).order_by(AuditEvent.id))
        return [(row.actor, row.action, row.object, row.detail) for row in rows]


def submitted(api: Api) -> str:
    """The id of a new job."""
    answer = api.submit(("DOE^JANE.png", png()))
    assert answer.status_code == 202
    return str(answer.json["id"])


def test_journey_of_a_job(api: Api) -> None:
    job = submitted(api)
    for path in ("", "/results", "/results.csv", "/results.csv", "/findings"):
        api.get(f"/jobs/{job}{path}")
    api.post(f"/jobs/{job}/cancel")
    assert api.delete(f"/jobs/{job}").status_code == 204
    assert events("job") == [
        ("ann", "job.submit", f"job {job}", ""),
        ("ann", "job.open", f"job {job}", ""),
        ("ann", "job.export", f"job {job}", "results.csv"),
        ("ann", "job.export", f"job {job}", "results.csv"),
        ("ann", "job.cancel", f"job {job}", ""),
        ("ann", "job.delete", f"job {job}", ""),
    ]


def test_no_name_of_a_file_is_kept(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    job = submitted(api)
    anns_browser.get(f"/jobs/{job}?find=DOE")
    api.get(f"/jobs/{job}/results.json")
    assert len(events("job")) == 3
    assert "DOE" not in str(events())


def test_list_of_jobs_opens_none_and_a_page_that_reloads_itself_does(api: Api, anns_browser: Browser) -> None:
    job = submitted(api)
    anns_browser.get("/jobs")
    anns_browser.get(f"/jobs/{job}/row?poll=1")
    assert events("job.open") == []
    for part in ("", "/live", "/results"):
        anns_browser.get(f"/jobs/{job}{part}?poll=1")
    assert events("job.open") == [("ann", "job.open", f"job {job}", "")]


def test_job_of_somebody_else_is_a_refusal_once_an_hour(api: Api, stranger: Api, admin: Api) -> None:
    job = submitted(api)
    for _ in range(2):
        assert stranger.get(f"/jobs/{job}").status_code == 404
    assert stranger.delete(f"/jobs/{job}").status_code == 404
    assert stranger.get("/jobs/aaaaaaaaaaaaaaaa").status_code == 404
    assert stranger.get("/jobs/%00").status_code == 404
    refused = [event for event in events("access") if event[0] == "bob"]
    assert refused == [
        ("bob", "access.refused", f"job {job}", "GET /api/v1/jobs/<job_id>"),
        ("bob", "access.refused", f"job {job}", "DELETE /api/v1/jobs/<job_id>"),
    ]
    assert admin.get(f"/jobs/{job}").status_code == 200
    assert events("job.open") == [("root", "job.open", f"job {job}", "")]


def test_address_for_admins_is_refused(api: Api) -> None:
    assert api.get("/audit").status_code == 403
    assert events("access") == [("ann", "access.refused", "an address for admins", "GET /api/v1/audit")]


def test_sign_in_and_out(browser: Browser, ann: User) -> None:
    assert browser.post("/sign-in", {"name": "ann", "password": "wrong"}).status_code == 401
    assert browser.post("/sign-in", {"name": PASSWORD, "password": "ann"}).status_code == 401
    browser.sign_in("ann")
    browser.post("/sign-out")
    assert events("session") == [
        (None, "session.refused", "user ann", ""),
        (None, "session.refused", "an unknown user", ""),
        ("ann", "session.start", "user ann", ""),
        ("ann", "session.end", "user ann", ""),
    ]


def test_token_says_which_one_acted(api: Api, ann: User) -> None:
    submitted(api)
    with read_scope() as s:
        event = s.scalars(select(AuditEvent).where(AuditEvent.action == Action.JOB_SUBMIT)).one()
    (made,) = events("token.make")
    assert event.via == made[3]
    assert event.via.startswith("token ")
    assert event.address == "127.0.0.1"


def test_label_keeps_each_change(api: Api, worker: WorkerPart) -> None:
    job = submitted(api)
    worker.whole_job(1)
    slice_id = api.get(f"/jobs/{job}/results").json["items"][0]["slice_id"]
    address = f"/jobs/{job}/slices/{slice_id}/review"
    for label in ("COVID", "non-COVID"):
        assert api.put(address, json={"label": label}).status_code == 200
    assert api.delete(address).status_code == 200
    assert [(action, detail) for _, action, _, detail in events("label")] == [
        ("label.set", f"slice {slice_id}: COVID"),
        ("label.set", f"slice {slice_id}: non-COVID"),
        ("label.remove", f"slice {slice_id}"),
    ]


def test_admins_list_events(api: Api, admin: Api, roots_browser: Browser) -> None:
    job = submitted(api)
    page = roots_browser.get("/audit?action=job").text
    assert f"job {job}" in page
    assert "token.make" not in page.split("<tbody>")[1]
    first = admin.get("/audit?limit=1").json
    assert len(first["items"]) == 1
    second = admin.get(f"/audit?limit=1&cursor={first['next_cursor']}").json
    assert second["items"][0]["id"] < first["items"][0]["id"]
    assert admin.get("/audit?actor=ann&action=job.submit").json["items"][0]["object"] == f"job {job}"
    assert "No events" in roots_browser.get("/audit?actor=nobody").text


def test_page_is_for_admins(anns_browser: Browser) -> None:
    assert anns_browser.get("/audit").status_code == 403
    assert 'href="/audit"' not in anns_browser.get("/jobs").text


def test_pages_can_be_read_on_a_full_disk(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submitted(api)
    tried: list[object] = []
    warned: list[str] = []

    def full(_session: object, action: Action, *_: object, **__: object) -> None:
        tried.append(action)
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(trail, "record", full)
    monkeypatch.setattr(audit.log, "warning", lambda message, **_: warned.append(message))
    for _ in range(2):
        assert api.get(f"/jobs/{job}").status_code == 200
    assert (tried, warned) == ([Action.JOB_OPEN], ["not recorded in the audit trail"]), "tried again after a minute"
    assert api.get(f"/jobs/{job}/results.csv").status_code == 503, "no export without an event"


def test_job_that_its_owner_deleted_is_no_refusal(api: Api, admin: Api, stranger: Api) -> None:
    job = submitted(api)
    api.post(f"/jobs/{job}/cancel")
    assert api.delete(f"/jobs/{job}").status_code == 204
    assert [reader.get(f"/jobs/{job}").status_code for reader in (api, admin, stranger)] == [404, 404, 404]
    assert [event[0] for event in events("access")] == ["bob"]


def test_busy_database_does_not_hold_up_a_page(api: Api, settings: Settings) -> None:
    job = submitted(api)
    writer = sqlite3.connect(settings.home / "ctbatch.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        assert api.get(f"/jobs/{job}").status_code == 200
    finally:
        writer.close()
    assert events("job.open") == []


def test_wrong_credentials_are_refusals_without_a_secret(app: APIFlask, browser: Browser, ann: User) -> None:
    wrong = {"Authorization": "Bearer ctb_guess"}
    assert app.test_client().get("/api/v1/jobs", headers=wrong).status_code == 401
    assert browser.post("/sign-in/guess").status_code == 401
    for _ in range(12):
        browser.post("/sign-in", {"name": "ann", "password": "guess"})
    refused = [event[2] for event in events("access")]
    assert refused == ["a token that is not valid", "a sign-in link that is not valid", "too many wrong passwords"]
    assert "guess" not in str(events())


def test_another_address_is_another_look(app: APIFlask, api: Api) -> None:
    job = submitted(api)
    for address in ("127.0.0.1", "203.0.113.66", "203.0.113.66"):
        api.client.get(f"/api/v1/jobs/{job}", headers=api.headers, environ_base={"REMOTE_ADDR": address})
    with read_scope() as s:
        opened = s.scalars(select(AuditEvent.address).where(AuditEvent.action == Action.JOB_OPEN)).all()
    assert sorted(opened) == ["127.0.0.1", "203.0.113.66"]


def test_events_are_listed_by_day(api: Api, admin: Api, roots_browser: Browser) -> None:
    submitted(api)
    with session_scope() as s:
        s.execute(
            update(AuditEvent)
            .where(AuditEvent.action == "job.submit")
            .values(at=datetime(2026, 6, 30, 23, 59, tzinfo=UTC))
        )
    assert [event["action"] for event in admin.get("/audit?until=2026-06-30").json["items"]] == ["job.submit"]
    assert admin.get("/audit?since=2026-07-01&action=job").json["items"] == []
    assert "2026-06-30 23:59" in roots_browser.get("/audit?since=2026-06-30&until=2026-06-30").text
    assert admin.get("/audit?until=9999-12-31").status_code == 422


def test_odd_filters_match_nothing(admin: Api, roots_browser: Browser) -> None:
    assert admin.get("/audit?actor=%00").status_code == 422
    assert roots_browser.get("/audit?actor=%00").status_code == 200
    assert admin.get("/audit?object=" + "x" * 201).status_code == 422


def test_head_of_an_export_is_no_export(api: Api) -> None:
    job = submitted(api)
    api.client.head(f"/api/v1/jobs/{job}/results.csv", headers=api.headers)
    assert events("job.export") == []
