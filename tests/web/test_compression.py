"""Answers are compressed where the client takes it, and no secret shows in how long they are."""

import gzip
import re

import pytest

from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, WorkerPart

GZIP = {"Accept-Encoding": "gzip, br"}


@pytest.fixture
def job_id(api: Api, worker: WorkerPart) -> str:
    """A finished job of 40 slices."""
    made: str = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(40)}))).json["id"]
    worker.whole_job(40)
    return made


@pytest.mark.parametrize("path", ["/results", "/results.csv", "/results.json"])
def test_answers_of_the_api_are_compressed(api: Api, job_id: str, path: str) -> None:
    plain = api.get(f"/jobs/{job_id}{path}")
    packed = api.get(f"/jobs/{job_id}{path}", headers=GZIP)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert len(packed.data) < len(plain.data) / 4
    assert gzip.decompress(packed.data) == plain.data


@pytest.mark.parametrize("path", ["/static/ctbatch.css", "/static/page.js"])
def test_static_files_are_compressed_once(browser: Browser, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = browser.get(path, headers=GZIP)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.data)
    assert gzip.decompress(packed.data) == browser.get(path).data
    monkeypatch.setattr("web.compression.gzip", None)
    assert browser.get(path, headers=GZIP).data == packed.data


def test_missing_static_file_gives_each_its_own_page(browser: Browser) -> None:
    pages = [gzip.decompress(browser.get("/static/missing.css", headers=GZIP).data).decode() for _ in range(2)]
    assert tokens(pages[0]) != tokens(pages[1])


def test_pages_are_compressed(browser: Browser) -> None:
    packed = browser.get("/sign-in", headers=GZIP)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert b"ctbatch" in gzip.decompress(packed.data)


def test_pictures_and_small_answers_are_sent_as_they_are(api: Api, browser: Browser, job_id: str) -> None:
    slice_id = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    assert "Content-Encoding" not in api.get(f"/jobs/{job_id}/slices/{slice_id}/image.png", headers=GZIP).headers
    assert "Content-Encoding" not in browser.get("/healthz", headers=GZIP).headers


def test_unchanged_job_is_not_sent_again_to_who_takes_gzip(api: Api, job_id: str) -> None:
    first = api.get(f"/jobs/{job_id}", headers=GZIP)
    assert first.headers["ETag"].startswith('W/"')
    again = api.get(f"/jobs/{job_id}", headers=GZIP | {"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def tokens(text: str) -> set[str]:
    return set(re.findall(r'name="csrf[-_]token" (?:content|value)="([^"]+)"', text))


def test_csrf_token_has_another_mask_in_each_answer_and_each_is_good(anns_browser: Browser) -> None:
    pages = [tokens(anns_browser.get("/tokens").text) for _ in range(2)]
    assert [len(page) for page in pages] == [1, 1]
    (one,), (two,) = pages
    assert all(one[at : at + 8] not in two for at in range(len(one) - 8)), "no part of a token may return"
    for token in (one, two):
        made = anns_browser.client.post("/tokens", data={"csrf_token": token, "label": "mine"})
        assert made.status_code in (200, 303)


@pytest.mark.parametrize("token", ["", "x", "é", "AAAA", "A" * 244])
def test_form_with_a_wrong_csrf_token_is_refused(anns_browser: Browser, token: str) -> None:
    assert anns_browser.client.post("/tokens", data={"csrf_token": token, "label": "mine"}).status_code == 400
