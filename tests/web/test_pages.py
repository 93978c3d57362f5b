"""The pages as the server sends them: what they say, what they escape, what they let nobody do."""

import io
import re
from pathlib import Path

import pytest
from apiflask import APIFlask
from sqlalchemy import delete, update

from db.access import accounts
from db.database import current, read_scope, session_scope
from db.models import Job, ModelVersion, Promotion, Slice, Upload, User
from db.registry import champions
from db.settings import Settings
from tests.builders.files import png, zip_of
from tests.builders.versions import add_champion
from tests.web.actors import Api, Browser, WorkerPart
from web.errors import sentence
from web.views import filters

HOSTILE = '<script>alert(1)</script>"onload=x\u202egnp.zip'


@pytest.fixture
def job_id(api: Api, worker: WorkerPart) -> str:
    """A finished job with everything on its page."""
    made: str = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    worker.start()
    worker.read(4, series="<i>left</i>", names="<img src=x>{}.png")
    worker.reject("<b>bad</b>.png", "truncated", "It <u>ends</u>.")
    worker.finish_reading()
    worker.predict()
    return made


@pytest.mark.parametrize(
    "path", ["/", "/jobs", "/submit", "/models", "/tokens", "/jobs/aaaaaaaaaaaaaaaa", "/jobs/x/live"]
)
def test_pages_are_for_users(browser: Browser, path: str) -> None:
    away = browser.get(path)
    assert away.status_code == 303
    assert away.headers["Location"].startswith("/sign-in?next=/")


def test_poll_of_an_ended_session_leads_to_the_sign_in(browser: Browser) -> None:
    answer = browser.get("/jobs/aaaaaaaaaaaaaaaa/live", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/sign-in")


def test_poll_of_an_ended_session_leads_back_to_the_page(browser: Browser) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://localhost/jobs/aaaaaaaaaaaaaaaa?heat=1"}
    answer = browser.get("/jobs/aaaaaaaaaaaaaaaa/live", headers=headers)
    assert answer.headers["HX-Redirect"] == "/sign-in?next=/jobs/aaaaaaaaaaaaaaaa?heat%3D1"


def test_what_a_page_asks_for_by_itself_is_marked_as_a_poll() -> None:
    """Such requests keep no session alive."""
    folder = Path(__file__).parents[2] / "web" / "templates"
    texts = [path.read_text() for path in folder.rglob("*.html")]
    polled = [tag for text in texts for tag in re.findall(r'hx-get="([^"]*)" hx-trigger="every', text)]
    assert len(polled) == sum(text.count('hx-trigger="every') for text in texts) > 5
    assert [tag for tag in polled if "poll=1" not in tag] == []


def test_titles_hold_no_names_of_files(anns_browser: Browser, api: Api, worker: WorkerPart) -> None:
    """Titles stand in the history of a browser and in lists of windows."""
    job_id = api.submit(("Doe_Jane.zip", zip_of({"Doe_Jane.png": png()}))).json["id"]
    worker.start()
    worker.read(1, names="Doe_Jane{}.png")
    worker.finish_reading()
    worker.predict()
    slice_id = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    for path in ("/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/slices/{slice_id}"):
        page = anns_browser.get(path).text
        assert "Doe_Jane" in page
        assert "Doe_Jane" not in page.split("<title>")[1].split("</title>")[0]


def test_browser_stores_nothing_but_static_files(anns_browser: Browser, api: Api, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({"1.png": png()}))).json["id"]
    worker.whole_job(1)
    slice_id = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    job = f"/api/v1/jobs/{job_id}"
    paths = ["/sign-in", "/jobs", "/tokens", "/nowhere", "/healthz", f"/jobs/{job_id}", job, f"{job}/results.csv"]
    for path in (*paths, f"{job}/slices/{slice_id}/image.png", f"{job}/slices/{slice_id}/image.png?heat=1"):
        assert anns_browser.get(path).headers["Cache-Control"] == "no-store", path
    assert "no-store" not in anns_browser.get("/static/ctbatch.css").headers["Cache-Control"]


def test_every_page_says_what_it_is_for_and_trusts_only_its_own_files(anns_browser: Browser, job_id: str) -> None:
    paths = ["/sign-in", "/jobs", "/submit", "/models", "/tokens", f"/jobs/{job_id}", "/api/v1/docs", "/nowhere"]
    for path in paths:
        page = anns_browser.get(path, follow_redirects=True)
        assert "Research use only, not for diagnosis." in page.text
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data:;")
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! src=)", page.text), path
        assert not re.search(r'(src|href|action)="(https?:)?//', page.text), path


def test_names_are_escaped_and_keep_their_direction(app: APIFlask, api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.png", png()), name=HOSTILE).json["id"]
    for path in ("/jobs", f"/jobs/{job_id}"):
        page = anns_browser.get(path).text
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert '<bdi class="name">&lt;script&gt;alert(1)&lt;/script&gt;&#34;onload=x&lt;U+202E&gt;gnp.zip</bdi>' in page


def test_names_of_slices_and_series_are_escaped(anns_browser: Browser, job_id: str) -> None:
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert "<img src=x>" not in page
    assert "<i>left" not in page
    assert "<b>bad" not in page
    assert "<u>ends" not in page
    assert "&lt;img src=x&gt;0.png" in page


def test_job_page_shows_counts_series_and_results(anns_browser: Browser, job_id: str) -> None:
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert "fake engine: for tests only" in page
    assert f'Model <a class="link" href="/models/{_champion().id}">fake/1</a>' in page
    assert "labelled COVID if the probability is at least 0.500" in page
    assert "The image ends too early." in page
    assert "It &lt;u&gt;ends&lt;/u&gt;." in page
    assert re.search(r"50\.0.%<small> of 4 predicted", page)
    assert "0.930" in page
    assert f"/api/v1/jobs/{job_id}/results.csv" in page


def test_priority_is_written_in_words(api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.png", png()), priority="-5").json["id"]
    for path in ("/jobs", f"/jobs/{job_id}/row", f"/jobs/{job_id}"):
        assert "low priority" in anns_browser.get(path).text, path


def test_results_of_a_series_say_that_rejected_files_belong_to_none(
    api: Api, anns_browser: Browser, job_id: str
) -> None:
    [series] = api.get(f"/jobs/{job_id}/series").json["items"]
    page = anns_browser.get(f"/jobs/{job_id}?series={series['series_id']}&state=rejected").text
    assert "No slice matches these filters. A rejected file belongs to no series." in page


def test_series_of_an_open_job_count_slices_predictions_and_covid_apart(
    api: Api, anns_browser: Browser, worker: WorkerPart
) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(7)}))).json["id"]
    worker.start()
    worker.read(4)
    worker.predict()
    worker.read(2)
    numbers = re.findall(r'<td class="num">(.*?)</td>', anns_browser.get(f"/jobs/{job_id}/findings").text)
    assert numbers == ["6", "4", '2 <span class="sub">50.0\u202f%</span>', "0.505"]


@pytest.mark.slow
def test_polls_of_a_job_of_many_series_are_small(app: APIFlask, api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    worker = WorkerPart()
    worker.start()
    for number in range(300):
        worker.read(1, series=f"patient {number}")
    worker.predict([0.9])
    gzip = {"Accept-Encoding": "gzip"}  # as every browser sends it
    assert len(anns_browser.get(f"/jobs/{job_id}/live").data) < 10_000
    for part in ("live", "results?poll=1", "findings?poll=1", "findings?page=12"):
        assert len(anns_browser.get(f"/jobs/{job_id}/{part}", headers=gzip).data) < 10_000, part
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert page.count('id="series-') < 30
    assert page.index('id="findings"') < page.index('id="results"')
    assert "276–300 of 300 series" in anns_browser.get(f"/jobs/{job_id}/findings?page=12").text
    assert "1–1 of" not in anns_browser.get(f"/jobs/{job_id}/findings?find=patient+299").text
    assert "patient 299" in anns_browser.get(f"/jobs/{job_id}/findings?find=patient+299").text


def test_slice_page_has_its_place_its_neighbours_and_the_threshold(
    api: Api, anns_browser: Browser, job_id: str
) -> None:
    rows = api.get(f"/jobs/{job_id}/results?label=COVID").json["items"]
    page = anns_browser.get(f"/jobs/{job_id}/slices/{rows[0]['slice_id']}?label=COVID&sort=name").text
    assert "1 of 2" in page
    assert re.search(rf'id="slice-next"[^>]*/slices/{rows[1]["slice_id"]}\?label=COVID&amp;sort=name"', page)
    assert re.search(r'id="slice-previous"[^>]*aria-disabled="true"', page)
    assert f'href="/jobs/{job_id}?label=COVID&amp;sort=name"' in page
    assert re.search(r"is at least\s+0\.\d+\.", page)
    assert page.count("<h1") == 1


def test_blind_review_hides_the_answer_until_the_reader_has_given_theirs(
    app: APIFlask, api: Api, anns_browser: Browser, job_id: str, root: User
) -> None:
    first, second, *_ = api.get(f"/jobs/{job_id}/results").json["items"]
    admin = Api(app, root)
    admin.put(f"/jobs/{job_id}/slices/{first['slice_id']}/review", json={"label": "non-COVID"})
    path = f"/jobs/{job_id}/slices/{first['slice_id']}"
    hidden = anns_browser.get(f"{path}?blind=1").text
    assert "root" not in hidden
    assert "0.930" not in hidden
    assert "heat=1" not in hidden
    assert "outcome-" not in hidden
    token = anns_browser.csrf("/jobs")
    form = {"csrf_token": token, "label": "COVID"}
    htmx = {"HX-Request": "true"}
    answered = anns_browser.client.post(f"{path}/review?blind=1", data=form, headers=htmx).text
    for told in ("root", "0.930", "heat=1", "outcome-positive", f"/slices/{second['slice_id']}?blind=1"):
        assert told in answered
    table = anns_browser.get(f"/jobs/{job_id}/results?blind=1&heat=1").text
    assert table.count("0.930") == 1
    assert table.count("hidden</span>") == 6  # the prediction and the probability of three slices
    assert table.count("shape=received&amp;heat=1") == 1
    undone = anns_browser.client.post(f"{path}/review?blind=1", data=form | {"label": ""}, headers=htmx).text
    assert "0.930" not in undone


def test_results_are_paged_back_and_say_how_many_there_are(api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    WorkerPart().whole_job(120)
    first = anns_browser.get(f"/jobs/{job_id}?sort=name").text
    assert "1–50 of 120 slices" in first
    second = anns_browser.get(_link(first, "next")).text
    assert "51–100 of 120 slices" in second
    third = anns_browser.get(_link(second, "next")).text
    assert "101–120 of 120 slices" in third
    assert "51–100 of" in anns_browser.get(_link(third, "prev")).text
    assert "1–50 of" in anns_browser.get(_link(second, "prev")).text


def test_pages_of_a_series_keep_the_order_as_submitted(api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    WorkerPart().whole_job(120)
    [series] = api.get(f"/jobs/{job_id}/series").json["items"]
    first = anns_browser.get(f"/jobs/{job_id}?series={series['series_id']}&sort=position").text
    second = anns_browser.get(_link(first, "next")).text
    assert '<option value="position" selected>' in second
    assert [re.findall(r'aria-label="Look at (.*?)"', page)[0] for page in (first, second)] == ["0.png", "50.png"]


def _link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"#]+)', page)
    assert found is not None
    return found[1].replace("&amp;", "&")


def test_filters_are_removed_one_by_one_and_the_order_stays(anns_browser: Browser, job_id: str) -> None:
    page = anns_browser.get(f"/jobs/{job_id}?label=COVID&state=predicted&sort=name&heat=1").text
    assert f'href="/jobs/{job_id}?sort=name&amp;heat=1#results">Clear all filters' in page
    assert re.search(r'class="chip" href="[^"]*\?state=predicted&amp;sort=name&amp;heat=1#results"', page)


def test_cancelled_job_is_resumed_and_counts_what_was_done(api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(5)}))).json["id"]
    worker = WorkerPart()
    worker.start()
    worker.read(2)
    worker.predict()
    worker.read(2)
    api.post(f"/jobs/{job_id}/cancel")
    worker.finish_reading()
    worker.predict()
    page = anns_browser.get(f"/jobs/{job_id}").text
    assert "Resume" in page
    assert "Retry" not in page
    assert re.search(r"Slices done</dt><dd>2<small> of 4", page)
    assert 'aria-valuenow="2"' in page


def test_open_job_polls_and_ended_job_does_not(api: Api, anns_browser: Browser, job_id: str) -> None:
    open_id = api.submit(("b.png", png(50))).json["id"]
    assert 'hx-trigger="every' in anns_browser.get(f"/jobs/{open_id}").text
    assert 'hx-trigger="every' in anns_browser.get(f"/jobs/{open_id}/row").text
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/live", f"/jobs/{job_id}/row"):
        assert 'hx-trigger="every' not in anns_browser.get(path).text


def test_slices_that_wait_are_called_so_everywhere(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    job_id = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(2)}))).json["id"]
    worker.start()
    worker.read(2)
    page = anns_browser.get(f"/jobs/{job_id}?state=open").text
    assert page.count('<span class="outcome outcome-open">waiting</span>') == 2
    assert '<option value="open" selected>Waiting</option>' in page
    assert 'aria-label="Remove the filter waiting"' in page
    assert '<span class="key key-open" aria-hidden="true"></span>Waiting <strong>2</strong>' in page


def test_results_part_keeps_filters_in_the_address(anns_browser: Browser, job_id: str) -> None:
    answer = anns_browser.get(f"/jobs/{job_id}/results?label=COVID&state=&sort=name&heat=1")
    assert answer.headers["HX-Push-Url"] == f"/jobs/{job_id}?label=COVID&sort=name&heat=1"
    assert answer.text.count('class="slice-row"') == 2
    assert "heat=1" in answer.text
    assert "HX-Push-Url" not in anns_browser.get(f"/jobs/{job_id}/results?poll=1").headers


@pytest.mark.parametrize("query", ["label=nonsense", "series=x", "sort=1", "limit=-1", "state=%00"])
def test_address_with_invalid_parameters_shows_the_defaults(anns_browser: Browser, job_id: str, query: str) -> None:
    answer = anns_browser.get(f"/jobs/{job_id}?{query}")
    assert answer.status_code == 200
    assert answer.text.count('class="slice-row"') == 5


def test_slice_has_a_page_and_a_dialog(api: Api, anns_browser: Browser, job_id: str) -> None:
    row = api.get(f"/jobs/{job_id}/results").json["items"][0]
    path = f"/jobs/{job_id}/slices/{row['slice_id']}"
    assert "<!doctype html>" in anns_browser.get(path).text
    inside = anns_browser.get(path, headers={"HX-Request": "true"}).text
    assert "<!doctype html>" not in inside
    assert "slice-heat" in inside
    assert anns_browser.get(f"/jobs/{job_id}/slices/999999").status_code == 404
    assert anns_browser.get(f"/jobs/{job_id}/slices/{10**30}").status_code == 404


def test_rejected_slice_opens_and_says_why(api: Api, anns_browser: Browser, job_id: str) -> None:
    [row] = api.get(f"/jobs/{job_id}/results?state=rejected").json["items"]
    path = f"/jobs/{job_id}/slices/{row['slice_id']}"
    assert f'href="{path}" hx-get="{path}"' in anns_browser.get(f"/jobs/{job_id}").text
    page = anns_browser.get(path).text
    assert "This slice has no image." in page
    assert '<span class="why">It &lt;u&gt;ends&lt;/u&gt;.</span>' in page


def test_slice_keeps_the_aspect_of_the_received_picture(api: Api, anns_browser: Browser, job_id: str) -> None:
    with session_scope() as s:
        s.execute(update(Slice).values(width=256, height=202))
    slice_id = api.get(f"/jobs/{job_id}/results").json["items"][0]["slice_id"]
    pictures = re.findall(
        r'<img class="slice-\w+" src="([^"]+)" width="672" height="530"',
        anns_browser.get(f"/jobs/{job_id}/slices/{slice_id}").text,
    )
    assert ["shape=received" in address for address in pictures] == [True, True]
    assert anns_browser.get(f"/jobs/{job_id}").text.count("size=112&amp;shape=received") == 4


def test_strangers_pages_are_not_found(app: APIFlask, browser: Browser, job_id: str, settings: Settings) -> None:
    with session_scope() as s:
        accounts.create_user(s, "eve", "eve's password")
    browser.sign_in("eve", "eve's password")
    for path in ("", "/live", "/row", "/results", "/slices/1"):
        assert browser.get(f"/jobs/{job_id}{path}").status_code == 404
    for action in ("cancel", "retry"):
        token = browser.csrf("/jobs")
        assert browser.client.post(f"/jobs/{job_id}/{action}", data={"csrf_token": token}).status_code == 404


def test_job_is_cancelled_from_its_page(api: Api, anns_browser: Browser) -> None:
    job_id = api.submit(("b.zip", zip_of({"b.png": png(50)}))).json["id"]
    token = anns_browser.csrf("/jobs")
    answer = anns_browser.client.post(f"/jobs/{job_id}/cancel", data={"csrf_token": token}, follow_redirects=True)
    assert "cancelling" in answer.text
    assert api.get(f"/jobs/{job_id}").json["cancelling"] is True


def test_page_of_a_job_that_predicted_nothing_says_so(api: Api, anns_browser: Browser, worker: WorkerPart) -> None:
    job_id = api.submit(("a.png", png())).json["id"]
    worker.start()
    worker.reject("a.png", "format")
    worker.finish_reading()
    for path in ("/jobs", f"/jobs/{job_id}", f"/jobs/{job_id}/live", f"/jobs/{job_id}/row"):
        page = anns_browser.get(path).text
        assert "state-failed" in page, path
        assert "finished, nothing predicted" in page, path
    assert 'role="alert"' in anns_browser.get(f"/jobs/{job_id}").text


def test_page_of_a_job_notes_the_dicomdirs_that_were_passed_over(anns_browser: Browser, job_id: str) -> None:
    assert "DICOMDIR" not in anns_browser.get(f"/jobs/{job_id}").text
    with session_scope() as s:
        s.execute(update(Upload).values(dicomdirs=2))
        s.execute(update(Job).values(tally=None))
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/live"):
        assert "Passed over: 2 DICOMDIRs. A DICOMDIR lists other files" in anns_browser.get(path).text


@pytest.mark.parametrize(
    ("counts", "caution"),
    [
        ({"scanned": 99}, "Nearly every slice is a patient of its own"),
        ({"series": 99}, "Nearly every slice is a series of its own"),
        ({"studies": 99, "largest": 99}, "Most studies have one patient ID"),
        ({"studies": 99, "largest": 99}, "each series counts as a study"),
        ({"several_scans": 1}, "A series seems to hold several scans"),
    ],
    ids=["patients", "series", "one patient", "no study UID", "several scans"],
)
def test_page_of_a_job_warns_of_what_anonymisers_do(
    anns_browser: Browser, job_id: str, counts: dict[str, int], caution: str
) -> None:
    assert caution not in anns_browser.get(f"/jobs/{job_id}").text
    with session_scope() as s:
        job = s.get_one(Job, job_id)
        assert job.tally is not None
        job.tally = job.tally.model_copy(update=counts)
    assert caution in anns_browser.get(f"/jobs/{job_id}").text


def test_form_without_scripts_submits(api: Api, anns_browser: Browser) -> None:
    token = anns_browser.csrf("/submit")
    answer = anns_browser.client.post(
        "/submit", data={"csrf_token": token, "name": "plain", "files": (io.BytesIO(png()), "1.png")}
    )
    assert answer.status_code == 303
    assert api.get("/jobs").json["items"][0]["name"] == "plain"


def test_form_without_scripts_says_what_is_wrong(api: Api, anns_browser: Browser) -> None:
    bad = (io.BytesIO(zip_of({"1.png": png()})[:-30]), "<cut>.zip")
    answer = anns_browser.client.post("/submit", data={"csrf_token": anns_browser.csrf("/submit"), "files": bad})
    assert answer.status_code == 422
    assert "was not accepted" in answer.text
    assert "&lt;cut&gt;.zip" in answer.text
    assert answer.text.count("The archive has no end") == 1
    assert "end record" not in answer.text, "the same again in other words"


def test_submit_page_says_when_there_is_no_model(anns_browser: Browser) -> None:
    with session_scope() as s:
        s.execute(delete(Promotion))
    page = anns_browser.get("/submit").text
    assert "no model version is the champion" in page
    assert re.search(r"<button[^>]*type=\"submit\" disabled", page)


def test_admin_promotes_and_others_do_not(app: APIFlask, browser: Browser, anns_browser: Browser, root: User) -> None:
    older = _champion()
    add_champion(current().home, "newer")
    path = f"/models/{older.id}/promote"
    assert "Make this the champion" not in anns_browser.get("/models").text
    refused = anns_browser.client.post(path, data={"csrf_token": anns_browser.csrf("/models"), "reason": "x"})
    assert refused.status_code == 403
    assert "Ask an admin, such as root, " in refused.text
    admin = Browser(app)
    admin.sign_in("root")
    taken = admin.client.post(path, data={"csrf_token": admin.csrf("/models"), "reason": "it is  better"})
    assert taken.status_code == 303
    assert _champion().id == older.id
    with read_scope() as s:
        assert s.query(Promotion).order_by(Promotion.id.desc()).first().reason == "it is better"


def _champion() -> ModelVersion:
    with read_scope() as s:
        found = champions.champion(s)
    assert found is not None
    return found


def test_jobs_list_is_paged(api: Api, anns_browser: Browser) -> None:
    for i in range(3):
        api.submit((f"{i}.png", png(i)))
    first = anns_browser.get("/jobs?limit=2").text
    assert ("2.png" in first, "0.png" in first) == (True, False)
    assert "1–2 of 3" in first
    last = anns_browser.get(_link(first, "next")).text
    assert "0.png" in last
    assert "3–3 of 3" in last
    assert "2.png" in anns_browser.get(_link(last, "prev")).text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.44, "0.4 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")]
)
def test_durations_read_naturally(seconds: float | None, text: str) -> None:
    assert filters.duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (1, 100_000, "< 0.1 %"), (99_999, 100_000, "> 99.9 %"), (1, 8, "12.5 %")],
)
def test_share_is_0_or_100_percent_only_if_exact(part: int, whole: int, text: str) -> None:
    assert filters.share(part, whole).replace("\u202f", " ") == text


def test_sentence_begins_with_a_capital_unless_it_begins_with_a_label() -> None:
    assert sentence("the dataset is not ready") == "The dataset is not ready."
    assert sentence("site/1 is not evaluated yet.") == "site/1 is not evaluated yet."


def test_probability_is_never_rounded_to_certainty() -> None:
    assert [filters.probability(p) for p in (None, 0.0001, 0.9999, 0.5)] == [
        "–",
        "<\u202f0.001",
        ">\u202f0.999",
        "0.500",
    ]


def test_admin_starts_with_the_demo_model_and_others_do_not(app: APIFlask, anns_browser: Browser, root: User) -> None:
    browser = Browser(app)
    browser.sign_in("root")
    assert "Use the demo model" not in browser.get("/models").text, "there is a champion already"
    with session_scope() as s:
        s.execute(delete(Promotion))
    assert "Use the demo model" not in anns_browser.get("/models").text
    assert (
        anns_browser.client.post("/models/demo", data={"csrf_token": anns_browser.csrf("/models")}).status_code == 403
    )
    assert "Use the demo model" in browser.get("/submit").text
    assert "Use the demo model" in browser.get("/models").text
    answer = browser.client.post("/models/demo", data={"csrf_token": browser.csrf("/models")})
    assert answer.status_code == 303
    assert _champion().label == "demo/1"
    assert "knows nothing about patients" in browser.get(answer.headers["Location"]).text


def test_page_says_that_the_demo_model_is_damaged(
    app: APIFlask, root: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(app)
    browser.sign_in("root")
    with session_scope() as s:
        s.execute(delete(Promotion))
    monkeypatch.setattr("db.registry.demo_model.DEMO_FILE", tmp_path / "gone.tar.gz")
    answer = browser.client.post("/models/demo", data={"csrf_token": browser.csrf("/models")})
    assert answer.status_code == 503
    assert "make demo-model" in answer.text
