"""Labels that readers give to slices: kept, changed, taken back; and the warning of a job with much ood."""

import csv
import io

import pytest
from sqlalchemy import select, update

from db.database import session_scope
from db.models import Job, ModelVersion, Prediction, User
from tests.builders.files import png, zip_of
from tests.web.actors import Api, Browser, WorkerPart


@pytest.fixture
def job_id(api: Api, worker: WorkerPart) -> str:
    """A finished job of ten slices, and a file that was rejected."""
    made: str = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(11)}))).json["id"]
    worker.start()
    worker.read(10)
    worker.reject("notes.txt", "format")
    worker.finish_reading()
    worker.predict()
    return made


def slices(api: Api, job_id: str, query: str = "") -> list[int]:
    return [row["slice_id"] for row in api.get(f"/jobs/{job_id}/results?{query}").json["items"]]


def said(answer) -> list[tuple[str, str]]:
    assert answer.status_code == 200
    return [(one["user"], one["label"]) for one in answer.json["items"]]


def mark_ood(job_id: str, ood: int) -> None:
    """Let the model have measured distances, with so many slices out of distribution."""
    with session_scope() as s:
        for place, prediction in enumerate(s.scalars(select(Prediction).order_by(Prediction.id))):
            prediction.distance, prediction.ood = 12.5 + place, place < ood
        s.get_one(Job, job_id).tally = None  # counted anew


def test_each_reader_has_one_label_and_the_newest_counts(api: Api, admin: Api, job_id: str) -> None:
    path = f"/jobs/{job_id}/slices/{slices(api, job_id)[0]}/review"
    assert said(api.put(path, json={"label": "COVID"})) == [("ann", "COVID")]
    assert said(admin.put(path, json={"label": "COVID"})) == [("root", "COVID"), ("ann", "COVID")]
    assert said(api.put(path, json={"label": "non-COVID"})) == [("ann", "non-COVID"), ("root", "COVID")]
    assert said(api.delete(path)) == [("root", "COVID")]
    assert said(api.delete(path)) == [("root", "COVID")]


def exported(api: Api, job_id: str) -> tuple[str, list[tuple[str, bool]]]:
    """The labels of the only slice that has any: as CSV states them, and by JSON each label and whether it is blind."""
    rows = csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/results.csv").text))
    results = api.get(f"/jobs/{job_id}/results.json").json["results"]
    (as_csv,) = [row["reviews"] for row in rows if row["reviews"]]
    (reviews,) = [result["reviews"] for result in results if result["reviews"]]
    return as_csv, [(review["label"], review["blind"]) for review in reviews]


def test_label_is_blind_only_if_it_was_given_while_the_answer_was_hidden(
    api: Api, anns_browser: Browser, job_id: str
) -> None:
    first, second = slices(api, job_id)[:2]
    token = anns_browser.csrf("/jobs")

    def give(label: str, switch: str = "?blind=1", slice_id: int = first) -> None:
        form = {"csrf_token": token, "label": label}
        answer = anns_browser.client.post(f"/jobs/{job_id}/slices/{slice_id}/review{switch}", data=form)
        assert answer.status_code == 303

    give("COVID")
    assert exported(api, job_id) == ("ann: COVID (blind)", [("COVID", True)])
    give("COVID", switch="")
    assert exported(api, job_id) == ("ann: COVID (blind)", [("COVID", True)])
    give("non-COVID")
    assert exported(api, job_id) == ("ann: non-COVID", [("non-COVID", False)])
    give("")
    give("", slice_id=second)
    give("COVID", slice_id=second)
    assert exported(api, job_id) == ("ann: COVID (blind)", [("COVID", True)])
    for label in ("", "non-COVID"):
        give(label, slice_id=second)
    assert exported(api, job_id) == ("ann: non-COVID", [("non-COVID", False)])


def test_label_with_the_answer_in_view_or_by_the_api_is_not_blind(api: Api, anns_browser: Browser, job_id: str) -> None:
    first, second = slices(api, job_id)[:2]
    form = {"csrf_token": anns_browser.csrf("/jobs"), "label": "COVID"}
    anns_browser.client.post(f"/jobs/{job_id}/slices/{first}/review", data=form)
    assert exported(api, job_id) == ("ann: COVID", [("COVID", False)])
    answer = api.put(f"/jobs/{job_id}/slices/{second}/review", json={"label": "COVID"})
    assert answer.json["items"][0]["blind"] is False


def test_results_are_filtered_by_the_labels_of_the_reader(api: Api, admin: Api, job_id: str) -> None:
    ids = slices(api, job_id)
    for reader, slice_id in ((api, ids[0]), (api, ids[1]), (admin, ids[2])):
        reader.put(f"/jobs/{job_id}/slices/{slice_id}/review", json={"label": "COVID"})
    api.delete(f"/jobs/{job_id}/slices/{ids[1]}/review")
    assert slices(api, job_id, "reviewed=1") == [ids[0]]
    assert slices(admin, job_id, "reviewed=1") == [ids[2]]
    assert slices(api, job_id, "reviewed=0") == ids[1:10], "not the file that was rejected"
    assert slices(api, job_id, "reviewed=0&label=COVID&sort=-probability") == [ids[2], ids[4], ids[6], ids[8]]


def test_first_page_of_results_states_the_total(api: Api, job_id: str) -> None:
    api.put(f"/jobs/{job_id}/slices/{slices(api, job_id)[0]}/review", json={"label": "COVID"})
    page = api.get(f"/jobs/{job_id}/results?reviewed=0&limit=4").json
    assert page["total"] == 9
    following = api.get(f"/jobs/{job_id}/results?reviewed=0&limit=4&cursor={page['next_cursor']}").json
    assert (len(following["items"]), following["total"]) == (4, None)


def test_first_page_follows_a_page_whose_slices_all_got_a_label(
    api: Api, anns_browser: Browser, job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.views.results.PAGE_ROWS", 6)
    cursor = api.get(f"/jobs/{job_id}/results?reviewed=0&limit=6").json["next_cursor"]
    for slice_id in slices(api, job_id)[6:10]:
        api.put(f"/jobs/{job_id}/slices/{slice_id}/review", json={"label": "COVID"})
    part = anns_browser.get(f"/jobs/{job_id}/results?reviewed=0&cursor={cursor}").text
    assert (part.count('class="slice-row"'), "No slice matches" in part) == (6, False)


def test_job_page_shows_the_readers_own_labels_and_finds_what_is_not_labelled(
    api: Api, admin: Api, anns_browser: Browser, job_id: str
) -> None:
    ids = slices(api, job_id)
    api.put(f"/jobs/{job_id}/slices/{ids[1]}/review", json={"label": "COVID"})
    admin.put(f"/jobs/{job_id}/slices/{ids[3]}/review", json={"label": "COVID"})
    own = '<td data-title="Your label"><span class="outcome outcome-positive">COVID</span></td>'
    for switch in ("", "&blind=1"):
        page = anns_browser.get(f"/jobs/{job_id}?sort=name{switch}").text
        assert own in page.split(f'id="slice-{ids[1]}"')[1].split("</tr>")[0]
        assert page.count(own) == 1
        part = anns_browser.get(f"/jobs/{job_id}/results?reviewed=0{switch}")
        assert part.headers["HX-Push-Url"].startswith(f"/jobs/{job_id}?reviewed=0")
        assert part.text.count('class="slice-row"') == 9
        assert '<span class="count">9</span>' in part.text
        assert f'id="slice-{ids[1]}"' not in part.text
        slice_page = anns_browser.get(f"/jobs/{job_id}/slices/{ids[0]}?reviewed=0{switch}").text
        assert f"/slices/{ids[2]}?reviewed=0" in slice_page


def test_only_who_may_see_the_job_reviews_it(api: Api, stranger: Api, job_id: str) -> None:
    path = f"/jobs/{job_id}/slices/{slices(api, job_id)[0]}/review"
    assert stranger.put(path, json={"label": "COVID"}).status_code == 404
    assert stranger.delete(path).status_code == 404


def test_slice_without_image_and_unknown_label_are_refused(api: Api, job_id: str) -> None:
    rejected = slices(api, job_id, "state=rejected")[0]
    assert api.put(f"/jobs/{job_id}/slices/{rejected}/review", json={"label": "COVID"}).status_code == 409
    assert api.put(f"/jobs/{job_id}/slices/999/review", json={"label": "COVID"}).status_code == 404
    first = slices(api, job_id)[0]
    assert api.put(f"/jobs/{job_id}/slices/{first}/review", json={"label": "ill"}).status_code == 422


def test_slice_page_shows_who_gave_which_label(api: Api, anns_browser: Browser, job_id: str) -> None:
    first = slices(api, job_id)[0]
    page, token = f"/jobs/{job_id}/slices/{first}", anns_browser.csrf("/jobs")
    form = {"csrf_token": token, "label": "COVID"}
    assert "No labels yet" in anns_browser.get(page).text
    assert anns_browser.client.post(f"{page}/review", data=form).status_code == 303
    text = anns_browser.get(page).text
    assert 'value="COVID" aria-pressed="true"' in text
    assert '<bdi class="name">ann</bdi>' in text.split('id="reviews"')[1]
    part = anns_browser.client.post(f"{page}/review", data=form | {"label": ""}, headers={"HX-Request": "true"})
    assert "No labels yet" in part.text
    assert "<!doctype" not in part.text
    assert anns_browser.client.post(f"{page}/review", data=form | {"label": "x"}).status_code == 422


def test_reviewed_slices_become_a_dataset(api: Api, admin: Api, job_id: str) -> None:
    ask = {"name": "reviewed", "jobs": job_id}
    refused = admin.post("/datasets", data=ask, content_type="multipart/form-data")
    assert (refused.status_code, refused.json["detail"]) == (
        422,
        f"No slice of the job {job_id} is labelled yet: label some on its page first.",
    )
    api.put(f"/jobs/{job_id}/slices/{slices(api, job_id)[0]}/review", json={"label": "COVID"})
    made = admin.post("/datasets", data=ask, content_type="multipart/form-data")
    assert (made.status_code, made.json["name"], made.json["state"]) == (202, "reviewed/1", "queued")


@pytest.mark.parametrize(("ood", "warned"), [(0, False), (1, True), (10, True)])
def test_job_page_warns_from_a_tenth_on(
    api: Api, anns_browser: Browser, job_id: str, ann: User, ood: int, warned: bool
) -> None:
    assert api.get(f"/jobs/{job_id}").json["ood"] is None
    mark_ood(job_id, ood)
    assert api.get(f"/jobs/{job_id}").json["ood"] == ood
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert ("Many of these slices are out of distribution" in page) == warned
    assert (f"/jobs/{job_id}?ood=1#results" in page) == warned
    assert ("out of distribution" in anns_browser.get("/jobs").text) == warned


def test_list_of_jobs_leads_to_a_job_whose_answers_are_hidden(anns_browser: Browser, job_id: str) -> None:
    address = f"/jobs/{job_id}?blind=1"
    assert f'href="{address}"' in anns_browser.get("/jobs").text
    assert "Your labels are marked as blind, even if you saw the answer earlier." in anns_browser.get(address).text


@pytest.mark.parametrize("query", ["", "&ood=1", "&ood=0"])
def test_blind_review_hides_which_slices_are_out_of_distribution(
    anns_browser: Browser, job_id: str, query: str
) -> None:
    mark_ood(job_id, 3)
    page = anns_browser.get(f"/jobs/{job_id}?blind=1{query}").text
    assert page.count('class="slice-row"') == 11
    assert "out of distribution" not in page
    assert "ood=" not in page


def test_list_of_jobs_states_the_note_of_a_model_version(anns_browser: Browser, job_id: str) -> None:
    with session_scope() as s:
        s.execute(update(ModelVersion).values(note="demo: knows nothing about patients"))
    assert "· demo: knows nothing about patients" in anns_browser.get("/jobs").text


def test_each_slice_is_marked_unless_the_page_warns_of_many(
    api: Api, anns_browser: Browser, worker: WorkerPart
) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(11)}))).json["id"]
    worker.whole_job(11)
    for ood, marks in ((1, 1), (2, 0)):
        mark_ood(job_id, ood)
        assert anns_browser.get(f"/jobs/{job_id}").text.count('title="Out of distribution"') == marks


def test_slice_page_states_the_distance_beside_its_limit_unless_it_is_hidden(
    api: Api, anns_browser: Browser, job_id: str
) -> None:
    mark_ood(job_id, 10)
    with session_scope() as s:
        s.execute(update(ModelVersion).values(ood={"threshold": 12.0}))
    page = f"/jobs/{job_id}/slices/{slices(api, job_id)[0]}"
    told = ("<dt>Distance</dt><dd>12.500", "; out of distribution above 12.000", "This slice is out of distribution")
    assert [text in anns_browser.get(page).text for text in told] == [True] * 3
    assert [text in anns_browser.get(f"{page}?blind=1").text for text in told] == [False] * 3


def test_results_give_the_distance_and_are_filtered_by_ood(api: Api, anns_browser: Browser, job_id: str) -> None:
    mark_ood(job_id, 3)
    found = api.get(f"/jobs/{job_id}/results?ood=1").json["items"]
    assert [(row["distance"], row["ood"]) for row in found] == [(12.5, True), (13.5, True), (14.5, True)]
    assert len(slices(api, job_id, "ood=0")) == 7
    rows = list(csv.DictReader(io.StringIO(api.get(f"/jobs/{job_id}/results.csv").text)))
    assert [(row["distance"], row["ood"]) for row in rows[2:4]] == [("14.5", "True"), ("15.5", "False")]
    assert (rows[-1]["distance"], rows[-1]["ood"]) == ("", "")
    answer = anns_browser.get(f"/jobs/{job_id}/results?ood=1")
    assert answer.headers["HX-Push-Url"] == f"/jobs/{job_id}?ood=1"
    assert answer.text.count('class="slice-row"') == 3
