"""Datasets over pages and the API: received whole or refused, reported on, split; for admins only."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask

from db.database import read_scope, session_scope
from db.datasets.datasets import claim_dataset, fail_dataset
from db.models import Dataset, Split
from db.models.documents import DatasetReport
from db.settings import Settings
from db.storage import storage
from db.training import splits
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, ready_dataset

CLASSES = zip_of({"COVID/1.png": png(1), "non-COVID/2.png": png(2)})
REPORT: dict[str, Any] = {
    "warnings": ["a shortcut: the mode of a file alone tells the class"],
    "shortcuts": {
        "facts": {"mode": {"balanced_accuracy": 0.81, "auc": 0.83}},
        "found": True,
        "verdict": "a shortcut: the mode of a file alone tells the class",
    },
    "formats": {"PNG": {"COVID": 30, "non-COVID": 0}, "<b>JPEG": {"COVID": 0, "non-COVID": 30}},
    "left_out": {"truncated": {"count": 2, "examples": ["<i>cut.png"]}},
    "identical": {"within": 4, "across": 2, "examples_within": [], "examples_across": [["a.png", "<u>b.png"]]},
}


def make(api: Api, name: str = "site", labels: bytes | None = None, key: str | None = None, **parts: bytes) -> Any:
    files = [(io.BytesIO(content), f"{key}.zip") for key, content in parts.items()]
    data: dict[str, Any] = {"name": name, "files": files}
    if labels is not None:
        data["labels"] = (io.BytesIO(labels), "groups.csv")
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/datasets", data=data, content_type="multipart/form-data", headers=headers)


def stored(settings: Settings) -> list[Path]:
    return [path for path in storage().folder.rglob("*") if path.is_file()]


def test_files_and_labels_are_received_and_queued(admin: Api) -> None:
    answer = make(admin, labels=b"file,label,group\n1.png,1,a\n2.png,0,b\n", slices=CLASSES)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/v1/datasets/{answer.json['id']}"
    assert (answer.json["name"], answer.json["state"], answer.json["created_by"]) == ("site/1", "queued", "root")
    with read_scope() as s:
        dataset = s.get_one(Dataset, answer.json["id"])
        assert [source["filename"] for source in dataset.sources] == ["slices.zip"]
        assert storage().exists(dataset.sources[0]["sha256"])
        assert storage().local_path(str(dataset.labels_sha256)).read_bytes().startswith(b"file,label")
    assert make(admin, slices=CLASSES).json["name"] == "site/2"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            b"name,class\n1.png,1\n",
            "The labels file has no column file and label; its first line must name the columns",
        ),
        ("file,label\n1.png,1\n".encode("utf-16"), "The labels file is not UTF-8 (line 1); save it as UTF-8."),
        (b"file,label\n1.png,1\n2.png,2\n", "Line 3 of the labels file: the label '2' is neither COVID (1) nor"),
        (png(), "The labels file is not UTF-8 (line 1)"),
    ],
    ids=["columns", "utf-16", "label", "image"],
)
def test_labels_that_cannot_be_read_are_refused_and_keep_nothing(
    admin: Api, settings: Settings, labels: bytes, reason: str
) -> None:
    before = stored(settings)
    answer = make(admin, labels=labels, slices=CLASSES)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:invalid")
    assert answer.json["detail"].startswith(reason)
    assert answer.json["file"] == "groups.csv"
    assert stored(settings) == before
    assert admin.get("/datasets").json["items"] == []


def test_large_csv_of_labels_is_not_read_during_the_request(admin: Api) -> None:
    line = b"file,label,group\n1.png,1,9\n"
    assert make(admin, labels=line + b"\n" * (2 << 20) + b"2.png,9,9\n", slices=CLASSES).status_code == 202


@pytest.mark.parametrize("name", ["labels.csv", "scans/Groups.csv"])
@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"filename,class\n1.png,1\n", "The labels file has no column file and label"),
        ("file,label\n1.png,1\n".encode("utf-16"), "The labels file is not UTF-8 (line 1)"),
        (b"file,label\n1.png,9\n", "Line 2 of the labels file: the label '9' is neither COVID (1) nor"),
    ],
    ids=["columns", "utf-16", "label"],
)
def test_labels_among_the_files_that_cannot_be_read_are_refused(
    admin: Api, settings: Settings, name: str, table: bytes, reason: str
) -> None:
    before = stored(settings)

    def send(**labels: Any) -> Any:
        files = [(io.BytesIO(CLASSES), "slices.zip"), (io.BytesIO(table), name)]
        return admin.post("/datasets", data={"name": "site", "files": files, **labels})

    refused = send()
    assert (refused.status_code, refused.json["file"]) == (422, name)
    assert refused.json["detail"].startswith(reason)
    assert stored(settings) == before
    assert send(labels=(io.BytesIO(b"file,label\n1.png,1\n2.png,0\n"), "mine.csv")).status_code == 202


def test_groups_come_from_headers_unless_folders_are_asked_for(admin: Api) -> None:
    def make_with(**fields: str) -> Any:
        data = {"name": "site", "files": [(io.BytesIO(CLASSES), "a.zip")], **fields}
        return admin.post("/datasets", data=data, content_type="multipart/form-data")

    ids = [make_with(**fields).json["id"] for fields in ({}, {"groups": "headers"}, {"groups": "folders"})]
    with read_scope() as s:
        assert [s.get_one(Dataset, id_).folders_first for id_ in ids] == [False, False, True]
    assert make_with(groups="size").status_code == 422


def test_same_key_makes_one_dataset(admin: Api) -> None:
    first, second = (make(admin, key="k1", slices=CLASSES) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json["id"] == second.json["id"]
    other = make(admin, key="k1", name="other", slices=CLASSES)
    assert (other.status_code, other.json["type"]) == (422, "urn:ctbatch:problem:idempotency-conflict")
    assert len(admin.get("/datasets").json["items"]) == 1


def test_form_that_is_sent_twice_makes_one_dataset(roots_browser: Browser, admin: Api) -> None:
    page = roots_browser.get("/datasets/new").text
    fields = {"name": "site", "idempotency_key": page.split('name="idempotency_key" value="')[1].split('"')[0]}
    token = roots_browser.csrf("/datasets/new")
    for _ in range(2):
        form: dict[str, Any] = fields | {"csrf_token": token, "files": (io.BytesIO(CLASSES), "slices.zip")}
        assert roots_browser.client.post("/datasets/new", data=form).status_code == 303
    assert len(admin.get("/datasets").json["items"]) == 1


def test_one_refused_archive_refuses_all_and_keeps_nothing(admin: Api, settings: Settings) -> None:
    before = stored(settings)
    answer = make(admin, good=CLASSES, bad=CLASSES[:-30])
    assert (answer.status_code, answer.json["type"]) == (422, "urn:ctbatch:problem:archive-refused")
    assert answer.json["file"] == "bad.zip"
    assert stored(settings) == before
    assert admin.get("/datasets").json["items"] == []


def test_form_says_that_files_must_be_chosen_again(roots_browser: Browser, admin: Api) -> None:
    files = {"name": "site", "files": (io.BytesIO(CLASSES[:-30]), "bad.zip")}
    page = roots_browser.client.post("/datasets/new", data=files | {"csrf_token": roots_browser.csrf("/datasets/new")})
    assert page.status_code == 422
    assert "Choose the files again" in page.text
    assert 'value="site"' in page.text


@pytest.mark.parametrize("name", ["", "a b", "7", "../x", "a/1"])
def test_invalid_name_is_refused_and_keeps_nothing(admin: Api, settings: Settings, name: str) -> None:
    before = stored(settings)
    answer = make(admin, name, slices=CLASSES)
    assert answer.status_code == 422
    assert answer.json["detail"].startswith("A dataset's name has 1 to 64 letters")
    assert stored(settings) == before


def test_neither_files_nor_jobs_is_refused(admin: Api) -> None:
    assert make(admin).json["type"] == "urn:ctbatch:problem:no-files"
    assert admin.post("/datasets", json={"name": "site"}).status_code == 415
    unknown = {"name": "site", "jobs": "aaaaaaaaaaaaaaaa"}
    answer = admin.post("/datasets", data=unknown, content_type="multipart/form-data")
    assert answer.json["detail"] == "There is no job aaaaaaaaaaaaaaaa."
    pasted = unknown | {"jobs": "https://ct.example:8080/jobs/bbbbbbbbbbbbbbbb?sort=name#results"}
    answer = admin.post("/datasets", data=pasted, content_type="multipart/form-data")
    assert answer.json["detail"] == "There is no job bbbbbbbbbbbbbbbb."
    many = {"name": "site", "jobs": " ".join(f"j{number}" for number in range(1001))}
    answer = admin.post("/datasets", data=many, content_type="multipart/form-data")
    assert answer.json["type"] == "urn:ctbatch:problem:invalid"
    assert "1,000" in answer.json["detail"]


def test_datasets_are_for_admins(api: Api, anns_browser: Browser) -> None:
    dataset_id = ready_dataset("site")
    for path in ("/datasets", f"/datasets/{dataset_id}"):
        assert api.get(path).status_code == 403
        assert anns_browser.get(path).status_code == 403
    assert make(api, slices=CLASSES).status_code == 403
    assert anns_browser.get("/datasets/new").status_code == 403
    assert "Datasets" not in anns_browser.get("/jobs").text


def test_list_comes_by_pages_without_reports(admin: Api) -> None:
    for number in range(3):
        ready_dataset(f"site{number}", **REPORT)
    first = admin.get("/datasets?limit=2").json
    assert [one["name"] for one in first["items"]] == ["site2/1", "site1/1"]
    assert first["items"][0]["report"] == {}
    rest = admin.get(f"/datasets?limit=2&cursor={first['next_cursor']}").json
    assert ([one["name"] for one in rest["items"]], rest["next_cursor"]) == (["site0/1"], None)


def test_page_of_datasets_leads_back(roots_browser: Browser) -> None:
    for number in range(7):
        ready_dataset(f"site{number}")
    page, places = roots_browser.get("/datasets?limit=3").text, []
    for rel in ("next", "next", "prev", "prev"):
        link = re.search(rf'rel="{rel}" href="([^"]+)"', page)
        assert link is not None
        page = roots_browser.get(link[1].replace("&amp;", "&") + ("&" if "?" in link[1] else "?") + "limit=3").text
        places.append(re.findall(r"\d–\d of \d", page))
    assert places == [["4–6 of 7"], ["7–7 of 7"], ["4–6 of 7"], ["1–3 of 7"]]


def test_dataset_is_polled_by_etag(admin: Api) -> None:
    path = f"/datasets/{ready_dataset('site')}"
    tag = admin.get(path).headers["ETag"]
    assert admin.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_page_reports_in_plain_words_and_escapes_names(roots_browser: Browser) -> None:
    page = roots_browser.get(f"/datasets/{ready_dataset('site', **REPORT)}").text
    assert "A shortcut: the mode of a file alone tells the class." in page
    assert "The image ends too early." in page
    assert "&lt;i&gt;cut.png" in page
    assert "&lt;b&gt;JPEG" in page
    assert "<u>b.png" not in page
    assert "Slices with the same pixels as another" in page
    assert "This dataset has no split yet" in page
    assert 'hx-trigger="every' not in page


def test_split_is_shown_with_what_leaks(admin: Api, roots_browser: Browser) -> None:
    dataset_id = ready_dataset("site")
    split = admin.post(f"/datasets/{dataset_id}/splits", json={"seed": 3}).json["splits"][0]
    assert (split["rule"], split["seed"], split["leaks"]) == ("groups", 3, {})
    assert sum(part["groups"] for part in split["parts"].values()) == 12
    assert sum(part["COVID"] + part["non-COVID"] for part in split["parts"].values()) == 60
    with session_scope() as s:
        s.get_one(Split, split["id"]).leaks = {"shared-groups": {"count": 1, "examples": ["<s>: test, train"]}}
    page = roots_browser.get(f"/datasets/{dataset_id}").text
    assert "A group (a patient, a series) lies in two parts" in page
    assert "&lt;s&gt;: test, train" in page
    assert "make the dataset again" not in page
    with session_scope() as s:
        s.get_one(Split, split["id"]).leaks = {
            "conflicting-labels": {"count": 1, "examples": ["1 (COVID); 2 (non-COVID)"]}
        }
    assert "make the dataset again" in roots_browser.get(f"/datasets/{dataset_id}").text
    token = roots_browser.csrf("/datasets")
    done = roots_browser.client.post(f"/datasets/{dataset_id}/splits", data={"csrf_token": token, "seed": "7"})
    assert done.status_code == 303
    assert "Rule: groups, seed 7" in roots_browser.get(f"/datasets/{dataset_id}").text


def test_others_write_while_a_split_is_drawn(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_id = ready_dataset("site")
    draw = splits.draw

    def meanwhile(*given: Any) -> dict[str, str]:
        with session_scope() as s:  # where the lock is held, this fails when SQLite's busy timeout is over
            s.get_one(Dataset, dataset_id).report = DatasetReport()
        return draw(*given)

    monkeypatch.setattr(splits, "draw", meanwhile)
    assert len(admin.post(f"/datasets/{dataset_id}/splits", json={}).json["splits"]) == 1


def test_dataset_that_is_not_ready_is_not_split(admin: Api) -> None:
    dataset_id = make(admin, slices=CLASSES).json["id"]
    answer = admin.post(f"/datasets/{dataset_id}/splits", json={})
    assert (answer.status_code, "still being built" in answer.json["detail"]) == (409, True)


@pytest.mark.slow
def test_open_dataset_polls_and_a_failed_one_says_why(admin: Api, roots_browser: Browser) -> None:
    dataset_id = make(admin, slices=CLASSES).json["id"]
    for path in ("", "/live", "/row"):
        assert 'hx-trigger="every' in roots_browser.get(f"/datasets/{dataset_id}{path}").text
    with session_scope() as s:
        claimed = claim_dataset(s, "worker")
        assert claimed is not None
        fail_dataset(s, claimed[1], "the class COVID is empty")
    page = roots_browser.get(f"/datasets/{dataset_id}").text
    assert "The class COVID is empty." in page
    assert "The class COVID is empty." in roots_browser.get("/datasets").text
    assert 'hx-trigger="every' not in page
    assert roots_browser.get("/datasets/99").status_code == 404
    assert roots_browser.get(f"/datasets/{2**40}").status_code == 404


def test_admin_pages_trust_only_their_own_files(admin: Api, roots_browser: Browser) -> None:
    dataset_id = ready_dataset("site", **REPORT)
    run_id = admin.post("/runs", json={"dataset": "site/1"}).json["id"]
    paths = ["/datasets", "/datasets/new", f"/datasets/{dataset_id}", "/models/1"]
    for path in [*paths, "/runs", "/runs/new", f"/runs/{run_id}"]:
        page = roots_browser.get(path)
        assert "Research use only, not for diagnosis." in page.text
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data:;")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! src=)", page.text), path
        assert not re.search(r'(src|href|action)="(https?:)?//', page.text), path


def test_form_makes_a_dataset_and_says_what_is_wrong(app: APIFlask, roots_browser: Browser) -> None:
    token = roots_browser.csrf("/datasets/new")
    bad = {"csrf_token": token, "name": "site", "files": (io.BytesIO(CLASSES[:-30]), "<cut>.zip")}
    answer = roots_browser.client.post("/datasets/new", data=bad)
    assert answer.status_code == 422
    assert "This dataset was not made" in answer.text
    assert "&lt;cut&gt;.zip" in answer.text
    assert 'value="site"' in answer.text
    good = {"csrf_token": token, "name": "site", "files": (io.BytesIO(CLASSES), "slices.zip")}
    made = roots_browser.client.post("/datasets/new", data=good, follow_redirects=True)
    assert "site/1" in made.text
    assert 'state-queued"' in made.text
