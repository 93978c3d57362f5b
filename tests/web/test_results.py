"""A job's results: pages, filters, exports that a spreadsheet cannot run, and images."""

import csv
import html
import io
import json
import re
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from sqlalchemy import select
from werkzeug.http import parse_options_header

from db import MADE_UP
from db.database import read_scope, session_scope
from db.ledger.results import ResultsQuery
from db.ledger.series import SeriesQuery, series_page
from db.models import Chunk, Job, ModelVersion, Slice, User
from db.reasons import SERIES_NOTES, SLICE_NOTES
from db.storage import storage
from tests.builders.files import png, zip_of
from tests.builders.series import ct, predict_all, read_job
from tests.web.actors import Api, Browser, WorkerPart
from web.downloads import job_results, parquet
from web.downloads.pieces import safe_cell
from web.schemas.jobs import JobOut

NOTICE = "Model fake/1: fake engine: for tests only. Research use only, not for diagnosis."


@pytest.fixture
def job_id(api: Api, worker: WorkerPart) -> str:
    """A finished job: six slices of two series, one rejected."""
    made: str = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(7)}))).json["id"]
    worker.start()
    worker.read(4, series="left")
    worker.read(2, series="right", names="r{}.png")
    worker.reject("=HYPERLINK(1).png", "truncated", "-it ends early")
    worker.finish_reading()
    while worker.predict([0.9, 0.2, 0.7, 0.1]):
        pass
    return made


def names(api: Api, job_id: str, query: str) -> list[str]:
    return [row["name"] for row in api.get(f"/jobs/{job_id}/results?{query}").json["items"]]


def test_results_come_by_pages_in_the_order_of_the_submission(api: Api, job_id: str) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        page = api.get(f"/jobs/{job_id}/results?limit=3{cursor}").json
        seen += [row["name"] for row in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["0.png", "1.png", "2.png", "3.png", "r4.png", "r5.png", "=HYPERLINK(1).png"]


@pytest.mark.parametrize("sort", ["position", "series", "name", "probability", "-probability"])
def test_pages_of_every_order_hold_each_slice_once(api: Api, job_id: str, sort: str) -> None:
    whole = [row["slice_id"] for row in api.get(f"/jobs/{job_id}/results?sort={sort}").json["items"]]
    paged: list[int] = []
    cursor = ""
    for _ in whole:
        page = api.get(f"/jobs/{job_id}/results?sort={sort}&limit=1{cursor}").json
        paged += [row["slice_id"] for row in page["items"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert paged == whole
    assert len(set(paged)) == 7


def test_results_are_filtered(api: Api, job_id: str) -> None:
    with read_scope() as s:
        right = series_page(s, s.get_one(Job, job_id), SeriesQuery()).items[1]
    assert names(api, job_id, "label=COVID") == ["0.png", "2.png", "r4.png"]
    assert names(api, job_id, "state=rejected") == names(api, job_id, "reason=truncated") == ["=HYPERLINK(1).png"]
    assert names(api, job_id, f"series={right.series_id}&label=non-COVID") == ["r5.png"]
    assert names(api, job_id, "sort=-probability&limit=1") == ["0.png"]


def test_result_row_has_all_fields(api: Api, job_id: str) -> None:
    first, *_, last = api.get(f"/jobs/{job_id}/results").json["items"]
    assert (first["label"], first["probability"], first["series"]) == ("COVID", 0.9, "left")
    assert (first["model_version"], first["recipe"], first["has_heat"]) == ("fake/1", "lung-224-v1", True)
    assert (last["state"], last["reason"], last["label"], last["probability"]) == ("rejected", "truncated", None, None)
    assert (first["engine"], last["engine"]) == ("openvino-f32", None)


def test_scores_that_a_test_made_up_are_marked_everywhere(
    api: Api, anns_browser: Browser, worker: WorkerPart, champion: ModelVersion
) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png(1), "2.png": png(2)}))).json["id"]
    worker.start()
    worker.read(2)
    worker.finish_reading()
    worker.predict(engine="fake")
    job = api.get(f"/jobs/{job_id}").json
    assert MADE_UP in job["notice"]
    slice_id = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    for path in ("results", "series", "findings", "results.csv", "results.json", "findings.csv", "findings.json"):
        assert MADE_UP in api.get(f"/jobs/{job_id}/{path}").text, path
    parquet = pq.read_table(io.BytesIO(api.get(f"/jobs/{job_id}/results.parquet").data))
    assert all(MADE_UP in notice for notice in parquet["notice"].to_pylist())
    for page in (f"/jobs/{job_id}", f"/jobs/{job_id}/slices/{slice_id}", "/jobs"):
        assert html.unescape(anns_browser.get(page).text).count(MADE_UP) == 1, page


def test_client_that_sends_the_declared_defaults_gets_a_series_in_its_order(api: Api) -> None:
    operation = api.get("/openapi.json").json["paths"]["/api/v1/jobs/{job_id}/results"]["get"]
    schemas = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    defaults = {name: schema["default"] for name, schema in schemas.items() if "default" in schema}
    assert ResultsQuery(**defaults | {"series": 1}) == ResultsQuery(series=1)
    assert (ResultsQuery(series=1).sort, ResultsQuery().sort) == ("series", "position")


def test_csv_has_every_slice_and_the_notice(api: Api, job_id: str) -> None:
    answer = api.get(f"/jobs/{job_id}/results.csv")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 7
    assert {row["notice"] for row in rows} == {NOTICE}
    assert (rows[0]["label"], rows[0]["probability"]) == ("COVID", "0.9")


@pytest.mark.parametrize(
    ("name", "stem", "plain"),
    [
        ("CT of May/June.zip", "CT-of-May-June.zip", None),
        ("Lübeck", "Lübeck", "Lubeck"),
        ("płuca ℀", "płuca", "puca-a-c"),
        ("日本", "日本", "ctbatch"),
        pytest.param("Mu\u0308ller Ma\u0308rz", "M\u00fcller-M\u00e4rz", "Muller-Marz", id="decomposed"),
        pytest.param("हिन्दी फेफड़े", "हिन्दी-फेफड़े", "ctbatch", id="vowel-signs"),
        pytest.param("\u2764\ufe0f ward", "ward", None, id="mark-of-a-sign"),
        ("../..", "ctbatch", None),
    ],
)
def test_export_is_named_after_its_job(api: Api, worker: WorkerPart, name: str, stem: str, plain: str | None) -> None:
    job_id = api.submit(("1.png", png(1)), name=name).json["id"]
    worker.whole_job(1)
    for kind in ("csv", "json"):
        answer = api.get(f"/jobs/{job_id}/results.{kind}")
        assert named(answer) == f"{stem}-{job_id}.{kind}"
        parts = answer.headers["Content-Disposition"].split("; ")
        assert parts[:2] == ["attachment", f"filename={plain or stem}-{job_id}.{kind}"]
        assert len(parts) == (2 if plain is None else 3)


def named(answer: Any) -> str:
    """The file name that a download states."""
    return parse_options_header(answer.headers["Content-Disposition"])[1]["filename"]


def test_export_of_an_open_job_says_that_it_is_incomplete(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(9)})), name="scan").json["id"]
    worker.start()
    worker.read(4)
    worker.predict()
    expected = "Incomplete: the job is running, 4 of 9 slices are done, and findings come at its end."
    notices = {}
    for kind in ("csv", "json", "parquet"):
        answer = api.get(f"/jobs/{job_id}/results.{kind}")
        assert named(answer) == f"scan-{job_id}-partial.{kind}"
        assert answer.headers["X-Incomplete"] == expected
        notices[kind] = answer
    rows = csv.DictReader(io.StringIO(notices["csv"].text))
    table = pq.ParquetFile(io.BytesIO(notices["parquet"].data))
    texts = [row["notice"] for row in rows] + [row["notice"] for row in table.read().to_pylist()]
    texts += [notices["json"].json["notice"], table.schema_arrow.metadata[b"notice"].decode()]
    assert texts == [f"{NOTICE} {expected}"] * 10
    worker.read(5)
    worker.finish_reading()
    while worker.predict():
        pass
    ended = api.get(f"/jobs/{job_id}/results.csv")
    assert named(ended) == f"scan-{job_id}.csv"
    assert "X-Incomplete" not in ended.headers
    assert "Incomplete" not in ended.text


def test_exports_have_the_labels_of_readers(api: Api, admin: Api, job_id: str) -> None:
    first = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    for reader, label in ((api, "non-COVID"), (admin, "COVID")):
        assert reader.put(f"/jobs/{job_id}/slices/{first}/review", json={"label": label}).status_code == 200
    rows = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/results.csv").text)))
    assert set(rows[0]["reviews"].split("; ")) == {"ann: non-COVID", "root: COVID"}
    assert {row["reviews"] for row in rows[1:]} == {""}
    whole = json.loads(api.get(f"/jobs/{job_id}/results.json").text)["results"]
    assert {(review["user"], review["label"]) for review in whole[0]["reviews"]} == {
        ("ann", "non-COVID"),
        ("root", "COVID"),
    }
    assert [row["reviews"] for row in whole[1:]] == [[]] * 6


def test_notes_of_a_slice_are_in_every_result_and_on_its_page(
    api: Api, anns_browser: Browser, worker: WorkerPart
) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.notes = ("decimal_comma", "lossy")
    worker.start()
    worker.read(1)
    worker.finish_reading()
    (row,) = api.get(f"/jobs/{job_id}/results").json["items"]
    assert row["notes"] == ["decimal_comma", "lossy"]
    assert json.loads(api.get(f"/jobs/{job_id}/results.json").text)["results"][0]["notes"] == row["notes"]
    (line,) = csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/results.csv").text))
    assert line["notes"] == "decimal_comma; lossy"
    page = anns_browser.get(f"/jobs/{job_id}/slices/{row['slice_id']}").text
    assert all(SLICE_NOTES[code] in page for code in worker.notes)


def test_series_are_shown_from_the_feet_to_the_head_and_join_to_a_pacs(
    api: Api, anns_browser: Browser, ann: User
) -> None:
    odd = [ct("other", 1.0, study_uid="7", series_uid="7.1", patient="", orientation=None), ct("also", None)]
    job = read_job(ann, [ct("head", 30.0), ct("middle", 12.5), ct("feet", -3.0)], odd)
    predict_all()
    first, second = api.get(f"/jobs/{job.id}/series").json["items"]
    assert (first["patient"], first["series_uid"], first["notes"], first["slices"]) == (1, "1.2.3", ["no_position"], 4)
    assert (second["patient"], second["study_uid"], second["notes"]) == (2, "7", [])
    assert api.get(f"/jobs/{job.id}/series?limit=1").json["items"] == [first]
    of_series = f"series={first['series_id']}"
    assert names(api, job.id, of_series) == ["feet", "middle", "head", "also"]
    assert names(api, job.id, f"{of_series}&sort=position") == ["head", "middle", "feet", "also"]
    whole = json.loads(api.get(f"/jobs/{job.id}/results.json").text)
    assert whole["series"] == [first, second]
    rows = whole["results"]
    assert [row["name"] for row in rows] == ["feet", "middle", "head", "also", "other"]
    assert [rows[1][key] for key in ("patient", "study_uid", "series_uid", "sop_uid", "position", "series_rank")] == [
        1, "1.2", "1.2.3", "1.2.3.middle", 12.5, 1
    ]  # fmt: skip
    table = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{job.id}/results.csv").text)))
    assert [line["sop_uid"] for line in table] == [row["sop_uid"] for row in rows]
    page = anns_browser.get(f"/jobs/{job.id}").text
    assert SERIES_NOTES["no_position"] in page
    slice_page = anns_browser.get(f"/jobs/{job.id}/slices/{rows[1]['slice_id']}?{of_series}").text
    assert all(f"/slices/{rows[i]['slice_id']}" in slice_page for i in (0, 2))


def test_results_series_and_findings_name_their_archives(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    archives = [(f"{name}.zip", zip_of({"IM0.bmp": png(1), "a.txt": b"a"})) for name in ("ann", "bob")]
    job_id = api.submit(*archives).json["id"]
    for _ in archives:
        worker.start()
        worker.read(1, series="", names="IM{}.bmp")
        worker.reject("a.txt", "format")
        worker.finish_reading()
    while worker.predict([0.9]):
        pass
    export = api.get(f"/jobs/{job_id}/results.json").json
    assert [(row["name"], row["upload"], row["patient"], row["series"]) for row in export["results"]] == [
        ("IM0.bmp", "ann.zip", 1, "ann.zip: "),
        ("IM0.bmp", "bob.zip", 2, "bob.zip: "),
        ("a.txt", "ann.zip", None, None),
        ("a.txt", "bob.zip", None, None),
    ]
    assert [series["uploads"] for series in export["series"]] == [["ann.zip"], ["bob.zip"]]
    assert [(one["patient"], one["uploads"]) for one in export["findings"]] == [
        *[(1, ["ann.zip"])] * 3,
        *[(2, ["bob.zip"])] * 3,
    ]
    for path in ("results.csv", "findings.csv"):
        lines = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/{path}").text)))
        assert {line.get("upload") or line.get("uploads") for line in lines} == {"ann.zip", "bob.zip"}
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert len(re.findall(r'<span class="sub">in <bdi class="name">(?:ann|bob).zip</bdi>', page)) == 2
    assert '<bdi class="name">bob.zip</bdi>' in anns_browser.get(f"/jobs/{job_id}/slices/3").text


def test_finding_on_several_loose_files_names_all_of_them(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(*((f"{number}.png", png(number)) for number in range(2))).json["id"]
    for number in range(2):
        worker.start()
        worker.read(1, series="(no folder)", names=f"{number}.png")
        worker.finish_reading()
    while worker.predict([0.9]):
        pass
    patient, study, series = api.get(f"/jobs/{job_id}/findings").json["items"]
    assert patient["uploads"] == study["uploads"] == series["uploads"] == ["0.png", "1.png"]
    assert series["series"] == "(no folder)"


def test_row_43_csv_holds_no_formula(api: Api, job_id: str) -> None:
    rows = list(csv.reader(io.StringIO(api.get(f"/jobs/{job_id}/results.csv").text)))
    cells = [cell for row in rows for cell in row]
    assert "'=HYPERLINK(1).png" in cells
    assert "'-it ends early" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1"])
def test_formula_gets_an_apostrophe_and_a_number_does_not(text: str) -> None:
    assert safe_cell(text) == "'" + text
    assert safe_cell(-0.5) == -0.5
    assert safe_cell("plain") == "plain"
    assert safe_cell(None) is None


def test_json_has_the_job_every_slice_and_the_notice(api: Api, job_id: str) -> None:
    answer = api.get(f"/jobs/{job_id}/results.json")
    whole: dict[str, Any] = json.loads(answer.text)
    assert whole["job"]["id"] == job_id
    assert [row["state"] for row in whole["results"]] == ["predicted"] * 6 + ["rejected"]
    assert whole["notice"] == NOTICE


def test_parquet_has_what_json_has(api: Api, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 3)
    first = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    api.put(f"/jobs/{job_id}/slices/{first}/review", json={"label": "COVID"})
    answer = api.get(f"/jobs/{job_id}/results.parquet")
    assert answer.headers["Content-Disposition"].endswith(f"{job_id}.parquet")
    file = pq.ParquetFile(io.BytesIO(answer.data))
    assert file.num_row_groups == 3
    metadata = file.schema_arrow.metadata
    whole = json.loads(api.get(f"/jobs/{job_id}/results.json").text)
    assert metadata[b"notice"].decode() == whole["notice"]
    assert json.loads(metadata[b"job"]) == whole["job"]
    rows = file.read().to_pylist()
    for row in rows:
        assert row.pop("notice") == whole["notice"]
        for review in row["reviews"]:
            review["created_at"] = review["created_at"].isoformat()
    assert rows == whole["results"]


def test_exports_of_a_job_that_holds_nothing_yet(api: Api) -> None:
    job_id = api.submit(("1.png", png())).json["id"]
    assert json.loads(api.get(f"/jobs/{job_id}/results.json").text)["results"] == []
    assert len(api.get(f"/jobs/{job_id}/results.csv").text.splitlines()) == 1
    assert pq.read_table(io.BytesIO(api.get(f"/jobs/{job_id}/results.parquet").data)).num_rows == 0


def test_exports_come_in_pieces(api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": b"x" for i in range(450)}))).json["id"]
    worker.whole_job(450)
    with read_scope() as s:
        job = s.get_one(Job, job_id)
    pieces = list(job_results.csv_lines(job, "for research"))
    assert [piece.count("\n") for piece in pieces] == [201, 200, 50]
    shown = JobOut.model_validate(api.get(f"/jobs/{job_id}").json)
    assert len(json.loads("".join(job_results.json_pieces(job, shown, "for research")))["results"]) == 450
    assert api.get(f"/jobs/{job_id}/results.csv", buffered=False).is_streamed


def image(api: Api, job_id: str, row: int, query: str = "") -> Any:
    rows = api.get(f"/jobs/{job_id}/results").json["items"]
    return api.get(f"/jobs/{job_id}/slices/{rows[row]['slice_id']}/image.png{query}")


def test_slice_is_shown_in_the_size_asked_for(api: Api, job_id: str) -> None:
    answer = image(api, job_id, 0, "?size=96")
    assert answer.mimetype == "image/png"
    assert Image.open(io.BytesIO(answer.data)).size == (96, 96)


def test_slice_is_shown_with_the_aspect_of_the_received_picture(api: Api, job_id: str) -> None:
    with session_scope() as s:
        for row in s.scalars(select(Slice).where(Slice.job_id == job_id)):
            row.width, row.height = 256, 202
    for query in ("?size=512&shape=received", "?size=512&shape=received&heat=1"):
        assert Image.open(io.BytesIO(image(api, job_id, 0, query).data)).size == (512, 404)
    assert Image.open(io.BytesIO(image(api, job_id, 0, "?size=512").data)).size == (512, 512)


def test_result_has_the_threshold_and_the_limit_of_its_engine(api: Api, job_id: str) -> None:
    first, *_, last = api.get(f"/jobs/{job_id}/results").json["items"]
    assert (first["threshold"], last["threshold"]) == (0.5, None)
    assert (first["distance_limit"], last["distance_limit"]) == (None, None)


def test_heat_map_colours_the_slice(api: Api, job_id: str) -> None:
    plain = Image.open(io.BytesIO(image(api, job_id, 0).data))
    heat = Image.open(io.BytesIO(image(api, job_id, 0, "?heat=1").data))
    assert plain.mode == "L"
    red, green, _ = heat.convert("RGB").split()
    assert plain.size == heat.size == (224, 224)
    assert red.tobytes() != green.tobytes()


def test_image_is_not_sent_again(api: Api, job_id: str) -> None:
    rows = api.get(f"/jobs/{job_id}/results").json["items"]
    path = f"/jobs/{job_id}/slices/{rows[0]['slice_id']}/image.png"
    tag = api.get(path).headers["ETag"]
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_image_that_is_not_there_is_404(api: Api, job_id: str) -> None:
    assert image(api, job_id, 6).status_code == 404
    assert api.get(f"/jobs/{job_id}/slices/999999/image.png").status_code == 404
    assert api.get(f"/jobs/{job_id}/slices/{10**30}/image.png").status_code == 404


def test_image_that_is_lost_is_503(api: Api, job_id: str) -> None:
    with read_scope() as s:
        for sha256 in s.scalars(select(Chunk.array_sha256)):
            storage().delete(sha256)
    answer = image(api, job_id, 0)
    assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:file-lost")


@pytest.mark.parametrize("query", ["size=0", "size=5000", "size=x", "heat=2"])
def test_image_of_an_invalid_size_is_refused(api: Api, job_id: str, query: str) -> None:
    assert image(api, job_id, 0, f"?{query}").status_code == 422


def test_slice_of_another_job_is_404(api: Api, job_id: str) -> None:
    other = api.submit(("1.png", png(99))).json["id"]
    rows = api.get(f"/jobs/{job_id}/results").json["items"]
    assert api.get(f"/jobs/{other}/slices/{rows[0]['slice_id']}/image.png").status_code == 404
