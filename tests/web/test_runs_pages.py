"""Training runs over pages and the API: launched, refused where a split leaks, followed, cancelled, stopped."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db import database
from db.database import read_scope, session_scope
from db.ledger.leases import Claim
from db.models import Dataset, ModelVersion, Split, TrainingRun, User
from db.settings import Settings
from db.storage import storage
from db.training import runs
from db.training.progress import EpochRecord, LiveProgress, StoredCheckpoint
from tests.builders.datasets import split_of
from tests.builders.leases import let_leases_end
from tests.conftest import make_settings
from tests.web.actors import Api, Browser, ready_dataset, resnet50
from training.launch import installed
from training.launch.installed import TrainingNotInstalled
from web.app import create_app
from web.views.run_config import run_settings, stage_table

CONFIG = {"preset": "quick", "stages": [{"name": "small", "epochs": 10, "size": 64}, {"name": "full", "epochs": 1}]}


@pytest.fixture
def dataset_id(app: Any) -> int:
    """A dataset that is ready to be trained on."""
    return ready_dataset("site")


def launch(admin: Api, key: str | None = None, **values: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return admin.post("/runs", json={"dataset": "site/1", "preset": "quick"} | values, headers=headers)


def train(run_id: int, epochs: int = 0) -> Claim:
    """Do what a training worker does: claim the run, note where it stands, record epochs."""
    with session_scope() as s:
        claimed = runs.claim_run(s, "worker")
        assert claimed is not None
        run, claim = claimed
        assert run.id == run_id
        run.config = CONFIG
        run.estimate = {"seconds": 700, "disk": 3 << 30}
    where = {"stage": 0, "stages": 2, "stage_name": "small", "epoch": 3, "epochs": 10, "step": 5, "steps": 27}
    live = LiveProgress(**where, loss=0.251, rate=17.3, eta_seconds=90.0)
    with session_scope() as s:
        runs.report(s, claim, 0.4, "small: epoch 4 of 10", live=live, environment={"keras": "3.15.0"})
        for epoch in range(epochs):
            metrics = {"loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.7}
            runs.record_epoch(s, claim, EpochRecord(0, epoch, metrics, 2.5))
    return claim


def test_settings_are_in_words(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    page = roots_browser.get(f"/runs/{run_id}").text
    for name, value in (("Starts from", "random weights"), ("Sensitivity floor", "0.85")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    for name, values in (
        ("Slices", ["64 px", "224 px"]),
        ("Layers that learn", ["all", "all"]),
        ("Ends early", ["never", "never"]),
        ("Keeps", ["the last epoch", "the last epoch"]),
    ):
        cells = "".join(f"<td>{value}</td>" for value in values)
        assert f'<tr><th scope="row">{name}</th>{cells}</tr>' in page
    assert "unfreeze" not in page
    assert "Doubt in labels" not in page, "off in all stages"


def test_settings_of_any_shape_are_shown() -> None:
    odd = {"preset": "x", "new_thing": [1], "initial": "model:a/1", "stages": [{"unfreeze": "many", "q": None}, 7]}
    assert run_settings(odd) == [("Preset", "x"), ("New thing", "1"), ("Starts from", "a/1")]
    assert stage_table(odd).rows == [("Layers that learn", ["many"]), ("Doubt in labels, q", ["–"])]
    assert stage_table({}).names == []


def test_time_left_is_about_and_hidden_while_the_run_ends(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    claim = train(run_id)
    page = roots_browser.get(f"/runs/{run_id}").text
    assert "<dt>Time left in stage, about</dt><dd>1 min 30 s</dd>" in page
    assert "about 1 min 30 s left in this stage" in roots_browser.get("/runs").text
    admin.post(f"/runs/{run_id}/stop")
    for address in (f"/runs/{run_id}", "/runs"):
        assert not re.search("Time left|left in this stage", roots_browser.get(address).text)
    with session_scope() as s:
        s.get_one(TrainingRun, run_id).stop_requested_at = None
    with session_scope() as s:
        runs.report(s, claim, 0.92, "measuring")
    assert "Time left" not in roots_browser.get(f"/runs/{run_id}").text


def test_stopped_run_says_so(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    claim = train(run_id)
    with session_scope() as s:
        runs.report(s, claim, 0.92, "measuring", stopped_early=True)
        runs.finish_run(s, claim, 1)
        s.get_one(ModelVersion, 1).facts = {"stopped_early": True}
    for address in (f"/runs/{run_id}", "/runs"):
        assert re.search(
            r'class="state state-cancelled">.*</span>stopped early</span>', roots_browser.get(address).text
        )
    assert "The run is finished; training was stopped early." in roots_browser.get(f"/runs/{run_id}").text
    assert "training was stopped early" in roots_browser.get("/models/1").text


def test_demo_run_says_why_it_has_no_curves(roots_browser: Browser, app: Any) -> None:
    with session_scope() as s:
        run_id = runs.create_demo_run(s, None).id
    page = roots_browser.get(f"/runs/{run_id}").text
    assert "keeps no epochs" in page
    assert "The curves will appear here" not in page


def leak(dataset_id: int) -> None:
    with session_scope() as s:
        split = split_of(s, s.get_one(Dataset, dataset_id))
        split.leaks = {"identical-slices": {"count": 3, "examples": ["a.png (train); b.png (test)"]}}


def test_run_is_launched_and_shown(admin: Api, dataset_id: int) -> None:
    answer = launch(admin, settings=["stages.small.epochs=3"], name=" first-try ")
    assert answer.status_code == 202
    assert admin.get(f"/runs/{answer.json['id']}").json == answer.json
    shown = answer.json
    assert (shown["name"], shown["state"], shown["dataset"], shown["seed"]) == ("first-try", "queued", "site/1", 7)
    assert (shown["config"]["stages"][0]["epochs"], shown["created_by"]) == (3, "root")
    assert shown["live"]["estimate"]["seconds"] > 0
    with read_scope() as s:
        run = s.get_one(TrainingRun, shown["id"])
        assert run.split is not None
        assert run.split.dataset_id == dataset_id


def test_same_key_launches_one_run(admin: Api, dataset_id: int) -> None:
    first, second, other = (launch(admin, key="k1", seed=seed) for seed in (7, 7, 8))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json["id"] == second.json["id"]
    assert (other.status_code, other.json["type"]) == (422, "urn:ctbatch:problem:idempotency-conflict")
    assert len(admin.get("/runs").json["items"]) == 1


def test_form_that_is_sent_twice_launches_one_run(roots_browser: Browser, admin: Api, dataset_id: int) -> None:
    page = roots_browser.get("/runs/new").text
    key = page.split('name="idempotency_key" value="')[1].split('"')[0]
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "idempotency_key": key, "dataset": "site/1"}
    answers = [roots_browser.client.post("/runs/new", data=form | {"preset": "scratch"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert len(admin.get("/runs").json["items"]) == 1
    assert key not in roots_browser.get("/runs/new").text


def test_run_that_starts_from_a_version_says_so(admin: Api, dataset_id: int) -> None:
    refused = launch(admin, from_model="fake/1").json["detail"]
    assert refused == "The model version fake/1 holds no model.keras, so no run can start from it."
    with session_scope() as s:
        s.execute(update(ModelVersion).values(files={"model.keras": "0" * 64}))
    shown = launch(admin, from_model="fake/1").json
    assert (shown["from_version"], shown["config"]["initial"]) == ("fake/1", "model:fake/1")
    assert launch(admin, from_model="fake/9").json["detail"] == "There is no model version fake/9."


def test_run_starts_from_a_file_of_weights_that_was_sent(
    admin: Api, roots_browser: Browser, dataset_id: int, tmp_path: Path
) -> None:
    data = resnet50(tmp_path / "w.h5").read_bytes()
    sent = admin.post("/runs/weights", data={"files": (io.BytesIO(data), "w.h5")})
    assert (sent.status_code, sent.json["sha256"]) == (201, hashlib.sha256(data).hexdigest())
    shown = launch(admin, from_weights=sent.json["sha256"]).json
    assert shown["config"]["initial"] == f"file:{sent.json['sha256']}"
    assert storage().trash(sent.json["sha256"])  # as the reaper does if nobody launches for a day
    assert launch(admin, from_weights=sent.json["sha256"]).status_code == 202
    assert launch(admin, from_weights="0" * 64).status_code == 422
    assert launch(admin, from_weights=sent.json["sha256"], from_model="fake/1").status_code == 422
    typed = {"dataset": "site/1", "preset": "seed", "name": "mine", "settings": "augment.flip=false", "seed": "9"}
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "files": (io.BytesIO(data), "w.h5"), **typed}
    page = roots_browser.client.post("/runs/new/weights", data=form)
    for kept in (
        f'{sent.json["sha256"]}" readonly',
        'value="mine"',
        ">augment.flip=false<",
        'value="9"',
        'value="seed" checked',
    ):
        assert kept in page.text
    assert roots_browser.client.get("/runs/new/weights").status_code == 302
    refused = roots_browser.post("/runs/new", {"dataset": "site/1", "files": "w.h5"})
    assert refused.status_code == 422
    assert "Send it first." in refused.text
    values = {"dataset": "site/1", "preset": "quick", "from_weights": sent.json["sha256"]}
    assert roots_browser.post("/runs/new", values).status_code == 303


def test_form_keeps_what_was_filled_in_if_another_start_is_chosen(roots_browser: Browser, dataset_id: int) -> None:
    leak = "identical-slices"
    typed = {"dataset": "site/1", "preset": "seed", "name": "mine", "settings": "augment.flip=false", "seed": "9"}
    form = typed | {"from_weights": "0" * 64, "allow_leaks": leak, "groups_as_given": "true"}
    page = roots_browser.post("/runs/new", form).text
    start = re.search(r'<button[^>]*formaction="([^"]*)"[^>]*>(?:(?!</button>).)*Start from something else', page)
    assert start is not None
    assert page.index("</form>", page.index('id="launch"')) < start.start(), "Enter in a field presses Launch"
    shown = roots_browser.post(start[1], form)
    assert (shown.status_code, "0" * 64 in shown.text, 'name="from_model"' in shown.text) == (200, False, True)
    for kept in (">augment.flip=false<", 'value="mine"', 'value="9"', 'value="seed" checked', f'"{leak}" checked'):
        assert kept in shown.text
    assert 'name="groups_as_given" value="true" checked' in shown.text
    assert roots_browser.get(start[1]).status_code == 302


def test_file_that_is_not_a_network_is_not_kept(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    refused = admin.post("/runs/weights", data={"files": (io.BytesIO(b"no weights"), "w.h5")})
    assert refused.status_code == 422
    assert refused.json["type"] == "urn:ctbatch:problem:invalid"
    assert "neither HDF5" in refused.json["detail"]
    assert not storage().exists(hashlib.sha256(b"no weights").hexdigest())
    assert admin.post("/runs/weights", data={"x": "y"}, content_type="multipart/form-data").status_code == 422
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "files": (io.BytesIO(b"no weights"), "w.h5")}
    page = roots_browser.client.post("/runs/new/weights", data=form)
    assert (page.status_code, "The file is neither HDF5" in page.text) == (422, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataset": "none/1"},
        {"preset": "huge"},
        {"seed": -1},
        {"seed": 2**31},
        {"name": "ward 3"},
        {"name": "x" * 65},
        {"settings": ["no equals sign"]},
        {"settings": ["stages.tail.epochs=1"]},
        {"allow_leaks": ["x"]},
    ],
)
def test_invalid_run_is_refused(admin: Api, dataset_id: int, wrong: dict[str, Any]) -> None:
    assert launch(admin, **wrong).status_code == 422
    assert admin.get("/runs").json["items"] == []


def test_name_that_is_not_allowed_is_refused(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    told = "cannot be named &#39;ward 3&#39;: a name has 1 to 64 letters"
    assert "cannot be named 'ward 3': a name has 1 to 64 letters" in launch(admin, name="ward 3").json["detail"]
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "dataset": "site/1", "preset": "quick", "name": "ward 3"}
    answer = roots_browser.client.post("/runs/new", data=form)
    assert (answer.status_code, told in answer.text) == (422, True)


def test_estimate_is_given_before_a_launch(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    asked = {"dataset": "site/1", "preset": "scratch"}
    told = admin.post("/runs/estimate", json=asked)
    assert (told.status_code, told.json["dataset"], sum(told.json["slices"].values())) == (200, "site/1", 60)
    fewer = admin.post("/runs/estimate", json=asked | {"settings": ["stages.full.epochs=1"]}).json
    assert 0 < fewer["estimate"]["seconds"] < told.json["estimate"]["seconds"]
    assert told.json["estimate"]["disk"] > 0
    form = asked | {"csrf_token": roots_browser.csrf("/runs/new")}
    page = roots_browser.client.post("/runs/new/estimate", data=form)
    assert re.match(r"<strong>About [^<]+</strong> on two cores with bfloat16, if no stage stops early,", page.text)
    assert "slices of site/1" in page.text
    assert admin.get("/runs").json["items"] == []
    launched = launch(admin, preset="scratch").json
    assert launched["live"]["estimate"] == told.json["estimate"]


def test_estimate_refuses_what_a_launch_would(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    leak(dataset_id)
    assert admin.post("/runs/estimate", json={"dataset": "site/1"}).status_code == 409
    assert admin.post("/runs/estimate", json={"dataset": "site/1", "name": "ward 3"}).status_code == 422
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "dataset": "site/1", "preset": "quick"}
    page = roots_browser.client.post("/runs/new/estimate", data=form)
    assert (page.status_code, "identical-slices: 3" in page.text) == (200, True)


def test_leak_blocks_a_run_unless_it_is_allowed_by_name(admin: Api, dataset_id: int) -> None:
    leak(dataset_id)
    refused = launch(admin)
    assert refused.status_code == 409
    assert "identical-slices: 3" in refused.json["detail"]
    allowed = launch(admin, allow_leaks=["identical-slices"])
    assert (allowed.status_code, allowed.json["allowed_leaks"]) == (202, ["identical-slices"])


def test_split_of_a_refused_run_is_kept_for_its_page(admin: Api, dataset_id: int) -> None:
    with session_scope() as s:
        assert s.query(Split).count() == 0
    launch(admin)
    assert len(admin.get(f"/datasets/{dataset_id}").json["splits"]) == 1


def test_groups_are_split_as_given_on_request(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    launch(admin, groups_as_given=True)
    data = {"csrf_token": roots_browser.csrf("/runs/new"), "dataset": "site/1", "preset": "quick", "seed": "9"}
    assert roots_browser.client.post("/runs/new", data=data | {"groups_as_given": "true"}).status_code == 303
    splits = admin.get(f"/datasets/{dataset_id}").json["splits"]
    assert {(split["rule"], split["seed"]) for split in splits} == {("groups as given", 7), ("groups as given", 9)}
    assert "Rule: groups as given, seed 9" in roots_browser.get(f"/datasets/{dataset_id}").text


def test_dataset_that_is_not_ready_is_not_trained_on(admin: Api) -> None:
    with session_scope() as s:
        s.add(Dataset(name="site", number=1, sources=[]))
    answer = launch(admin)
    assert (answer.status_code, "is not ready" in answer.json["detail"]) == (409, True)


def test_runs_are_for_admins(api: Api, anns_browser: Browser, dataset_id: int) -> None:
    assert api.get("/runs").status_code == 403
    assert api.post("/runs", json={"dataset": "site/1"}).status_code == 403
    assert api.post("/runs/estimate", json={"dataset": "site/1"}).status_code == 403
    for path in ("/runs", "/runs/new", "/runs/1"):
        assert anns_browser.get(path).status_code == 403


def test_epochs_come_in_order_with_their_stages(admin: Api, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    train(run_id, epochs=2)
    answer = admin.get(f"/runs/{run_id}/epochs")
    assert answer.json["stages"] == ["small", "full"]
    assert [(one["stage"], one["epoch"], one["seconds"]) for one in answer.json["items"]] == [(0, 0, 2.5), (0, 1, 2.5)]
    assert answer.json["items"][0]["metrics"] == {"loss": 0.5, "val_loss": 0.6, "val_accuracy": 0.7}
    tag = answer.headers["ETag"]
    assert admin.get(f"/runs/{run_id}/epochs", headers={"If-None-Match": tag}).status_code == 304


def test_run_page_shows_progress(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    assert "waiting for a worker" in roots_browser.get(f"/runs/{run_id}/row").text
    train(run_id, epochs=1)
    page = roots_browser.get(f"/runs/{run_id}").text
    for text in ("Small: epoch 4 of 10.", "0.251", "17.3", "1 min 30 s", "3 GiB of disk", "3.15.0"):
        assert text in page
    assert "<dt>Estimate, about</dt><dd>11 min 40 s" in page
    assert "Stop and keep what it learned" in page
    assert f'data-epochs="/api/v1/runs/{run_id}/epochs"' in page
    assert 'hx-trigger="every' in roots_browser.get(f"/runs/{run_id}/live").text
    assert "small: epoch 4 of 10" in roots_browser.get("/runs").text


def test_run_that_waits_again_shows_no_pace(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    train(run_id, epochs=1)
    pace = ("<dt>Step</dt>", "<dt>Rate</dt>", "<dt>Time left in stage, about</dt>", "<dt>Training since</dt>")
    page = roots_browser.get(f"/runs/{run_id}").text
    assert all(title in page for title in pace)
    assert "left in this stage" in roots_browser.get(f"/runs/{run_id}/row").text
    let_leases_end(TrainingRun)
    page = roots_browser.get(f"/runs/{run_id}").text
    assert "<dt>Epoch</dt><dd>4" in page
    assert not any(title in page for title in pace)
    row = roots_browser.get(f"/runs/{run_id}/row").text
    assert "waiting for a worker" in row
    assert "left in this stage" not in row
    live = admin.get(f"/runs/{run_id}").json["live"]
    assert (live["epoch"], {"step", "steps", "rate", "eta_seconds"} & set(live)) == (3, set())


def test_run_page_shows_curves_of_the_champions_run(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    first = launch(admin).json["id"]
    train(first, epochs=1)
    with session_scope() as s:
        s.get_one(ModelVersion, 1).facts = {"run": first}
    second = launch(admin).json["id"]
    assert f'data-champion="/api/v1/runs/{first}/epochs"' in roots_browser.get(f"/runs/{second}").text
    assert "data-champion" not in roots_browser.get(f"/runs/{first}").text


def test_run_is_cancelled_and_stopped(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    assert admin.post(f"/runs/{run_id}/stop").status_code == 409  # it does not train yet
    train(run_id)
    assert admin.post(f"/runs/{run_id}/stop").json["stopping"] is True
    token = roots_browser.csrf("/runs")
    roots_browser.client.post(f"/runs/{run_id}/cancel", data={"csrf_token": token})
    assert admin.get(f"/runs/{run_id}").json["cancelling"] is True
    waiting = launch(admin).json["id"]
    assert admin.post(f"/runs/{waiting}/cancel").json["state"] == "cancelled"
    for request in ("cancel", "stop"):
        refused = admin.post(f"/runs/{waiting}/{request}")
        assert refused.status_code == 409
        assert "has already ended" in refused.json["detail"]


def test_page_of_a_run_that_waits_offers_to_stop_it_if_it_has_a_checkpoint(
    admin: Api, roots_browser: Browser, dataset_id: int
) -> None:
    run_id = launch(admin).json["id"]
    assert "Stop and keep what it learned" not in roots_browser.get(f"/runs/{run_id}").text
    claim = train(run_id)
    with session_scope() as s:
        runs.record_checkpoint(s, claim, StoredCheckpoint(stage=0, epoch=0))
        runs.put_off(s, claim, "the disk is full")
    assert "Stop and keep what it learned" in roots_browser.get(f"/runs/{run_id}").text
    assert admin.post(f"/runs/{run_id}/stop").json["stopping"] is True
    assert "Stop and keep what it learned" not in roots_browser.get(f"/runs/{run_id}").text


def test_failed_run_says_what_to_do(admin: Api, roots_browser: Browser, dataset_id: int) -> None:
    run_id = launch(admin).json["id"]
    claim = train(run_id)
    with session_scope() as s:
        runs.fail_run(s, claim, "the loss is no number any more: lower the <rate>")
    page = roots_browser.get(f"/runs/{run_id}").text
    assert "The loss is no number any more: lower the &lt;rate&gt;." in page
    assert "Launch another" in page
    assert 'hx-trigger="every' not in page


def test_form_is_filled_with_the_settings_of_a_run_that_ended(
    admin: Api, roots_browser: Browser, dataset_id: int
) -> None:
    leak(dataset_id)
    settings = ["balanced=true", "stages.head.epochs=3"]
    like = {"preset": "seed", "seed": 7, "name": "mine", "settings": settings, "allow_leaks": ["identical-slices"]}
    run_id = launch(admin, **like).json["id"]
    admin.post(f"/runs/{run_id}/cancel")
    assert f'href="/runs/new?run={run_id}"' in roots_browser.get(f"/runs/{run_id}").text
    page = roots_browser.get(f"/runs/new?run={run_id}").text
    assert "<option selected>site/1</option>" in page
    for field in ('name="preset" value="seed" checked', 'name="allow_leaks" value="identical-slices" checked'):
        assert field in page
    for field in ('name="name" [^>]*value="mine"', 'name="seed" [^>]*value="7"'):
        assert re.search(field, page)
    typed = re.search(r'<textarea[^>]*name="settings"[^>]*>([^<]*)<', page)
    assert typed is not None
    assert sorted(typed[1].split()) == settings
    assert roots_browser.get("/runs/new?run=99").status_code == 404


def test_form_of_a_run_whose_preset_is_gone_has_its_dataset(
    admin: Api, roots_browser: Browser, dataset_id: int
) -> None:
    ready_dataset("newer")
    run_id = launch(admin).json["id"]
    with session_scope() as s:
        s.get_one(TrainingRun, run_id).config = {"preset": "gone"}
    assert "<option selected>site/1</option>" in roots_browser.get(f"/runs/new?run={run_id}").text


def test_form_of_a_run_whose_dataset_was_deleted_launches_nothing(
    admin: Api, roots_browser: Browser, dataset_id: int
) -> None:
    ready_dataset("newer")
    run_id = launch(admin).json["id"]
    admin.post(f"/runs/{run_id}/cancel")
    assert admin.delete(f"/datasets/{dataset_id}").status_code == 204
    page = roots_browser.get(f"/runs/new?run={run_id}").text
    assert '<option value="site/1" selected>site/1 (deleted or not ready)</option>' in page
    refused = roots_browser.post("/runs/new", {"dataset": "site/1", "preset": "quick"})
    assert refused.status_code == 422
    assert '<option value="site/1" selected>' in refused.text
    assert len(admin.get("/runs").json["items"]) == 1


def test_form_keeps_a_dataset_and_a_start_that_cannot_be_used(roots_browser: Browser, dataset_id: int) -> None:
    assert '<option value="nope/3" selected>' in roots_browser.get("/runs/new?dataset=nope/3").text
    refused = roots_browser.post("/runs/new", {"dataset": "site/1", "preset": "quick", "from_model": "fake/1"})
    assert refused.status_code == 422
    assert '<option value="fake/1" selected>fake/1 (no run can start from it)</option>' in refused.text
    assert "(deleted or not ready)" not in refused.text


def test_form_launches_and_keeps_what_was_typed(roots_browser: Browser, dataset_id: int) -> None:
    leak(dataset_id)
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "dataset": "site/1", "preset": "scratch", "seed": "7"}
    typed = form | {"settings": "floor = 0.9\r\n\r\naugment.flip=false\r\n"}
    refused = roots_browser.client.post("/runs/new", data=typed)
    assert refused.status_code == 409
    assert "This run was not launched" in refused.text
    assert "augment.flip=false" in refused.text
    allowed = typed | {"allow_leaks": "identical-slices"}
    launched = roots_browser.client.post("/runs/new", data=allowed)
    assert launched.status_code == 303
    with read_scope() as s:
        run = s.query(TrainingRun).one()
        assert (run.preset, run.config["floor"], run.config["augment"]["flip"]) == ("scratch", 0.9, False)


def test_invalid_form_is_shown_again(roots_browser: Browser, dataset_id: int) -> None:
    form = {"csrf_token": roots_browser.csrf("/runs/new"), "dataset": "site/1", "preset": "quick", "seed": "many"}
    answer = roots_browser.client.post("/runs/new", data=form)
    assert (answer.status_code, "Seed: " in answer.text) == (422, True)


@pytest.fixture
def without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that training needs is installed here."""
    monkeypatch.setattr(installed, "find_spec", lambda name: None)


def test_run_is_refused_where_training_is_not_installed(admin: Api, dataset_id: int, without_training: None) -> None:
    for answer in (launch(admin), admin.post("/runs/estimate", json={"dataset": "site/1", "preset": "quick"})):
        assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:training-not-installed")
        assert answer.json["detail"] == str(TrainingNotInstalled())
    assert admin.get("/runs").json["items"] == []


def test_form_says_that_training_is_not_installed(
    roots_browser: Browser, dataset_id: int, without_training: None
) -> None:
    asked = {"dataset": "site/1", "preset": "quick"}
    launched = roots_browser.post("/runs/new", asked)
    assert (launched.status_code, "Training is not installed here." in launched.text) == (503, True)
    assert "Training is not installed here." in roots_browser.post("/runs/new/estimate", asked).text


def test_run_is_launched_for_another_machine_where_training_is_not_installed(
    settings: Settings, root: User, champion: ModelVersion, without_training: None
) -> None:
    shared = make_settings(settings.home, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    database.use(shared)
    ready_dataset("site")
    assert launch(Api(create_app(shared), root)).status_code == 202
