"""Which engine serves on which machine, by page and by API; for admins."""

from collections.abc import Callable

import pytest

from db.models import ModelVersion
from tests.web.actors import Api, Browser, load_engines

NewChampion = Callable[[str], ModelVersion]


def test_no_worker_has_loaded_an_engine(roots_browser: Browser, admin: Api) -> None:
    assert "No running worker has loaded an engine" in roots_browser.get("/workers").text
    assert admin.get("/workers").json == {"items": [], "next_cursor": None}


def test_workers_are_for_admins(api: Api, anns_browser: Browser, champion: ModelVersion) -> None:
    assert anns_browser.get("/workers").status_code == 403
    assert api.get("/workers").status_code == 403
    assert "/workers" not in anns_browser.get("/models").text


def test_workers_need_a_sign_in(browser: Browser) -> None:
    assert browser.get("/workers").status_code == 303


def test_fastest_engine_predicts_without_a_warning(roots_browser: Browser, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=True)
    page = roots_browser.get("/workers").text
    for text in ("ct-1", "Xeon (AVX-512), 4 cores", "fake/1", "openvino-int8", "0.004", "1.5 s", "just now"):
        assert text in page
    assert 'class="caution"' not in page
    assert 'role="alert">' not in page
    assert 'href="/workers" aria-current="page"' in page


def test_fall_back_is_a_warning(roots_browser: Browser, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=False, bf16=True)
    page = roots_browser.get("/workers").text
    warning = page.split('<div class="caution" role="note">')[1].split("</div></div>")[0]
    assert "int8 is not used on ct-1 for fake/1; bfloat16 serves instead." in warning
    assert "it differs from the package&#39;s proof: logit by 0.81 (at most 0.3)." in warning
    assert "update the machine&#39;s OpenVINO" in warning
    assert page.count("logit by 0.81") == 1
    assert "used, fallen back" in page


def test_refusal_is_an_error(roots_browser: Browser, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=False, bf16=True)
    load_engines(champion.id, "ct-9", int8=False, f32=False)
    page = roots_browser.get("/workers").text
    error = page.split('<div class="problem" role="alert">')[1].split("</div></div>")[0]
    assert "ct-9 refuses to predict with fake/1; its slices wait for another worker." in error
    assert "update the machine&#39;s OpenVINO, or start a worker with another CTBATCH_ENGINE." in error
    assert page.index('class="problem"') < page.index('class="caution"')


def test_version_that_is_not_in_use_alerts_nobody(
    roots_browser: Browser, champion: ModelVersion, new_champion: NewChampion
) -> None:
    load_engines(champion.id, "ct-1", int8=False, f32=False)
    new_champion("other")
    page = roots_browser.get("/workers").text
    assert 'role="alert">' not in page
    assert "logit by 0.81" in page, "its row says why"


@pytest.mark.slow
def test_api_gives_the_same_facts(admin: Api, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=False, bf16=True)
    load_engines(champion.id, "ct-2", int8=False)
    first, second = admin.get("/workers").json["items"]
    assert (first["host"], first["model_version"], first["in_use"]) == ("ct-1", "fake/1", True)
    assert (first["state"], first["engine"]) == ("fallen back", "openvino-bf16")
    assert first["message"] == "int8 is not used on ct-1 for fake/1; bfloat16 serves instead."
    assert [(proof["precision"], proof["passed"]) for proof in first["proofs"]] == [("int8", False), ("bf16", True)]
    assert first["proofs"][1]["largest_difference"] == 0.0041
    assert first["links"]["model"] == f"/api/v1/models/{champion.id}"
    assert (second["state"], second["engine"]) == ("refused", None)


def test_api_answers_are_revalidated(admin: Api, champion: ModelVersion) -> None:
    load_engines(champion.id, "ct-1", int8=True)
    tag = admin.get("/workers").headers["ETag"]
    assert admin.get("/workers", headers={"If-None-Match": tag}).status_code == 304
