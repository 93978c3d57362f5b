"""Pages in a real browser while the server does not answer."""

from typing import Any

import pytest

from tests.builders.files import png, zip_of
from tests.web.actors import Api, WorkerPart

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BAD_GATEWAY = {"status": 502, "content_type": "text/html", "body": "<html><h1>502 Bad Gateway</h1></html>"}
PHONE = {"width": 360, "height": 740}


@pytest.mark.slow
def test_page_says_that_the_server_is_away(signed_in: Any, api: Api) -> None:
    job_id = api.submit(("a.png", png(1))).json["id"]
    signed_in.set_viewport_size(PHONE)
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    signed_in.context.set_offline(True)
    alert = signed_in.get_by_role("alert").filter(has_text="The server does not answer. This page keeps trying.")
    playwright.expect(alert).to_be_in_viewport()
    signed_in.context.set_offline(False)
    alert.wait_for(state="hidden")
    signed_in.faults.clear()  # the browser itself logs the requests without an answer


@pytest.mark.slow
def test_labels_without_an_answer_are_named_until_they_are_given_again(signed_in: Any, finished: str) -> None:
    signed_in.set_viewport_size(PHONE)
    signed_in.goto(f"/jobs/{finished}?sort=name")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    signed_in.route("**/review?*", lambda route: route.abort(), times=1)
    signed_in.route("**/review?*", lambda route: route.fulfill(**BAD_GATEWAY), times=1)
    for number in range(2):
        dialog.get_by_role("heading", name=f"{number}.png").wait_for()
        with signed_in.expect_request("**/review?*"):
            signed_in.keyboard.press("1")
        signed_in.keyboard.press("ArrowRight")
    dialog.get_by_role("heading", name="2.png").wait_for()
    why = "may not have changed. The server does not answer. Try again in a moment."
    alert = signed_in.get_by_role("alert")
    playwright.expect(dialog.get_by_role("alert")).to_have_text(f"The labels of 0.png, 1.png {why}")
    playwright.expect(alert).to_be_in_viewport()
    signed_in.keyboard.press("1")
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    signed_in.keyboard.press("Escape")
    signed_in.locator("footer").scroll_into_view_if_needed()
    playwright.expect(alert).to_be_in_viewport()
    signed_in.locator("a[data-slice]").first.click()
    for number, left in ((0, f"The label of 1.png {why}"), (1, "")):
        dialog.get_by_role("heading", name=f"{number}.png").wait_for()
        signed_in.keyboard.press("1")
        playwright.expect(signed_in.locator("#refused-detail")).to_have_text(left)
        signed_in.keyboard.press("ArrowRight")
    playwright.expect(signed_in.locator("#refused")).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the requests without an answer


@pytest.mark.slow
def test_filter_without_an_answer_goes_back_to_what_the_list_shows(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    prediction = signed_in.get_by_label("Prediction")
    signed_in.route("**/results?*", lambda route: route.abort(), times=1)
    prediction.select_option("non-COVID")
    alert = signed_in.get_by_role("alert").filter(has_text="The server does not answer. Try again in a moment.")
    playwright.expect(alert).to_be_in_viewport()
    playwright.expect(prediction).to_have_value("")
    prediction.select_option("COVID")
    playwright.expect(signed_in.locator("tr.slice-row")).to_have_count(2)
    playwright.expect(prediction).to_have_value("COVID")
    playwright.expect(alert).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the request without an answer


def open_waiting_slice(page: Any, api: Api, worker: WorkerPart) -> None:
    """Open the dialog with a slice that is not predicted yet."""
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.start()
    worker.read(5)
    page.goto(f"/jobs/{job_id}")
    page.locator("a[data-slice]").first.click()
    page.get_by_role("dialog").get_by_text("waiting").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("polls", "key"),
    [("**/results?*poll=1*", "Escape"), ("**/slices/*poll=1*", "Escape"), ("**/slices/*poll=1*", "ArrowRight")],
    ids=["list", "slice", "next"],
)
def test_alert_of_polls_goes_once_their_place_is_drawn_or_closed(
    signed_in: Any, api: Api, worker: WorkerPart, polls: str, key: str
) -> None:
    open_waiting_slice(signed_in, api, worker)
    signed_in.route(polls, lambda route: route.abort())
    alert = signed_in.get_by_role("alert").filter(has_text="This page keeps trying.")
    alert.wait_for()
    signed_in.keyboard.press(key)
    if key == "Escape":
        signed_in.get_by_role("dialog").wait_for(state="hidden")
        signed_in.wait_for_timeout(500)  # what is asked for when the dialog closes gets no answer either
    signed_in.unroute(polls)
    playwright.expect(signed_in.locator("#refused")).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the requests without an answer


@pytest.mark.slow
def test_list_that_could_not_be_drawn_with_a_label_is_drawn_by_the_next_poll(
    signed_in: Any, api: Api, worker: WorkerPart
) -> None:
    open_waiting_slice(signed_in, api, worker)
    signed_in.keyboard.press("1")
    playwright.expect(signed_in.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    signed_in.route("**/results?*", lambda route: route.abort())
    signed_in.keyboard.press("Escape")
    signed_in.get_by_role("alert").get_by_text("The server does not answer.").wait_for()
    signed_in.unroute("**/results?*")
    playwright.expect(signed_in.locator("tr.slice-row td[data-title='Your label']").first).to_have_text("COVID")
    playwright.expect(signed_in.locator("#refused")).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the requests without an answer


@pytest.mark.slow
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "not-answered"])
def test_slice_of_a_closed_dialog_is_not_asked_for_again(
    signed_in: Any, api: Api, worker: WorkerPart, is_answered: bool
) -> None:
    open_waiting_slice(signed_in, api, worker)
    held: list[Any] = []
    signed_in.route("**/slices/*poll=1*", lambda route: held.append(route))
    with signed_in.expect_request("**/slices/*poll=1*"):
        pass
    signed_in.keyboard.press("Escape")
    held[0].continue_() if is_answered else held[0].abort()
    signed_in.wait_for_timeout(4000)
    assert len(held) == 1
    playwright.expect(signed_in.locator("#slice-poll")).to_have_count(0)
    playwright.expect(signed_in.locator("#refused")).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the request without an answer


@pytest.mark.slow
def test_form_is_busy_while_the_server_is_slow_and_then_says_that_nothing_was_sent(signed_in: Any) -> None:
    signed_in.goto("/tokens")
    signed_in.evaluate("htmx.config.defaultTimeout = 1000")
    held: list[Any] = []
    signed_in.route("**/tokens", lambda route: held.append(route))
    signed_in.get_by_label("Purpose").fill("night")
    button = signed_in.get_by_role("button", name="Make")
    button.click()
    playwright.expect(button).to_have_attribute("aria-busy", "true")
    alert = signed_in.get_by_role("alert").filter(has_text="The server does not answer. Nothing was sent.")
    alert.wait_for()
    playwright.expect(button).not_to_have_attribute("aria-busy", "true")
    assert [route.request.method for route in held] == ["GET"]
    signed_in.unroute("**/tokens")
    button.click()
    signed_in.locator("#secret").wait_for()
