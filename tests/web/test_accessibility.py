"""The pages for people who use the keyboard or a screen reader, checked in a real browser."""

from typing import Any

import pytest

from tests.builders.files import png, zip_of
from tests.web.actors import Api, WorkerPart, ready_dataset

THEMES = ("light", "dark")
SWAGGER_UI = {("/api/v1/docs", "landmark-no-duplicate-main")}  # it draws a <main> of its own into ours
AXE_OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}

# Focuses each control as the Tab key would, and returns those that do not show it: an outline of at least 2 px, whose
# colour has a contrast of 3:1 to what is around it (WCAG 2.2, 2.4.7 and 1.4.11). An input that is drawn by its label
# shows it there.
UNSEEN = """() => {
    const paint = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        paint.clearRect(0, 0, 1, 1);
        paint.fillStyle = colour;
        paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const around = (element) => {
        for (let e = element.parentElement; e; e = e.parentElement) {
            const colour = rgba(getComputedStyle(e).backgroundColor);
            if (colour[3] > 250) return colour;
        }
        return [255, 255, 255, 255];
    };
    const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
    const unseen = [];
    let count = 0;
    for (const control of document.querySelectorAll(controls)) {
        if (control.disabled || control.inert || !control.checkVisibility()) continue;
        control.focus({focusVisible: true});
        if (document.activeElement !== control) continue;
        count += 1;
        const shows = getComputedStyle(control).opacity === "0" ? control.labels[0] : control;
        const style = getComputedStyle(shows);
        const seen = style.outlineStyle === "solid" && parseFloat(style.outlineWidth) >= 2
            && contrast(rgba(style.outlineColor), around(shows)) >= 3;
        if (!seen) unseen.push(`${control.outerHTML.slice(0, 120)}: ${style.outline}`);
    }
    return {count, unseen};
}"""


@pytest.fixture
def paths(admin: Api, worker: WorkerPart) -> list[str]:
    """The addresses of all pages: a finished job with everything on it, its slice, a dataset, a run, a model."""
    job_id = admin.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(7)}))).json["id"]
    worker.start()
    worker.read(6)
    worker.reject("notes.txt", "format")
    worker.finish_reading()
    worker.lose_slice()
    while worker.predict([0.9, 0.2, 0.1]):
        pass
    slice_id = admin.get(f"/jobs/{job_id}/results?state=predicted").json["items"][0]["slice_id"]
    dataset_id = ready_dataset("site")
    run_id = admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).json["id"]
    open_id = admin.submit(("b.png", png(20))).json["id"]
    return [
        "/jobs",
        f"/jobs/{job_id}",
        f"/jobs/{job_id}?label=COVID&limit=1",
        f"/jobs/{open_id}",
        f"/jobs/{job_id}/slices/{slice_id}",
        "/submit",
        "/models",
        "/models/1",
        "/datasets",
        f"/datasets/{dataset_id}",
        "/datasets/new",
        "/runs",
        f"/runs/{run_id}",
        "/runs/new",
        "/workers",
        "/tokens",
        "/password",
        "/nowhere",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
def test_every_control_shows_that_it_has_the_focus(admin_page: Any, paths: list[str], theme: str) -> None:
    admin_page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    unseen = {}
    for path in paths:
        admin_page.goto(path)
        admin_page.keyboard.press("Tab")  # from now on the browser takes the keyboard for what moves the focus
        admin_page.evaluate("document.querySelectorAll('details').forEach((menu) => { menu.open = true; })")
        walked = admin_page.evaluate(UNSEEN)
        assert walked["count"] >= 8, path
        if walked["unseen"]:
            unseen[path] = walked["unseen"]
    admin_page.faults.clear()  # the page that is not there
    assert unseen == {}


@pytest.mark.parametrize("theme", THEMES)
def test_sign_in_and_the_slice_dialog_show_what_has_the_focus(
    page: Any, signed_in: Any, finished: str, theme: str
) -> None:
    signed_in.emulate_media(color_scheme=theme, reduced_motion="reduce")
    signed_in.goto(f"/jobs/{finished}")
    signed_in.locator("a[data-slice]").first.press("Enter")
    signed_in.get_by_role("dialog").locator(".slice-side").wait_for()
    signed_in.keyboard.press("Tab")
    walked = signed_in.evaluate(UNSEEN)  # what lies behind an open dialog takes no focus
    assert walked["unseen"] == []
    assert walked["count"] >= 6
    signed_in.context.clear_cookies()
    signed_in.goto("/sign-in")
    signed_in.keyboard.press("Tab")
    assert signed_in.evaluate(UNSEEN)["unseen"] == []


def test_forced_colours_keep_the_legend_apart(signed_in: Any, finished: str) -> None:
    signed_in.emulate_media(forced_colors="active")
    signed_in.goto(f"/jobs/{finished}")
    for legend, count in ((".progress-card .legend", 3), ("#findings .legend", 5)):
        keys = signed_in.locator(f"{legend} .key")
        colours = keys.evaluate_all("keys => keys.map((key) => getComputedStyle(key).backgroundColor)")
        assert len(colours) == len(set(colours)) == count


@pytest.mark.slow
def test_targets_are_at_least_24_pixels_high(signed_in: Any, finished: str) -> None:
    signed_in.goto(f"/jobs/{finished}")
    signed_in.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    targets = signed_in.locator("summary, button, .btn, label:has(input)").filter(visible=True)
    assert targets.filter(has_text="Which files").count() == 1
    low = targets.evaluate_all("all => all.filter((one) => one.offsetHeight < 24).map((one) => one.textContent)")
    assert low == []


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_on_any_page(admin_page: Any, paths: list[str], theme: str) -> None:
    """Rules of WCAG 2.2 AA and axe's best practices. What Swagger UI draws on the page of the API is not ours."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    admin_page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    job = paths[1]
    found = {}
    for path in [*paths, f"{job}?blind=1&reviewed=0", "/api/v1/docs", job, "/sign-in"]:
        if path == "/sign-in":
            admin_page.context.clear_cookies()
        admin_page.goto(path)
        if path == job:
            admin_page.locator("a[data-slice]").first.click()
            admin_page.get_by_role("dialog").locator(".slice-side").wait_for()
        if path != "/sign-in":
            admin_page.evaluate("document.querySelectorAll('details').forEach((menu) => { menu.open = true; })")
        results = axe.run(admin_page, context={"exclude": [["#swagger-ui"]]}, options=AXE_OPTIONS)
        if lines := [
            f"{violation['id']}: {node['target']} {node['failureSummary']}"
            for violation in results.response["violations"]
            if (path, violation["id"]) not in SWAGGER_UI
            for node in violation["nodes"]
        ]:
            found[path] = lines
    admin_page.faults.clear()  # the page that is not there
    assert found == {}
