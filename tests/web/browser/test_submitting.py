"""The submit page in a real browser: sending, stopping, lost answers, and ended sessions."""

from pathlib import Path
from threading import Event
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import select

from db.database import read_scope
from db.models import Job, Upload, User
from tests.builders.files import png, zip_of
from tests.web.actors import PASSWORD, Api
from tests.web.conftest import sign_in_as_bob
from web.actions import jobs as actions


def submit_files(page: Any, files: list[Path]) -> None:
    page.goto("/submit")
    page.set_input_files("#files", files)
    page.get_by_role("button", name="Submit").click()


@pytest.mark.slow
def test_refused_archive_is_explained(signed_in: Any, tmp_path: Path) -> None:
    archive = tmp_path / "cut.zip"
    archive.write_bytes(zip_of({"1.png": png(1)})[:-30])
    submit_files(signed_in, [archive])
    problem = signed_in.locator("#problem")
    problem.wait_for()
    assert "This submission was not accepted" in problem.inner_text()
    assert "cut.zip" in problem.inner_text()
    assert signed_in.get_by_role("button", name="Submit").is_enabled()
    assert all("422" in fault for fault in signed_in.faults)  # the browser itself logs the failed request
    signed_in.faults.clear()


@pytest.mark.slow
def test_lost_answer_leads_to_the_job_without_sending_again(signed_in: Any, api: Api, tmp_path: Path) -> None:
    image = tmp_path / "1.png"
    image.write_bytes(png(1))
    sent = []

    def lose(route: Any) -> None:
        sent.append(route.request.headers["idempotency-key"])
        api.submit(("1.png", png(1)), key=sent[-1])  # the server has made the job
        route.abort()

    signed_in.route(lambda url: url.endswith("/api/v1/jobs"), lose)
    submit_files(signed_in, [image])
    signed_in.wait_for_url("**/jobs/*")
    assert len(sent) == 1
    signed_in.faults.clear()  # the browser itself logs the failed request


@pytest.mark.slow
@pytest.mark.parametrize("new", [png(7) + b"longer", None], ids=["changed", "deleted"])
def test_file_that_is_not_readable_any_more_is_named_and_can_be_chosen_again(
    new: bytes | None, signed_in: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "scan"
    folder.mkdir()
    for n in range(30):
        (folder / f"{n}.png").write_bytes(png(n))
    signed_in.goto("/submit")
    signed_in.set_input_files("#folder", folder)
    signed_in.locator("#chosen-sum", has_text="30 files").wait_for()
    (folder / "7.png").unlink()
    if new:
        (folder / "7.png").write_bytes(new)
    signed_in.get_by_role("button", name="Submit").click()
    problem = signed_in.locator("#problem")
    problem.get_by_text("scan/7.png changed since it was chosen, or cannot be read").wait_for()
    signed_in.locator("#chosen-sum", has_text="29 files").wait_for()
    with read_scope() as s:
        assert s.scalars(select(Job)).all() == []
    (folder / "7.png").write_bytes(png(7))
    signed_in.set_input_files("#folder", folder)
    signed_in.locator("#chosen-sum", has_text="30 files").wait_for()
    assert not problem.is_visible()
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    signed_in.faults.clear()  # the browser itself logs the failed request


@pytest.mark.slow
def test_submission_cannot_be_stopped_once_it_is_sent(
    signed_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = Event()
    create = actions.create_job

    def create_later(*given: Any, **named: Any) -> Any:
        assert checked.wait(20)
        return create(*given, **named)

    monkeypatch.setattr(actions, "create_job", create_later)
    image = tmp_path / "1.png"
    image.write_bytes(png(1))
    submit_files(signed_in, [image])
    signed_in.get_by_text("Everything is sent").wait_for()
    assert not signed_in.evaluate("window.dispatchEvent(new Event('beforeunload', {cancelable: true})) === false")
    assert not signed_in.get_by_role("button", name="Stop").is_visible()
    checked.set()
    signed_in.wait_for_url("**/jobs/*")


@pytest.fixture
def large_archive(tmp_path: Path) -> Path:
    """A file of more bytes than the sockets hold."""
    archive = tmp_path / "scan.zip"
    archive.write_bytes(bytes(40_000_000))
    return archive


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Event:
    """The server receives files only after this event."""
    event = Event()
    receive = actions.receive

    def receive_later() -> Any:
        assert event.wait(20)
        return receive()

    monkeypatch.setattr(actions, "receive", receive_later)
    return event


@pytest.mark.slow
def test_submission_can_be_stopped_while_it_is_sent(signed_in: Any, large_archive: Path, received: Event) -> None:
    submit_files(signed_in, [large_archive])
    signed_in.get_by_role("button", name="Stop").click()
    received.set()
    problem = signed_in.locator("#problem")
    problem.wait_for()
    assert "Nothing was queued" in problem.inner_text()


@pytest.mark.slow
def test_leaving_the_page_is_asked_about_while_files_are_sent(
    signed_in: Any, large_archive: Path, received: Event
) -> None:
    asked: list[str] = []

    def stay(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    signed_in.on("dialog", stay)
    submit_files(signed_in, [large_archive])
    signed_in.get_by_role("button", name="Stop").wait_for()
    signed_in.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    assert asked == ["beforeunload"]
    assert signed_in.get_by_role("button", name="Stop").is_visible()
    signed_in.get_by_role("button", name="Stop").click()
    received.set()
    signed_in.get_by_text("Nothing was queued").wait_for()
    signed_in.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    signed_in.wait_for_url("**/jobs")
    assert asked == ["beforeunload"]


def try_to_change(page: Any) -> None:
    """Try to remove a file, to add one and to submit again. Nothing of it may have an effect."""
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(["x"], "dropped.png"));
            document.querySelector("#chosen button").click();
            document.dispatchEvent(new DragEvent("drop", {cancelable: true, dataTransfer: data}));
            document.getElementById("submit-form").requestSubmit();
        }"""
    )
    assert page.locator("#chosen li bdi").all_inner_texts() == ["1.png", "2.png"]
    assert page.locator("#send").is_disabled()


@pytest.mark.slow
def test_nothing_of_a_submission_changes_while_the_page_asks_for_its_token(signed_in: Any, tmp_path: Path) -> None:
    held: list[Any] = []
    keys: list[str] = []
    signed_in.on("request", lambda r: keys.append(r.headers["idempotency-key"]) if r.method == "POST" else None)
    submit_held(signed_in, tmp_path, "/submit", held)
    try_to_change(signed_in)
    held[0].continue_()
    signed_in.wait_for_url("**/jobs/*")
    assert len(held) == 1
    assert [len(key) for key in keys] == [32]
    with read_scope() as s:
        assert s.scalars(select(Upload.filename).order_by(Upload.position)).all() == ["1.png", "2.png"]


@pytest.mark.slow
def test_nothing_of_a_submission_changes_while_it_is_sent(signed_in: Any, api: Api, tmp_path: Path) -> None:
    held: list[Any] = []
    submit_held(signed_in, tmp_path, "/api/v1/jobs", held)
    try_to_change(signed_in)
    job = api.submit(("1.png", png(1)), key=held[0].request.headers["idempotency-key"]).json["id"]
    held[0].abort()  # the server has made the job, and its answer is lost
    signed_in.wait_for_url(f"**/jobs/{job}")
    assert len(held) == 1
    signed_in.faults.clear()  # the browser itself logs the failed request


def submit_held(page: Any, folder: Path, path: str, held: list[Any]) -> None:
    """Submit 1.png and 2.png, and hold the page's first request to this path."""
    paths = [folder / f"{n}.png" for n in (1, 2)]
    for n, image in enumerate(paths):
        image.write_bytes(png(n))
    page.goto("/submit")
    page.set_input_files("#files", paths)
    page.route(lambda url: url.endswith(path), lambda route: held.append(route))
    with page.expect_request(lambda request: request.url.endswith(path)):
        page.get_by_role("button", name="Submit").click()
    page.wait_for_function("document.getElementById('upload').checkVisibility()")


@pytest.mark.slow
def test_submitting_again_after_a_lost_answer_leads_to_the_job_without_sending_again(
    signed_in: Any, api: Api, tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    made: list[str] = []
    sent: list[str] = []
    signed_in.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)

    def lose(route: Any) -> None:
        if route.request.method == "POST":
            made.append(api.submit(("1.png", png(1)), key=route.request.headers["idempotency-key"]).json["id"])
        route.abort()

    signed_in.route(lambda url: "/api/v1/jobs" in url, lose)
    submit_files(signed_in, [tmp_path / "1.png"])
    signed_in.get_by_role("alert").get_by_text("It is not known whether the job was queued.").wait_for()
    signed_in.unroute_all()
    signed_in.get_by_label("Name").fill("another name")
    signed_in.set_input_files("#files", [tmp_path / "1.png"])
    signed_in.get_by_text("left out 1 that was chosen before").wait_for()
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url(f"**/jobs/{made[0]}")
    assert len(sent) == 1
    signed_in.faults.clear()  # the browser itself logs the failed requests


@pytest.mark.slow
def test_many_files_that_are_sent_again_make_one_job(
    signed_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = actions.job_view
    lost: list[str] = []

    def lose(s: Any, job: Job) -> Any:
        if lost:
            return view(s, job)
        lost.append(job.id)  # the job is made, and the answer is an error
        raise ValueError("lost")

    monkeypatch.setattr(actions, "job_view", lose)
    paths = [tmp_path / f"{n}.png" for n in range(25)]
    for n, path in enumerate(paths):
        path.write_bytes(png(n))
    submit_files(signed_in, paths)
    signed_in.get_by_role("alert").get_by_text("This submission was not accepted").wait_for()
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url(f"**/jobs/{lost[0]}")
    signed_in.faults.clear()  # the browser itself logs the failed request


@pytest.mark.slow
def test_page_of_an_ended_session_submits_after_signing_in_again(signed_in: Any, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    sent: list[str] = []
    signed_in.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [tmp_path / "1.png"])
    signed_in.context.clear_cookies()
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.get_by_role("alert").get_by_text("You are signed out").wait_for()
    assert not sent
    other = signed_in.context.new_page()
    other.goto("/sign-in")
    other.get_by_label("Name").fill("ann")
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Sign in").click()
    other.wait_for_url("**/jobs")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")


@pytest.mark.slow
def test_page_of_one_user_does_not_submit_for_another(
    signed_in: Any, app: APIFlask, address: str, bob: User, tmp_path: Path
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [tmp_path / "1.png"])
    sign_in_as_bob(signed_in, app, address)
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.get_by_role("alert").get_by_text("This page is for ann, but now bob is signed in.").wait_for()
    with read_scope() as s:
        assert s.scalars(select(Job)).all() == []
