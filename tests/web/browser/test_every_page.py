"""What holds for every page in a real browser: signing in, the header, themes, phones."""

from typing import Any

import pytest

from db.models import User
from tests.web.actors import PASSWORD, Api, load_engines, ready_dataset

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


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


@pytest.mark.slow
def test_account_menu_closes_when_the_focus_leaves_it(signed_in: Any) -> None:
    signed_in.goto("/jobs")
    menu = signed_in.locator("details.menu")
    menu.locator("summary").press("Enter")
    assert menu.get_attribute("open") is not None
    for _ in range(menu.locator("a, button").count() + 1):
        signed_in.keyboard.press("Tab")
    assert menu.get_attribute("open") is None
    menu.locator("summary").press("Enter")
    signed_in.keyboard.press("Tab")
    signed_in.keyboard.press("Escape")
    assert menu.get_attribute("open") is None
    playwright.expect(menu.locator("summary")).to_be_focused()


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
def test_every_page_fits_a_phone_in_both_themes(signed_in: Any, finished: str) -> None:
    signed_in.set_viewport_size({"width": 390, "height": 844})
    for theme in ("light", "dark"):
        signed_in.emulate_media(color_scheme=theme)
        for path in ("/jobs", f"/jobs/{finished}", "/submit", "/models", "/tokens", "/password"):
            signed_in.goto(path)
            assert signed_in.evaluate("document.documentElement.scrollWidth") <= 390, path
            assert signed_in.evaluate("document.documentElement.dataset.bsTheme") == theme


@pytest.mark.slow
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
