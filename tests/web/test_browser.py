"""The pages in a real browser: signing in, submitting, watching a job, looking at heat maps."""

import base64
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from apiflask import APIFlask
from flask import render_template_string
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import database
from db.access import accounts, tokens
from db.database import read_scope, session_scope
from db.evaluation.result import PairedMetric
from db.ledger.leases import Claim
from db.metrics import METRICS
from db.models import Job, ModelVersion, Review, TrainingRun, Upload, User
from db.settings import Settings
from db.storage import storage
from db.training import runs
from db.training.progress import EpochRecord, LiveProgress
from tests.builders.files import png, zip_of
from tests.builders.versions import add_version
from tests.web.actors import PASSWORD, Api, WorkerPart, load_engines, ready_dataset, resnet50
from tests.web.conftest import with_session
from web.actions import jobs as actions

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def submit_files(page: Any, files: list[Path]) -> None:
    page.goto("/submit")
    page.set_input_files("#files", files)
    page.get_by_role("button", name="Submit").click()


@pytest.mark.slow
def test_sign_in_and_out(page: Any, ann: User) -> None:
    page.goto("/sign-in")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs")
    assert page.get_by_role("heading", name="No jobs yet").is_visible()
    page.get_by_label("Account of ann").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")


def test_submit_by_choosing_a_file(signed_in: Any, tmp_path: Path) -> None:
    archive = tmp_path / "scan.zip"
    archive.write_bytes(zip_of({"1.png": png(1), "2.png": png(2)}))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [archive])
    assert "1 file" in signed_in.locator("#chosen-sum").inner_text()
    signed_in.get_by_label("Name").fill("by hand")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    assert signed_in.get_by_role("heading", name="by hand").is_visible()
    assert signed_in.locator(".state").first.inner_text() == "queued"


@pytest.mark.slow
def test_submit_by_dropping(signed_in: Any) -> None:
    signed_in.goto("/submit")
    signed_in.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(30)], "dropped.png"));
            document.getElementById("drop").dispatchEvent(
                new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data}));
        }"""
    )
    signed_in.locator("#chosen li").wait_for()
    assert "dropped.png" in signed_in.locator("#chosen").inner_text()


def drop_folder(page: Any, name: str, count: int, modified: int = 1) -> None:
    """Drop a folder with a folder of pictures of 30 bytes, by stand-ins for the entries of a file system."""
    page.evaluate(
        """([name, count, modified]) => {
            const file = new File([new Uint8Array(30)], "picture", {lastModified: modified});
            const entry = (_, n) => ({isFile: true, name: `${n}.bmp`, file: (done) => done(file)});
            const entries = Array.from({length: count}, entry);
            const reader = (some) => ({readEntries: (done) => done(some.splice(-100))});
            const folder = (name, some) => ({name, createReader: () => reader(some)});
            const event = new Event("drop", {bubbles: true, cancelable: true});
            const item = {webkitGetAsEntry: () => folder(name, [folder("ct", entries)])};
            document.dispatchEvent(Object.assign(event, {dataTransfer: {items: [item], files: []}}));
        }""",
        [name, count, modified],
    )


def chosen_files(page: Any, count: int) -> list[str]:
    page.locator("#chosen-sum", has_text=f"{count} files").wait_for()
    return page.locator("#chosen li bdi").all_inner_texts()


@pytest.mark.slow
def test_folders_of_one_name_stay_apart_and_files_that_were_chosen_are_left_out(signed_in: Any) -> None:
    signed_in.goto("/submit")
    drop_folder(signed_in, "scan", 2)
    chosen_files(signed_in, 2)
    drop_folder(signed_in, "scan", 2, modified=2)
    expected = ["scan/ct/0.bmp", "scan/ct/1.bmp", "scan (2)/ct/0.bmp", "scan (2)/ct/1.bmp"]
    assert chosen_files(signed_in, 4) == expected
    drop_folder(signed_in, "scan", 3)
    assert chosen_files(signed_in, 5) == [*expected, "scan/ct/2.bmp"]
    assert "left out 2 that were chosen before" in signed_in.locator("#chosen-sum").inner_text()


def drop_texts(page: Any, name: str, texts: dict[str, str]) -> None:
    """Drop a folder of files of one time, by stand-ins for the entries of a file system."""
    page.evaluate(
        """([name, texts]) => {
            const entry = ([name, text]) => {
                const file = new File([text], name, {lastModified: 1});
                return {isFile: true, name, file: (done) => done(file)};
            };
            const some = Object.entries(texts).map(entry);
            const folder = {name, createReader: () => ({readEntries: (done) => done(some.splice(-100))})};
            const items = [{webkitGetAsEntry: () => folder}];
            const event = new Event("drop", {bubbles: true, cancelable: true});
            document.dispatchEvent(Object.assign(event, {dataTransfer: {items, files: []}}));
        }""",
        [name, texts],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "chosen", "left_out"),
    [
        ({"README": "r", "2.png": "b"}, ["CT/README", "CT/1.png", "CT (2)/README", "CT (2)/2.png"], 0),
        ({"README": "r", "1.png": "b"}, ["CT/README", "CT/1.png", "CT (2)/README", "CT (2)/1.png"], 0),
        ({"README": "r", "1.png": "a", "2.png": "b"}, ["CT/README", "CT/1.png", "CT/2.png"], 2),
    ],
)
def test_folders_that_share_files_are_one_only_if_one_holds_the_other(
    signed_in: Any, second: dict[str, str], chosen: list[str], left_out: int
) -> None:
    signed_in.goto("/submit")
    drop_texts(signed_in, "CT", {"README": "r", "1.png": "a"})
    chosen_files(signed_in, 2)
    drop_texts(signed_in, "CT", second)
    assert chosen_files(signed_in, len(chosen)) == chosen
    assert (f"left out {left_out}" in signed_in.locator("#chosen-sum").inner_text()) is bool(left_out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbered"),
    [("scan.zip", "scan (2).zip"), ("CT.1.tar.gz", "CT.1 (2).tar.gz"), ("IM1", "IM1 (2)"), (".h", ".h (2)")],
)
def test_files_of_one_name_are_left_out_only_if_their_bytes_are_the_same(
    signed_in: Any, tmp_path: Path, name: str, numbered: str
) -> None:
    paths = [tmp_path / folder / name for folder in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(path.parent.name[:5].encode())
        os.utime(path, (1000, 1000))
    signed_in.goto("/submit")
    for path in paths:
        signed_in.set_input_files("#files", [path])
    assert chosen_files(signed_in, 2) == [name, numbered]
    signed_in.set_input_files("#files", [paths[1]])
    signed_in.get_by_text("left out 1 that was chosen before").wait_for()
    assert chosen_files(signed_in, 2) == [name, numbered]


@pytest.mark.slow
def test_folder_of_very_many_files_is_dropped(signed_in: Any) -> None:
    signed_in.goto("/submit")
    drop_folder(signed_in, "scan", 150_000)
    assert len(chosen_files(signed_in, 150_000)) == 8


@pytest.mark.slow
def test_more_files_than_a_form_takes_are_sent_as_one_archive(signed_in: Any) -> None:
    picture = base64.b64encode(png(1)).decode()
    signed_in.goto("/submit")
    signed_in.evaluate(
        """(picture) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
            const name = (i) => `${i}${i === 1 ? "ä".repeat(90) : ""}.png`;
            for (let i = 0; i < 991; i += 1) data.items.add(new File([bytes], name(i)));
            const input = document.getElementById("files");
            input.files = data.files;
            input.dispatchEvent(new Event("change", {bubbles: true}));
        }""",
        picture,
    )
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url("**/jobs/*")
    with read_scope() as s:
        [upload] = s.scalars(select(Upload))
        assert s.scalars(select(Job.name)).one() == "0.png and 990 more"
    with tarfile.open(storage().local_path(upload.sha256)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members[:2]] == ["0.png", f"1{'ä' * 90}.png"]
        assert len(members) == 991
        last = archive.extractfile(members[-1])
        assert last is not None
        assert last.read() == png(1)


@pytest.mark.slow
def test_more_bytes_than_may_be_sent_are_not_sent(signed_in: Any, settings: Settings, tmp_path: Path) -> None:
    database.use(settings.model_copy(update={"max_upload_bytes": 1000}))
    for name, size in (("large", 900), ("small", 200)):
        (tmp_path / f"{name}.png").write_bytes(bytes(size))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [tmp_path / "large.png", tmp_path / "small.png"])
    signed_in.get_by_role("alert").get_by_text("At most 1000 bytes can be sent at once.").wait_for()
    assert signed_in.locator("#send").is_disabled()
    signed_in.get_by_label("Remove large.png").click()
    assert signed_in.locator("#send").is_enabled()


@pytest.mark.slow
def test_report_in_its_frame_follows_the_theme(admin_page: Any, tmp_path: Path) -> None:
    style = "body { color: white } @media screen and (prefers-color-scheme: dark) { body { color: black } }"
    version = add_version(tmp_path, "reported", {"report.html": f"<style>{style}</style><p>Report".encode()})
    for theme, colour in (("dark", "rgb(0, 0, 0)"), ("light", "rgb(255, 255, 255)")):
        admin_page.goto(f"/models/{version.id}/training-report")
        admin_page.evaluate("(theme) => localStorage.setItem('ctbatch-theme', theme)", theme)
        admin_page.reload()
        text = admin_page.frame_locator("iframe.report-frame").get_by_text("Report")
        assert text.evaluate("(node) => getComputedStyle(node).color") == colour


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
    assert not signed_in.get_by_role("button", name="Stop").is_visible()
    checked.set()
    signed_in.wait_for_url("**/jobs/*")


@pytest.mark.slow
def test_submission_can_be_stopped_while_it_is_sent(
    signed_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Event()
    receive = actions.receive

    def receive_later() -> Any:
        assert stopped.wait(20)
        return receive()

    monkeypatch.setattr(actions, "receive", receive_later)
    archive = tmp_path / "scan.zip"
    archive.write_bytes(bytes(40_000_000))  # more than the sockets hold
    submit_files(signed_in, [archive])
    signed_in.get_by_role("button", name="Stop").click()
    stopped.set()
    problem = signed_in.locator("#problem")
    problem.wait_for()
    assert "Nothing was queued" in problem.inner_text()


@pytest.mark.slow
def test_changed_name_leads_to_the_job_that_the_lost_answer_was_about(signed_in: Any, api: Api, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    made = []

    def lose(route: Any) -> None:
        if route.request.method == "POST":
            made.append(api.submit(("1.png", png(1)), key=route.request.headers["idempotency-key"]).json["id"])
        route.abort()

    signed_in.route(lambda url: "/api/v1/jobs" in url, lose)
    submit_files(signed_in, [tmp_path / "1.png"])
    signed_in.get_by_role("alert").get_by_text("It is not known whether the job was queued.").wait_for()
    signed_in.unroute_all()
    signed_in.get_by_label("Name").fill("another name")
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.wait_for_url(f"**/jobs/{made[0]}")
    signed_in.faults.clear()  # the browser itself logs the failed requests


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


def sign_in_as_bob(page: Any, app: APIFlask, address: str) -> None:
    """Sign in as Bob in another tab."""
    with session_scope() as s:
        accounts.set_password(s, accounts.find_user(s, "bob"), PASSWORD)
    with_session(page, app, address, "bob")


@pytest.mark.slow
def test_label_of_a_page_with_an_old_token_is_sent_again(
    signed_in: Any, app: APIFlask, address: str, finished: str
) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    with_session(signed_in, app, address, "ann")
    signed_in.locator("#review-covid").click()
    signed_in.locator("#review-covid[aria-pressed=true]").wait_for()
    assert not signed_in.locator("#refused").is_visible()
    signed_in.faults.clear()  # the browser itself logs the refused request


@pytest.mark.slow
def test_label_that_is_refused_is_reported(
    signed_in: Any, app: APIFlask, address: str, bob: User, finished: str
) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#review-covid").evaluate("(button) => { button.value = 'nonsense'; }")
    signed_in.locator("#review-covid").click()
    signed_in.get_by_role("alert").get_by_text("There is no such label.").wait_for()
    signed_in.locator("#review-non-covid").click()
    signed_in.locator("#review-non-covid[aria-pressed=true]").wait_for()
    assert not signed_in.locator("#refused").is_visible()
    sign_in_as_bob(signed_in, app, address)
    signed_in.locator("#review-undo").click()
    signed_in.get_by_role("alert").get_by_text("now bob is signed in").wait_for()
    with read_scope() as s:
        assert [review.label for review in s.scalars(select(Review))] == [0]
    signed_in.faults.clear()  # the browser itself logs the refused requests


@pytest.mark.slow
@pytest.mark.parametrize("key", ["ArrowRight", "Escape"])
def test_label_with_an_old_token_is_kept_if_the_reader_goes_on(
    signed_in: Any, app: APIFlask, address: str, finished: str, key: str
) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    first = signed_in.locator("#slice").get_attribute("data-id")
    with_session(signed_in, app, address, "ann")
    delay_page(signed_in)
    with signed_in.expect_response("**/review**"):
        signed_in.keyboard.press("1")
    with signed_in.expect_response("**/review**"):
        signed_in.keyboard.press(key)
    with read_scope() as s:
        [review] = s.scalars(select(Review))
        assert (str(review.slice_id), review.label) == (first, 1)
    if key == "ArrowRight":
        assert signed_in.locator("#slice").get_attribute("data-id") != first
    assert not signed_in.locator("#refused").is_visible()
    signed_in.faults.clear()  # the browser itself logs the refused request


@pytest.mark.slow
def test_refused_label_names_its_slice_if_the_reader_goes_on(
    signed_in: Any, app: APIFlask, address: str, bob: User, finished: str
) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#slice").wait_for()
    name = signed_in.locator(".slice-title").inner_text()
    sign_in_as_bob(signed_in, app, address)
    delay_page(signed_in)
    with signed_in.expect_response("**/review**"):
        signed_in.keyboard.press("1")
    signed_in.keyboard.press("Escape")
    signed_in.get_by_role("alert").get_by_text(f"The label of {name} did not change.").wait_for()
    signed_in.faults.clear()  # the browser itself logs the refused request


def delay_page(page: Any) -> None:
    """Let the page wait a while before it asks for itself, which it does for a new token."""
    page.evaluate(
        """() => {
            const fetch = window.fetch;
            const later = () => new Promise((done) => { setTimeout(done, 500); });
            window.fetch = (path, more) => (path === location.pathname ? later() : Promise.resolve())
                .then(() => fetch(path, more));
        }"""
    )


@pytest.mark.slow
def test_form_with_an_old_token_asks_for_the_estimate_again_and_launches_nothing(
    admin_page: Any, app: APIFlask, address: str
) -> None:
    ready_dataset("site")
    admin_page.goto("/runs/new")
    wait_for_another_estimate(admin_page, app, address)
    assert admin_page.url.endswith("/runs/new")
    with read_scope() as s:
        assert s.scalars(select(TrainingRun)).all() == []


@pytest.mark.slow
def test_old_token_is_renewed_on_a_page_that_answers_a_form(
    admin_page: Any, app: APIFlask, address: str, tmp_path: Path
) -> None:
    ready_dataset("site")
    admin_page.goto("/runs/new?dataset=site/1")
    admin_page.get_by_label("Keras's ResNet50").set_input_files(resnet50(tmp_path / "w.h5"))
    admin_page.get_by_role("button", name="Send").click()
    admin_page.get_by_text("The file of weights with this SHA-256").wait_for()
    wait_for_another_estimate(admin_page, app, address)


def wait_for_another_estimate(page: Any, app: APIFlask, address: str) -> None:
    """Sign in again in another tab, choose another preset, and wait for its estimate."""
    estimate = page.locator("#estimate")
    estimate.get_by_text("About").wait_for()
    before = estimate.text_content()
    with_session(page, app, address, "root")
    page.get_by_label("quick").check()
    playwright.expect(estimate).not_to_have_text(before)
    playwright.expect(estimate).to_contain_text("About")
    assert not page.locator("#refused").is_visible()
    page.faults.clear()  # the browser itself logs the refused request


@pytest.mark.slow
@pytest.mark.parametrize("by", ["proxy", "server"])
def test_server_that_fails_is_not_taken_for_another_user(
    signed_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    signed_in.goto("/submit")
    signed_in.set_input_files("#files", [tmp_path / "1.png"])
    if by == "proxy":
        gateway = {"status": 502, "content_type": "text/html", "body": "<html><h1>502 Bad Gateway</h1></html>"}
        signed_in.route("**/submit", lambda route: route.fulfill(**gateway))
    else:
        locked = OperationalError("", {}, Exception("the database is away"))
        monkeypatch.setattr(tokens, "signed_in", Mock(side_effect=locked))
    signed_in.get_by_role("button", name="Submit").click()
    signed_in.get_by_role("alert").get_by_text("The server does not answer").wait_for()
    assert signed_in.locator("#chosen li bdi").all_inner_texts() == ["1.png"]
    signed_in.faults.clear()  # the browser itself logs the failed request


@pytest.mark.slow
def test_switch_of_blind_review_is_for_the_findings_too(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name")
    findings = signed_in.locator("#findings")
    findings.locator(".ribbon").wait_for()
    signed_in.get_by_label("Blind review").check()
    findings.get_by_text("Findings are hidden in a blind review.").wait_for()
    assert findings.locator(".outcome").count() == 0
    assert "sort=name" in signed_in.url
    signed_in.get_by_label("Blind review").uncheck()
    findings.locator(".ribbon").wait_for()


@pytest.mark.slow
def test_switch_of_blind_review_shows_the_state_of_the_page_after_going_back(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name")
    findings = signed_in.locator("#findings")
    signed_in.get_by_label("Blind review").check()
    findings.get_by_text("Findings are hidden in a blind review.").wait_for()
    signed_in.go_back()
    findings.locator(".ribbon").wait_for()
    playwright.expect(signed_in.get_by_label("Blind review")).not_to_be_checked()


@pytest.mark.slow
def test_page_works_after_going_back(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("#filters select[name=sort]").select_option("name")
    signed_in.wait_for_url("**sort=name*")
    signed_in.go_back()
    signed_in.wait_for_url(f"**/jobs/{finished}")
    signed_in.locator("#filters option[value=position]:checked").wait_for(state="attached")
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#slice").wait_for()
    assert "#slice-" in signed_in.url
    signed_in.get_by_role("button", name="Close").click()
    assert "#slice-" not in signed_in.url
    signed_in.get_by_role("button", name="Colour theme: automatic").click()
    signed_in.get_by_role("button", name="Colour theme: light").wait_for()
    signed_in.get_by_label("Account of ann").click()
    signed_in.keyboard.press("Escape")
    assert not signed_in.get_by_role("link", name="API tokens").is_visible()


def test_job_page_follows_the_job_to_its_end(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    signed_in.goto(f"/jobs/{job_id}")
    heading = signed_in.get_by_role("heading", level=1).element_handle()
    worker.start()
    worker.read(4)
    signed_in.locator("#results tr.slice-row").first.wait_for()
    signed_in.locator(".state", has_text="running").wait_for()
    worker.reject("broken.png", "truncated")
    worker.finish_reading()
    worker.predict()
    signed_in.locator(".state", has_text="finished").wait_for()
    playwright.expect(signed_in.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "5")
    signed_in.locator("#results").get_by_text("The image ends too early.").first.wait_for()
    playwright.expect(signed_in.locator('[role="status"]').first).to_have_text("The job is finished.")
    assert heading.is_visible()  # the page was changed in place, not replaced
    signed_in.locator("#results .outcome-positive").first.wait_for()
    playwright.expect(signed_in.locator("[hx-trigger^=every]")).to_have_count(0, timeout=15_000)
    requests: list[str] = []
    signed_in.on("request", lambda request: requests.append(request.url))
    signed_in.wait_for_timeout(2500)
    assert requests == []


@pytest.mark.slow
def test_jobs_list_follows_its_jobs(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png(1)}))).json["id"]
    signed_in.goto("/jobs")
    worker.whole_job(1)
    signed_in.locator(f"#job-{job_id} .state", has_text="finished").wait_for()
    assert signed_in.locator(f"#job-{job_id}").get_attribute("hx-trigger") is None


@pytest.mark.slow
def test_long_name_breaks_no_time_and_no_number(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    api.submit(("a.zip", zip_of({"1.png": png(1)})), name="a name of many words " * 9)
    worker.whole_job(237)
    with session_scope() as s:
        s.execute(update(Job).values(created_at=datetime.now(UTC) - timedelta(minutes=43)))
    signed_in.set_viewport_size({"width": 1366, "height": 740})
    signed_in.goto("/jobs")
    heights = signed_in.locator("td.num, td time").evaluate_all(
        """cells => cells.map((cell) => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return text.getBoundingClientRect().height;
        })"""
    )
    assert len(heights) == 4
    assert max(heights) < 30, "one line"


@pytest.mark.slow
def test_slice_dialog_shows_and_hides_the_heat_map(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    heat = dialog.locator(".slice-heat")
    heat.wait_for()
    assert heat.is_visible()
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") == 672
    dialog.get_by_label("Heat map").click()
    assert heat.is_hidden()
    signed_in.keyboard.press("h")
    assert heat.is_visible()
    signed_in.keyboard.press("Escape")
    assert dialog.is_hidden()


@pytest.mark.slow
def test_heat_and_focus_stay_from_slice_to_slice(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_label("Strength").fill("40")
    place = dialog.locator("#slice-next").bounding_box()
    dialog.locator("#slice-next").press("Enter")
    dialog.get_by_role("heading", name="1.png").wait_for()
    assert dialog.locator(".slice-heat").evaluate("image => image.style.opacity") == "0.4"
    assert dialog.get_by_label("Strength").input_value() == "40"
    assert signed_in.evaluate("document.activeElement.id") == "slice-next"
    assert dialog.locator("#slice-next").bounding_box() == place
    signed_in.keyboard.press("h")
    signed_in.keyboard.press("Enter")
    dialog.get_by_role("heading", name="2.png").wait_for()
    assert dialog.locator(".slice-heat").is_hidden()
    signed_in.keyboard.press("ArrowLeft")
    dialog.get_by_role("heading", name="1.png").wait_for()
    signed_in.goto(dialog.locator("#slice-next").get_attribute("href"))
    assert signed_in.locator(".slice-heat").is_hidden()
    signed_in.keyboard.press("ArrowRight")
    signed_in.get_by_role("heading", level=1, name="3.png").wait_for()
    signed_in.keyboard.press("1")
    signed_in.locator(".review-list .outcome-positive").wait_for()
    assert signed_in.get_by_role("heading", level=1, name="3.png").is_visible()


@pytest.mark.slow
def test_address_names_the_slice_in_the_dialog(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_text("1 of 7").wait_for()
    signed_in.keyboard.press("ArrowRight")
    dialog.get_by_text("2 of 7").wait_for()
    signed_in.wait_for_url(f"**/jobs/{finished}?sort=name#slice-*")
    signed_in.reload()
    dialog.get_by_text("2 of 7").wait_for()
    signed_in.keyboard.press("Escape")
    signed_in.wait_for_url(f"**/jobs/{finished}?sort=name")


@pytest.mark.slow
def test_next_goes_on_past_the_end_of_the_page(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.whole_job(53)
    signed_in.goto(f"/jobs/{job_id}?sort=name")
    signed_in.locator("a[data-slice]").nth(49).click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_text("50 of 53").wait_for()
    for number in (51, 52, 53):
        signed_in.keyboard.press("ArrowRight")
        dialog.get_by_text(f"{number} of 53").wait_for()
    signed_in.keyboard.press("ArrowRight")
    assert dialog.locator("#slice-next").get_attribute("aria-disabled") == "true"
    assert dialog.get_by_role("heading", name="52.png").is_visible()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (683, 370), (1366, 740)])
def test_slice_and_its_buttons_are_seen_together(signed_in: Any, finished: str, width: int, height: int) -> None:
    signed_in.set_viewport_size({"width": width, "height": height})
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    figure = signed_in.get_by_role("dialog").locator(".slice-figure")
    figure.wait_for()
    for box in (signed_in.locator("#slice-next").bounding_box(), figure.bounding_box()):
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height
        assert box["x"] + box["width"] <= width


SWIPE = """([right, down, fingers]) => {
    const picture = document.querySelector(".slice-figure img");
    const touch = (x, y, identifier) => new Touch({identifier, target: picture, clientX: 200 + x, clientY: 200 + y});
    const start = Array.from({length: fingers}, (_, number) => touch(0, 0, number));
    const event = (kind, lists) => picture.dispatchEvent(new TouchEvent(kind, {bubbles: true, ...lists}));
    event("touchstart", {touches: start, changedTouches: start});
    event("touchend", {touches: [], changedTouches: [touch(right, down, 0)]});
}"""


@pytest.mark.slow
def test_swipe_across_the_picture_goes_to_the_next_slice(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[href*='/slices/']").first.click()
    place = signed_in.locator("#slice-dialog .slice-nav")
    place.get_by_text("1 of ").wait_for()
    for nothing in ((-30, 0, 1), (-60, 90, 1), (-120, 0, 2)):
        signed_in.evaluate(SWIPE, nothing)
    signed_in.evaluate(SWIPE, (-120, 20, 1))
    place.get_by_text("2 of ").wait_for()
    signed_in.evaluate(SWIPE, (120, 0, 1))
    place.get_by_text("1 of ").wait_for()


@pytest.mark.slow
def test_keys_are_not_offered_where_nothing_hovers(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    key = signed_in.get_by_role("dialog").locator("kbd").filter(has_text="H")
    key.wait_for()
    touch = {"enabled": True, "maxTouchPoints": 1}
    signed_in.context.new_cdp_session(signed_in).send("Emulation.setTouchEmulationEnabled", touch)
    playwright.expect(key).to_be_hidden()


@pytest.mark.slow
def test_slices_are_labelled_by_keys_without_the_answer_in_view(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.get_by_label("Blind review").check()
    signed_in.locator("tr.slice-row").get_by_text("not labelled").first.wait_for()
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_text("1 of 7").wait_for()
    assert dialog.locator(".slice-heat, .big, .outcome").count() == 0
    signed_in.keyboard.press("1")
    dialog.locator(".big").wait_for()
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    assert dialog.locator(".slice-heat").is_visible()
    signed_in.keyboard.press("u")
    dialog.locator(".big").wait_for(state="detached")
    signed_in.keyboard.press("2")
    playwright.expect(dialog.locator("#review-non-covid")).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
def test_series_are_found_while_typing(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.start()
    for number in range(30):
        worker.read(1, series=f"patient {number}")
    worker.finish_reading()
    while worker.predict():
        pass
    signed_in.goto(f"/jobs/{job_id}")
    rows = signed_in.locator("#findings-list .series-rows > li")
    playwright.expect(rows).to_have_count(20)
    signed_in.locator("#findings-list").get_by_role("link", name="Next").click()
    playwright.expect(rows).to_have_count(10)
    signed_in.get_by_role("searchbox").fill("patient 7")
    playwright.expect(rows).to_have_count(1)
    rows.get_by_role("link").click()
    signed_in.get_by_role("link", name="Remove the filter patient 7").wait_for()


@pytest.mark.slow
def test_account_menu_closes_when_the_focus_leaves_it(signed_in: Any) -> None:
    signed_in.goto("/jobs")
    menu = signed_in.locator("details.menu")
    menu.locator("summary").press("Enter")
    assert menu.get_attribute("open") is not None
    for _ in range(4):
        signed_in.keyboard.press("Tab")
    assert menu.get_attribute("open") is None
    menu.locator("summary").press("Enter")
    signed_in.keyboard.press("Tab")
    signed_in.keyboard.press("Escape")
    assert menu.get_attribute("open") is None
    playwright.expect(menu.locator("summary")).to_be_focused()


@pytest.mark.slow
def test_filters_order_and_heat_maps_change_the_table_and_the_address(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    assert signed_in.locator("tr.slice-row").count() == 7
    signed_in.get_by_label("Prediction").select_option("COVID")
    signed_in.wait_for_url("**label=COVID**")
    playwright.expect(signed_in.locator("tr.slice-row")).to_have_count(2)
    signed_in.get_by_label("Heat maps").check()
    signed_in.locator("tr.slice-row img[src*='heat=1']").first.wait_for()
    signed_in.get_by_role("link", name="Clear all filters").click()
    signed_in.wait_for_url(f"**/jobs/{finished}?heat=1#results")
    signed_in.get_by_role("combobox", name="Order").select_option("-probability")
    signed_in.wait_for_url("**sort=-probability**")
    playwright.expect(signed_in.locator("tr.slice-row .value").first).to_have_text("0.900")
    signed_in.go_back()
    signed_in.wait_for_url(f"**/jobs/{finished}?heat=1#results")
    signed_in.locator("#results").get_by_text("0.100").first.wait_for()


@pytest.mark.slow
def test_job_is_cancelled_after_asking(signed_in: Any, api: Api) -> None:
    job_id = api.submit(("a.png", png(1))).json["id"]
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.once("dialog", lambda dialog: dialog.accept())
    signed_in.get_by_role("button", name="Cancel").click()
    signed_in.locator(".state", has_text="cancelling").wait_for()


@pytest.mark.slow
def test_buttons_of_a_cancelled_job_are_one_line_high_on_a_phone(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(3)}))).json["id"]
    worker.start()
    worker.read(2)
    api.post(f"/jobs/{job_id}/cancel")
    worker.finish_reading()
    signed_in.set_viewport_size({"width": 360, "height": 740})
    signed_in.goto(f"/jobs/{job_id}")
    buttons = signed_in.locator(".actions .btn")
    assert buttons.filter(has_text="Resume").is_visible()
    assert max(buttons.evaluate_all("buttons => buttons.map((button) => button.offsetHeight)")) < 50


def test_slice_is_reviewed_in_the_dialog(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    reviews = signed_in.get_by_role("dialog").locator("#reviews")
    reviews.get_by_text("No labels yet").wait_for()
    place = signed_in.locator("#slice-next").bounding_box()
    reviews.get_by_role("button", name="non-COVID").click()
    reviews.locator(".review-list .outcome-negative").wait_for()
    assert signed_in.locator("#slice-next").bounding_box() == place
    assert "ann" in reviews.locator(".review-list").inner_text()
    reviews.get_by_role("button", name="Undo").click()
    reviews.locator(".review-list .outcome").wait_for(state="detached")


def test_promote_asks_before_it_does_and_says_when_it_is_done(admin_page: Any, tmp_path: Path) -> None:
    version = add_version(tmp_path, "other")
    questions: list[str] = []
    answers = iter((False, True))

    def answer(dialog: Any) -> None:
        questions.append(dialog.message)
        dialog.accept() if next(answers) else dialog.dismiss()

    admin_page.on("dialog", answer)
    admin_page.goto(f"/models/{version.id}")
    admin_page.get_by_label("Reason").fill("to try it")
    admin_page.get_by_role("button", name="Promote").click()
    assert questions == ["Make other/1 the champion in place of fake/1? The gate says: nothing to compare on."]
    assert admin_page.locator(".success").count() == 0
    admin_page.get_by_role("button", name="Promote").click()
    admin_page.locator(".success").get_by_text("other/1 is the champion now").wait_for()


@pytest.mark.slow
def test_metrics_of_a_version_are_in_one_row(admin_page: Any, tmp_path: Path) -> None:
    metrics = dict.fromkeys(("accuracy", "recall", "specificity", "auc", "ece"), 0.9)
    intervals = {name: [0.8, 0.95] for name in metrics}
    version = add_version(tmp_path, "measured")
    with session_scope() as s:
        s.get_one(ModelVersion, version.id).metrics = metrics | {"intervals": intervals}
    admin_page.goto("/models")
    tiles = admin_page.locator(".model:not(.model-champion) .tiles > div")
    playwright.expect(tiles).to_have_count(5)
    assert len(set(tiles.evaluate_all("tiles => tiles.map((tile) => tile.offsetTop)"))) == 1


@pytest.mark.slow
def test_comparison_hides_nothing_on_a_phone(admin_page: Any, app: APIFlask) -> None:
    pair = PairedMetric(first=0.9, second=0.8, difference=0.1, low=-0.05, high=0.25)
    macro = "{% from 'models/_compared.html' import compared %}{{ compared(pairs, 'a-long-name/1', 'b/12', 't') }}"
    admin_page.set_viewport_size({"width": 360, "height": 740})
    admin_page.goto("/models")
    with app.test_request_context():
        table = render_template_string(macro, pairs=dict.fromkeys(METRICS, pair))
    panel = f"<div class=panel>{table}</div>"
    admin_page.evaluate("html => { document.querySelector('main').innerHTML = html; }", panel)
    assert admin_page.evaluate("document.documentElement.scrollWidth") <= 360
    labels = admin_page.evaluate(
        "[...document.querySelectorAll('td')].map(cell => getComputedStyle(cell, '::before').content)"
    )
    assert {'"95 % interval"', '"Meaning"'} <= set(labels)
    inside = "document.querySelector('table').getBoundingClientRect().right <= innerWidth"
    assert admin_page.evaluate(inside)


@pytest.mark.slow
def test_run_page_follows_the_run_and_its_curves_grow(admin_page: Any, admin: Api) -> None:
    ready_dataset("site")
    run_id = admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).json["id"]
    admin_page.goto(f"/runs/{run_id}")
    admin_page.locator("#curves-none").wait_for()
    with session_scope() as s:
        claimed = runs.claim_run(s, "worker")
        assert claimed is not None
        claimed[0].config = {"stages": [{"name": "small", "epochs": 3}]}
    claim = claimed[1]
    record(claim, epochs=2)
    admin_page.locator("[data-curve=loss] canvas").wait_for()
    admin_page.locator("[data-curve=accuracy] .uplot").wait_for()
    values = admin_page.locator("[data-curve=loss] .u-legend")
    playwright.expect(values).to_be_hidden()  # the list below the curves names the lines
    assert "--" not in values.text_content()
    admin_page.locator("[data-curve=loss] .u-over").hover()
    playwright.expect(values).to_be_visible()
    playwright.expect(admin_page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "66")
    assert admin_page.get_by_role("button", name="Stop and keep what it learned").is_visible()
    with session_scope() as s:
        runs.fail_run(s, claim, "the loss is no number any more")
    admin_page.get_by_text("The loss is no number any more.").wait_for()
    admin_page.wait_for_function("!document.querySelector('[hx-trigger^=every]')")


@pytest.mark.slow
def test_axis_of_one_epoch_ends_with_it(admin_page: Any, admin: Api) -> None:
    ready_dataset("site")
    run_id = admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).json["id"]
    with session_scope() as s:
        claimed = runs.claim_run(s, "worker")
        assert claimed is not None
        claimed[0].config = {"stages": [{"name": "small", "epochs": 3}]}
    admin_page.goto(f"/runs/{run_id}")
    admin_page.evaluate(
        """() => {
            const Drawn = window.uPlot;
            window.drawn = [];
            window.uPlot = function (...given) {
                window.drawn.push(new Drawn(...given));
                return window.drawn.at(-1);
            };
        }"""
    )
    record(claimed[1], epochs=1)
    admin_page.locator("[data-curve=loss] canvas").wait_for()
    assert admin_page.evaluate("drawn.map((curve) => curve.scales.x.max < 2)") == [True, True]


def record(claim: Claim, epochs: int) -> None:
    """So many epochs of three, as a training worker records them."""
    with session_scope() as s:
        for epoch in range(epochs):
            metrics = {"loss": 0.6 / (epoch + 1), "val_loss": 0.7, "accuracy": 0.8, "val_accuracy": 0.7}
            runs.record_epoch(s, claim, EpochRecord(0, epoch, metrics, 1.0))
        where = {
            "stage": 0,
            "stages": 1,
            "stage_name": "small",
            "epoch": epochs - 1,
            "epochs": 3,
            "step": 9,
        }
        live = LiveProgress(**where, steps=9, loss=0.6, rate=20.0, eta_seconds=None)
        runs.report(s, claim, epochs / 3, f"small: epoch {epochs} of 3", live=live)


@pytest.mark.slow
def test_run_form_shows_the_estimate(admin_page: Any, app: APIFlask) -> None:
    ready_dataset("site")
    admin_page.goto("/runs/new")
    estimate = admin_page.get_by_role("status").filter(has_text="if no stage stops early")
    estimate.wait_for()
    before = estimate.text_content()
    admin_page.get_by_label("quick").check()
    admin_page.wait_for_function("before => document.querySelector('#estimate').textContent !== before", arg=before)
    admin_page.get_by_role("button", name="Launch").click()
    admin_page.wait_for_url("**/runs/1")


@pytest.mark.slow
def test_every_admin_page_fits_a_phone_in_both_themes(admin_page: Any, admin: Api) -> None:
    dataset_id = ready_dataset("site")
    run_id = admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).json["id"]
    admin_page.set_viewport_size({"width": 390, "height": 844})
    load_engines(1, "ct-1", int8=False, bf16=True)
    load_engines(1, "a-host-with-a-name-that-is-longer-than-a-phone-is-wide", int8=False, bf16=False, f32=False)
    paths = ["/workers", "/datasets", f"/datasets/{dataset_id}", "/datasets/new", "/models/1"]
    paths += ["/runs", f"/runs/{run_id}", "/runs/new"]
    for theme in ("light", "dark"):
        admin_page.emulate_media(color_scheme=theme)
        for path in paths:
            admin_page.goto(path)
            assert admin_page.evaluate("document.documentElement.scrollWidth") <= 390, path


@pytest.mark.slow
@pytest.mark.parametrize("width", [770, 900, 1000])
def test_header_fits_a_tablet(admin_page: Any, width: int) -> None:
    admin_page.set_viewport_size({"width": width, "height": 844})
    admin_page.goto("/workers")
    box = admin_page.get_by_label("Account of root").bounding_box()
    assert box["x"] + box["width"] <= width
    assert admin_page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_page_says_that_the_server_is_away(signed_in: Any, api: Api) -> None:
    job_id = api.submit(("a.png", png(1))).json["id"]
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.context.set_offline(True)
    signed_in.get_by_role("alert").filter(has_text="does not answer").wait_for()
    signed_in.context.set_offline(False)
    signed_in.get_by_role("alert").filter(has_text="does not answer").wait_for(state="hidden")
    signed_in.faults.clear()


@pytest.mark.slow
def test_every_page_fits_a_phone_in_both_themes(signed_in: Any, finished: str) -> None:
    signed_in.set_viewport_size({"width": 390, "height": 844})
    for theme in ("light", "dark"):
        signed_in.emulate_media(color_scheme=theme)
        for path in ("/jobs", f"/jobs/{finished}", "/submit", "/models", "/tokens"):
            signed_in.goto(path)
            assert signed_in.evaluate("document.documentElement.scrollWidth") <= 390, path
            assert signed_in.evaluate("document.documentElement.dataset.bsTheme") == theme


def test_theme_is_chosen_and_kept(signed_in: Any) -> None:
    signed_in.goto("/jobs")
    button = signed_in.get_by_role("button", name="Colour theme: automatic")
    button.click()
    signed_in.get_by_role("button", name="Colour theme: light").click()
    signed_in.reload()
    assert signed_in.evaluate("document.documentElement.dataset.bsTheme") == "dark"


@pytest.mark.slow
def test_api_page_shows_every_operation(signed_in: Any) -> None:
    signed_in.goto("/api/v1/docs")
    paths = signed_in.request.get("/api/v1/openapi.json").json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    playwright.expect(signed_in.locator(".opblock")).to_have_count(operations)


@pytest.mark.slow
def test_sending_a_file_of_weights_keeps_what_was_typed(admin_page: Any, tmp_path: Path) -> None:
    ready_dataset("site")
    admin_page.goto("/runs/new?dataset=site/1")
    admin_page.get_by_role("radio", name="quick").check()
    admin_page.get_by_label("Name").fill("mine")
    admin_page.get_by_role("spinbutton", name="Seed").fill("9")
    admin_page.locator("#estimate").get_by_text("About").wait_for()
    admin_page.get_by_label("Keras's ResNet50").set_input_files(resnet50(tmp_path / "w.h5"))
    with admin_page.expect_response("**/runs/new/estimate") as answered:
        admin_page.get_by_role("spinbutton", name="Seed").fill("10")
        admin_page.get_by_role("spinbutton", name="Seed").press("Tab")
    assert "About" in answered.value.text(), "a file that waits to be sent is no fault yet"
    admin_page.get_by_role("button", name="Send").click()
    admin_page.get_by_text("The file of weights with this SHA-256").wait_for()
    assert admin_page.get_by_label("Name").input_value() == "mine"
    assert admin_page.get_by_role("spinbutton", name="Seed").input_value() == "10"
    assert admin_page.get_by_role("radio", name="quick").is_checked()
    admin_page.locator("#estimate").get_by_text("About").wait_for()
    admin_page.get_by_role("button", name="Launch").click()
    admin_page.wait_for_url("**/runs/1")
