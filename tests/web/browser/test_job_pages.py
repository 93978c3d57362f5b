"""The pages of jobs in a real browser."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from db.database import session_scope
from db.models import Job
from tests.builders.files import png, zip_of
from tests.web.actors import Api, WorkerPart

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


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
    signed_in.get_by_role("region", name="Findings").get_by_role("heading", name="Findings").wait_for()
    signed_in.locator("#results .outcome-positive").first.wait_for()
    playwright.expect(signed_in.locator("[hx-trigger^=every]")).to_have_count(0, timeout=15_000)
    requests: list[str] = []
    signed_in.on("request", lambda request: requests.append(request.url))
    signed_in.wait_for_timeout(2500)
    assert requests == []


@pytest.mark.slow
def test_second_page_and_the_slice_in_the_dialog_follow_the_job(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.start()
    worker.read(53)
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.get_by_role("link", name="Next page").click()
    signed_in.wait_for_url("**cursor=**")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_text("waiting").wait_for()
    signed_in.keyboard.press("1")
    worker.finish_reading()
    worker.predict([0.9])
    dialog.get_by_text("probability of COVID").wait_for()
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    signed_in.keyboard.press("Escape")
    playwright.expect(signed_in.locator("tr.slice-row td[data-title=Prediction] .outcome-positive")).to_have_count(3)
    signed_in.get_by_text("51–53 of 53 slices").wait_for()
    playwright.expect(signed_in.locator("[hx-trigger^=every]")).to_have_count(0)


@pytest.mark.slow
def test_alert_of_a_refused_poll_goes_when_a_poll_succeeds(signed_in: Any, api: Api) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png(1)}))).json["id"]
    busy = {"status": 429, "content_type": "text/html", "body": "<html><h1>429 Too Many Requests</h1></html>"}
    signed_in.route("**/live?*", lambda route: route.fulfill(**busy), times=1)
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.get_by_role("alert").get_by_text("The server answered 429.").wait_for()
    playwright.expect(signed_in.locator("#refused")).to_be_hidden()
    signed_in.faults.clear()  # the browser itself logs the refused request


@pytest.mark.slow
def test_poll_does_not_replace_or_remove_the_alert_of_a_person(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(3)}))).json["id"]
    worker.start()
    worker.read(2)
    busy = {"status": 429, "content_type": "text/html", "body": "<html><h1>429 Too Many Requests</h1></html>"}
    signed_in.goto(f"/jobs/{job_id}")
    signed_in.route("**/review?*", lambda route: route.fulfill(**busy))
    signed_in.route("**/review", lambda route: route.fulfill(**busy))
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#slice").wait_for()
    signed_in.keyboard.press("1")
    alert = signed_in.get_by_role("alert").get_by_text("did not change. The server answered 429.")
    alert.wait_for()
    signed_in.route("**/live?*", lambda route: route.fulfill(**busy), times=1)
    for _ in range(2):
        with signed_in.expect_response("**/live?*"):
            pass
    assert alert.is_visible()
    signed_in.faults.clear()  # the browser itself logs the refused requests


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
def test_printed_page_says_when_and_what_is_left_out(signed_in: Any, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.whole_job(53)
    signed_in.emulate_media(media="print", color_scheme="dark")
    signed_in.goto(f"/jobs/{job_id}")
    assert signed_in.get_by_text("1–50 of 53 slices").is_visible()
    assert not signed_in.get_by_role("link", name="Next page").is_visible()
    style = "(node, pseudo) => { const {color, content, printColorAdjust} = getComputedStyle(node, pseudo); "
    style += "return {color, content, printColorAdjust}; }"
    assert "UTC" in signed_in.locator("#live time").evaluate(style, "::after")["content"]
    assert signed_in.locator("h1").evaluate(style)["color"] == "rgb(22, 35, 43)", "as in the light theme"
    assert signed_in.locator(".key").first.evaluate(style)["printColorAdjust"] == "exact"


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
    signed_in.locator(".state", has_text="cancelled").wait_for()


def test_job_is_deleted_after_asking(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    button = signed_in.get_by_role("button", name="Delete")
    signed_in.once("dialog", lambda dialog: dialog.dismiss())
    button.click()
    playwright.expect(signed_in.locator(".state", has_text="finished")).to_be_visible()
    questions: list[str] = []
    signed_in.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    button.click()
    signed_in.wait_for_url("**/jobs")
    playwright.expect(signed_in.get_by_role("status")).to_contain_text("The job is deleted.")
    playwright.expect(signed_in.locator(f"#job-{finished}")).to_have_count(0)
    assert "leave the disk after about 17 days" in questions[0]


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
