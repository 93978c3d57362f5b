"""Pages in a real browser whose token or session has ended, or whose user is another by now."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from apiflask import APIFlask
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from db.access import tokens
from db.database import read_scope
from db.models import Dataset, Review, TrainingRun, User
from tests.builders.files import png, zip_of
from tests.web.actors import PASSWORD, ready_dataset, resnet50
from tests.web.conftest import sign_in_as_bob, with_session

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


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


@pytest.mark.slow
def test_label_of_a_session_that_has_ended_is_reported(
    signed_in: Any, app: APIFlask, address: str, finished: str
) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#slice").wait_for()
    name = signed_in.locator(".slice-title").inner_text()
    signed_in.context.clear_cookies()
    signed_in.keyboard.press("2")
    alert = signed_in.get_by_role("alert").get_by_text(f"The label of {name} did not change. You are signed out.")
    alert.wait_for()
    with_session(signed_in, app, address, "ann")
    signed_in.keyboard.press("2")
    playwright.expect(signed_in.locator("#review-non-covid")).to_have_attribute("aria-pressed", "true")
    assert not alert.is_visible()
    signed_in.faults.clear()  # the browser itself logs the refused requests


@pytest.mark.slow
@pytest.mark.parametrize("how", ["next", "reload"])
def test_sign_in_leads_back_to_the_slice_in_the_dialog(signed_in: Any, finished: str, how: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name")
    signed_in.locator("a[data-slice]").first.click()
    signed_in.get_by_role("dialog").get_by_text("1 of 7").wait_for()
    signed_in.context.clear_cookies()
    signed_in.reload() if how == "reload" else signed_in.keyboard.press("ArrowRight")
    signed_in.get_by_label("Name", exact=True).fill("ann")
    signed_in.get_by_label("Password").fill(PASSWORD)
    signed_in.get_by_role("button", name="Sign in").click()
    signed_in.get_by_role("dialog").get_by_text("1 of 7").wait_for()
    assert f"/jobs/{finished}?sort=name#slice-" in signed_in.url
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


@pytest.mark.slow
def test_dataset_of_a_session_that_has_ended_is_sent_after_signing_in(
    admin_page: Any, app: APIFlask, address: str, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({"COVID/1/1.png": png(1), "non-COVID/2/2.png": png(2)}))
    admin_page.goto("/datasets/new")
    admin_page.get_by_label("Name").fill("site")
    admin_page.set_input_files("#dataset-files", [tmp_path / "a.zip"])
    admin_page.context.clear_cookies()
    admin_page.get_by_role("button", name="Make the dataset").click()
    alert = admin_page.get_by_role("alert").get_by_text("You are signed out.")
    playwright.expect(alert).to_be_in_viewport()
    with_session(admin_page, app, address, "root")
    admin_page.get_by_role("button", name="Make the dataset").dblclick()
    admin_page.get_by_role("heading", level=1, name="site/1").wait_for()
    with read_scope() as s:
        assert len(s.scalars(select(Dataset)).all()) == 1


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
