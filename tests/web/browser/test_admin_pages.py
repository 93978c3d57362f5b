"""The pages of admins in a real browser: versions, training runs, weights."""

from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask import render_template_string

from db.access import audit
from db.access.audit import Action, Actor
from db.database import session_scope
from db.evaluation.result import PairedMetric
from db.ledger.leases import Claim
from db.metrics import METRICS
from db.models import ModelVersion
from db.training import runs
from db.training.progress import EpochRecord, LiveProgress
from tests.builders.versions import add_version
from tests.web.actors import Api, ready_dataset, resnet50

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


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


@pytest.mark.slow
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


CELLS_THAT_RUN_OVER = """[...document.querySelectorAll("td")].filter((cell) => {
    const content = document.createRange();
    content.selectNodeContents(cell);
    const right = Math.min(cell.getBoundingClientRect().right, cell.closest(".panel").getBoundingClientRect().right);
    return content.getBoundingClientRect().right > right + 1;
}).map((cell) => cell.textContent)"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 360, 700, 800, 1000, 1280])
def test_audit_trail_keeps_each_text_in_its_cell(admin_page: Any, width: int) -> None:
    eve = Actor("eve.whose.name.is.long@hospital.example", "token 12", "2001:db8:85a3:8d3:1319:8a2e:370:7348")
    with session_scope() as s:
        audit.record(s, Action.SIGN_IN_REFUSED, "an unknown user", actor=Actor(None, "", "192.0.2.7"))
        audit.record(s, Action.REFUSED, "job igegamyy7uctkgw6", "GET /api/v1/jobs/<job_id>/results", actor=eve)
        audit.record(s, Action.MODEL_ROLL_BACK, "model resnet50_without_a_place_to_break_its_name/12", actor=eve)
        audit.record(s, Action.LABEL_SET, "job igegamyy7uctkgw6", "slice 123456: non-COVID", actor=eve)
    admin_page.set_viewport_size({"width": width, "height": 740})
    admin_page.goto("/audit")
    assert admin_page.evaluate(CELLS_THAT_RUN_OVER) == []
    assert admin_page.evaluate("document.documentElement.scrollWidth") <= width


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


@pytest.mark.slow
def test_dataset_is_deleted_after_asking(admin_page: Any) -> None:
    dataset_id = ready_dataset("site")
    admin_page.goto(f"/datasets/{dataset_id}")
    button = admin_page.get_by_role("button", name="Delete")
    admin_page.once("dialog", lambda dialog: dialog.dismiss())
    button.click()
    playwright.expect(admin_page.get_by_role("heading", name="site/1")).to_be_visible()
    questions: list[str] = []
    admin_page.once("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    button.click()
    admin_page.wait_for_url("**/datasets")
    playwright.expect(admin_page.get_by_role("status")).to_contain_text("The dataset is deleted.")
    assert "training reports and pictures of slices" in questions[0]
