"""Slices in the dialog of a job's page, in a real browser: heat maps, keys, swipes, labels."""

from typing import Any

import pytest

from tests.builders.files import png, zip_of
from tests.web.actors import Api, WorkerPart

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


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


@pytest.mark.slow
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
@pytest.mark.parametrize("switches", ["", "&blind=1"], ids=["open", "blind"])
def test_list_shows_the_labels_once_the_dialog_is_closed(signed_in: Any, finished: str, switches: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name{switches}")
    address = signed_in.url
    own = signed_in.locator("tr.slice-row td[data-title='Your label']")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_text("1 of 7").wait_for()
    signed_in.keyboard.press("1")
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    signed_in.keyboard.press("ArrowRight")
    dialog.get_by_text("2 of 7").wait_for()
    with signed_in.expect_response("**/review**"):
        signed_in.keyboard.press("2")
    signed_in.keyboard.press("Escape")
    playwright.expect(own.nth(1)).to_have_text("non-COVID")
    assert own.first.inner_text() == "COVID"
    assert signed_in.url == address
    requests: list[str] = []
    signed_in.on("request", lambda request: requests.append(request.url))
    signed_in.locator("a[data-slice]").nth(2).click()
    dialog.get_by_text("3 of 7").wait_for()
    signed_in.keyboard.press("Escape")
    signed_in.wait_for_timeout(500)
    assert not [address for address in requests if "/results" in address], "nothing was labelled"


@pytest.mark.slow
def test_list_shows_a_label_that_arrives_after_the_dialog_is_closed(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    address = signed_in.url
    held: list[Any] = []
    signed_in.route("**/review**", lambda route: held.append(route))
    signed_in.locator("a[data-slice]").first.click()
    signed_in.locator("#slice").wait_for()
    with signed_in.expect_request("**/review**"):
        signed_in.keyboard.press("1")
    signed_in.keyboard.press("Escape")
    dialog = signed_in.locator("#slice-dialog")
    dialog.wait_for(state="hidden")
    held[0].continue_()
    own = signed_in.locator("tr.slice-row td[data-title='Your label']").first
    playwright.expect(own).to_have_text("COVID")
    assert not dialog.is_visible()
    assert signed_in.url == address


@pytest.mark.slow
def test_last_label_of_each_slice_counts_however_slowly_the_server_answers(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}?sort=name")
    held: list[Any] = []
    is_slow = True
    signed_in.route("**/review?*", lambda route: held.append(route) if is_slow else route.continue_())
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    for name, keys in {"0.png": "221", "1.png": "112"}.items():
        dialog.get_by_role("heading", name=name).wait_for()
        with signed_in.expect_request("**/review?*"):
            signed_in.keyboard.press(keys[0])
        for key in (*keys[1:], "ArrowRight"):
            signed_in.keyboard.press(key)
    dialog.get_by_role("heading", name="2.png").wait_for()
    is_slow = False
    for route in held:
        route.continue_()
    signed_in.keyboard.press("Escape")
    own = signed_in.locator("tr.slice-row td[data-title='Your label']")
    playwright.expect(own.first).to_have_text("COVID")
    playwright.expect(own.nth(1)).to_have_text("non-COVID")


@pytest.mark.slow
def test_reader_goes_through_the_slices_that_are_not_labelled(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}?blind=1&sort=name")
    signed_in.get_by_label("Your label").select_option("Not labelled")
    signed_in.wait_for_url("**reviewed=0**")
    rows = signed_in.locator("tr.slice-row")
    playwright.expect(rows).to_have_count(6)
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    for number in range(2):
        dialog.get_by_role("heading", name=f"{number}.png").wait_for()
        signed_in.keyboard.press("1")
        playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
        signed_in.keyboard.press("ArrowRight")
    dialog.get_by_role("heading", name="2.png").wait_for()
    signed_in.keyboard.press("Escape")
    playwright.expect(rows).to_have_count(4)
    assert signed_in.locator("#results-title .count").inner_text() == "4"
    playwright.expect(rows.first.locator("a[data-slice]")).to_be_focused()
    signed_in.keyboard.press("Enter")
    dialog.get_by_role("heading", name="2.png").wait_for()
    signed_in.keyboard.press("1")
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    signed_in.keyboard.press("Escape")
    playwright.expect(rows).to_have_count(3)
    playwright.expect(signed_in.locator("#results-title")).to_be_focused()


@pytest.mark.slow
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


@pytest.mark.slow
def test_keys_work_after_the_strength_was_set_by_pointer(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.click()
    dialog = signed_in.get_by_role("dialog")
    dialog.get_by_label("Strength").click()
    signed_in.keyboard.press("ArrowRight")
    dialog.get_by_text("2 of 7").wait_for()
    assert dialog.get_by_label("Strength").input_value() == "50"
    dialog.get_by_label("Strength").focus()
    signed_in.keyboard.press("ArrowRight")
    playwright.expect(dialog.get_by_label("Strength")).to_have_value("51")
    signed_in.keyboard.press("1")
    playwright.expect(dialog.locator("#review-covid")).to_have_attribute("aria-pressed", "true")
    assert dialog.get_by_text("2 of 7").is_visible()
