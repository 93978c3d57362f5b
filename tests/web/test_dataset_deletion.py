"""Deleting a dataset by the API and by its page: who may, when, and what the other pages say afterwards."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from db.database import session_scope
from db.findings.rules import default_rule
from db.models import Dataset, Evaluation, ModelVersion, Split, TrainingRun, Work
from db.models.documents import Tuning
from db.settings import Settings
from tests.builders.datasets import delete_dataset, split_of
from tests.builders.versions import add_version
from tests.web.actors import Api, Browser, ready_dataset

PICTURES = {"report.html": b"<p>slices</p>", "mistakes.png": b"PNG", "roc.png": b"PNG"}


def trained_on(dataset_id: int, home: Path) -> tuple[TrainingRun, ModelVersion]:
    """A finished run on the dataset, and the version that it made."""
    with session_scope() as s:
        split = split_of(s, s.get_one(Dataset, dataset_id))
        label, sha256 = split.dataset.label, split.dataset.sha256
    facts: dict[str, Any] = {"dataset": label, "split": {"id": split.id, "dataset": label}}
    version = add_version(home, "lungs", PICTURES, facts=facts, dataset_hash=sha256)
    with session_scope() as s:
        run = TrainingRun(preset="quick", seed=7, name="lungs", state=Work.DONE, dataset_id=dataset_id)
        run.split_id, run.model_version_id = split.id, version.id
        s.add(run)
    return run, version


def test_deleted_dataset_is_at_no_address_any_more(admin: Api, roots_browser: Browser) -> None:
    dataset_id, other = ready_dataset("site"), ready_dataset("other")

    def statuses() -> set[int]:
        pages = {roots_browser.get(f"/datasets/{dataset_id}{path}").status_code for path in ("", "/row", "/live")}
        return pages | {admin.get(f"/datasets/{dataset_id}").status_code}

    assert statuses() == {200}
    answer = admin.delete(f"/datasets/{dataset_id}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert statuses() == {404}
    assert admin.delete(f"/datasets/{dataset_id}").status_code == 404
    assert admin.post(f"/datasets/{dataset_id}/splits", json={}).status_code == 404
    assert admin.post("/runs", json={"dataset": "site/1", "preset": "quick"}).status_code == 422
    assert [one["id"] for one in admin.get("/datasets").json["items"]] == [other]
    page = roots_browser.get("/datasets").text
    assert [name in page for name in ("site/1", "other/1")] == [False, True]
    assert "site/1" not in roots_browser.get("/runs/new").text


def test_only_admins_delete_a_dataset(api: Api, anns_browser: Browser, admin: Api) -> None:
    dataset_id = ready_dataset("site")
    assert api.delete(f"/datasets/{dataset_id}").status_code == 403
    assert anns_browser.post(f"/datasets/{dataset_id}/delete").status_code == 403
    assert admin.get(f"/datasets/{dataset_id}").status_code == 200
    assert [admin.delete(f"/datasets/{number}").status_code for number in (999, 2**40)] == [404, 404]


@pytest.mark.parametrize(
    ("table", "code"),
    [(Dataset, "dataset_building"), (TrainingRun, "run_open"), (Evaluation, "evaluation_open")],
    ids=["dataset", "run", "evaluation"],
)
def test_dataset_in_use_is_refused_with_a_code(
    table: Any, code: str, admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    dataset_id = ready_dataset("site")
    _, version = trained_on(dataset_id, settings.home)
    with session_scope() as s:
        s.add(Evaluation(model_version_id=version.id, dataset_id=dataset_id, state=Work.DONE))
        s.flush()
        s.execute(update(table).values(state=Work.RUNNING))
    answer = admin.delete(f"/datasets/{dataset_id}")
    assert (answer.status_code, answer.json["type"], answer.json["code"]) == (409, "urn:ctbatch:problem:conflict", code)
    assert roots_browser.post(f"/datasets/{dataset_id}/delete").status_code == 409
    offers = f'action="/datasets/{dataset_id}/delete"' in roots_browser.get(f"/datasets/{dataset_id}").text
    assert offers is (table is not Dataset)


def test_pages_of_runs_and_versions_stay_and_say_that_the_dataset_is_deleted(
    admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    dataset_id = ready_dataset("site")
    run, version = trained_on(dataset_id, settings.home)
    pages = [f"/runs/{run.id}", f"/models/{version.id}"]
    link = f'href="/datasets/{dataset_id}"'
    assert all(link in roots_browser.get(page).text for page in pages)
    assert roots_browser.get(f"/models/{version.id}/report").status_code == 200
    with session_scope() as s:
        dataset = s.get_one(Dataset, dataset_id)
    delete_dataset(dataset)
    for page in (*pages, "/runs"):
        answer = roots_browser.get(page)
        assert (answer.status_code, link in answer.text, "site/1</bdi> (deleted)" in answer.text) == (
            200,
            False,
            True,
        ), page
    for path in ("report", "training-report", "figures/mistakes.png"):
        assert roots_browser.get(f"/models/{version.id}/{path}").status_code == 404
    assert roots_browser.get(f"/models/{version.id}/figures/roc.png").status_code == 200
    shown = admin.get(f"/runs/{run.id}").json
    assert (shown["dataset"], shown["dataset_deleted"]) == ("site/1", True)
    assert admin.get(f"/models/{version.id}").json["facts"]["dataset"] == "site/1"
    assert admin.get(f"/models/{version.id}/export").status_code == 200
    assert admin.post(f"/models/{version.id}/checks", json={"dataset": "site/1"}).status_code == 422


def test_launch_from_a_version_whose_dataset_is_deleted_goes_on(admin: Api, settings: Settings) -> None:
    dataset_id, other = ready_dataset("site"), ready_dataset("other")
    _, version = trained_on(dataset_id, settings.home)
    with session_scope() as s:
        stored = s.get_one(ModelVersion, version.id)
        stored.files = stored.files | {"model.keras": "0" * 64}
    admin.delete(f"/datasets/{dataset_id}")
    answer = admin.post("/runs", json={"dataset": "other/1", "preset": "quick", "from_model": "lungs/1"})
    assert answer.status_code == 202, answer.json
    with session_scope() as s:
        assert s.query(Split).filter_by(dataset_id=other).one().after is None, "nobody knows which slices it has seen"


def test_estimate_says_that_slices_of_the_version_to_start_from_are_deleted(
    admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    dataset_id = ready_dataset("site")
    ready_dataset("other")
    _, version = trained_on(dataset_id, settings.home)
    with session_scope() as s:
        stored = s.get_one(ModelVersion, version.id)
        stored.files = stored.files | {"model.keras": "0" * 64}
    request = {"dataset": "other/1", "preset": "quick", "from_model": "lungs/1"}

    def notes() -> list[str]:
        page = roots_browser.post("/runs/new/estimate", request | {"csrf_token": roots_browser.csrf("/runs/new")})
        given: list[str] = admin.post("/runs/estimate", json=request).json["notes"]
        assert all(note in page.text for note in given)
        return given

    assert notes() == []
    admin.delete(f"/datasets/{dataset_id}")
    assert notes() == ["lungs/1 was trained on site/1, which is deleted; its slices may include these"]


def test_page_of_a_version_says_that_the_datasets_of_its_checks_are_deleted(
    admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    dataset_id = ready_dataset("site")
    _, version = trained_on(dataset_id, settings.home)
    rival = add_version(settings.home, "rival")
    with session_scope() as s:
        s.add_all(
            Evaluation(model_version_id=one.id, dataset_id=dataset_id, state=Work.DONE, result={"n": 60})
            for one in (version, rival)
        )
        sha256 = s.get_one(Dataset, dataset_id).sha256
        tuned = Tuning(dataset="site/1", dataset_hash=sha256, engine="fake", seed=7, groups={"COVID": 6})
        rule = default_rule(0.5)
        s.get_one(ModelVersion, version.id).finding_rule = rule.model_copy(update={"tuned": tuned})

    def count() -> int:
        page = roots_browser.get(f"/models/{version.id}?with_model=rival/1&dataset=site/1").text
        return page.count("(deleted)")

    def flags() -> list[bool]:
        shown = admin.get(f"/models/{version.id}").json
        return [shown["checks"][0]["dataset_deleted"], shown["gate"]["dataset_deleted"]]

    assert (count(), flags()) == (0, [False, False])
    with session_scope() as s:
        dataset = s.get_one(Dataset, dataset_id)
    delete_dataset(dataset)
    places = ("the version's dataset", "the gate", "the comparison", "the site check", "the tuning")
    assert (count(), flags()) == (len(places), [True, True])
    pair = {"with_model": "rival/1", "dataset": "site/1"}
    assert admin.post(f"/models/{version.id}/comparisons", json=pair).json["dataset_deleted"] is True


@pytest.mark.parametrize("on", ["site/1", None], ids=["dataset", "test part"])
def test_finished_comparison_on_a_deleted_dataset_can_be_read(
    on: str | None, admin: Api, roots_browser: Browser, settings: Settings
) -> None:
    dataset_id = ready_dataset("site")
    run, version = trained_on(dataset_id, settings.home)
    rival, third = add_version(settings.home, "rival"), add_version(settings.home, "third")
    pair = {"candidate": 0.9, "champion": 0.8, "difference": 0.1, "low": 0.0, "high": 0.2, "p_lower": 0.9}
    with session_scope() as s:
        where = {} if on else {"split_id": run.split_id, "part": "test"}
        for one in (version, rival, third):
            against = {"rival/1": {"auc": pair}} if one is version else {}
            result = {"n": 60, "groups": 12, "engine": "fake", "against": against}
            values = {"model_version_id": one.id, "dataset_id": dataset_id, "result": result, "scores_sha256": "e" * 64}
            s.add(Evaluation(state=Work.DONE, **values, **where))
    with session_scope() as s:
        dataset = s.get_one(Dataset, dataset_id)
    delete_dataset(dataset)

    def compare(other: str) -> Any:
        return admin.post(f"/models/{version.id}/comparisons", json={"with_model": other, "dataset": on})

    answer = compare("rival/1")
    assert (answer.status_code, answer.json["state"], answer.json["dataset"]) == (202, "finished", "site/1")
    assert answer.json["figures"]["auc"]["difference"] == 0.1
    page = roots_browser.get(f"/models/{version.id}?with_model=rival/1&dataset={on or ''}").text
    assert "Compared with rival/1" in page
    gone = compare("third/1").json
    assert (gone["state"], "again" in gone["error"], "site/1 is deleted" in gone["error"]) == ("failed", False, True)
    add_version(settings.home, "late")
    assert compare("late/1").status_code == 409


def test_page_deletes_a_dataset_and_says_so_on_the_list(roots_browser: Browser) -> None:
    dataset_id = ready_dataset("site")
    assert f'action="/datasets/{dataset_id}/delete"' in roots_browser.get(f"/datasets/{dataset_id}").text
    answer = roots_browser.post(f"/datasets/{dataset_id}/delete")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/datasets")
    assert "The dataset is deleted. Its files leave the disk after about 17 days" in roots_browser.get("/datasets").text


def test_page_deletes_nothing_without_its_token(roots_browser: Browser, admin: Api) -> None:
    dataset_id = ready_dataset("site")
    assert roots_browser.client.post(f"/datasets/{dataset_id}/delete").status_code == 400
    assert admin.get(f"/datasets/{dataset_id}").status_code == 200
