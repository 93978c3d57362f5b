"""The order of names, and where slices and pages stand among the results of a job; on both databases."""

from datetime import timedelta
from itertools import permutations

import pytest
from sqlalchemy import select

from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import job_view, jobs
from db.ledger.places import page_place, slice_place
from db.ledger.results import ResultsQuery, iter_results, results_page
from db.ledger.series import PAGE_ROWS, SeriesQuery, series_label, series_page
from db.models import Chunk, Job, User, Work
from db.models.slices import natural_key
from db.paging import BadCursor
from tests.builders.series import submit_uploads
from tests.web.actors import WorkerPart

pytestmark = pytest.mark.usefixtures("champion")
SORTS = ("position", "series", "name", "probability", "-probability")


def submit(owner: User) -> str:
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=[jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", 9)])[0].id


@pytest.fixture
def job_id(ann: User) -> str:
    """A finished job of nine slices: three scores repeat, and one file was rejected."""
    made = submit(ann)
    worker = WorkerPart()
    worker.start()
    worker.read(8)
    worker.reject("notes.txt", "format")
    worker.finish_reading()
    worker.predict([0.9, 0.2, 0.2])
    return made


def test_names_sort_as_people_expect() -> None:
    names = ["a10/2", "a2/10", "a2/9", "a02/1", "1.png", "10.png", "2.png", "b", "x" + "9" * 120]
    expected = ["1.png", "2.png", "10.png", "a02/1", "a2/9", "a2/10", "a10/2", "b", "x" + "9" * 120]
    assert sorted(names, key=natural_key) == expected


def test_results_in_the_order_of_names_have_2_before_10(ann: User) -> None:
    made = submit(ann)
    WorkerPart().whole_job(12)
    with read_scope() as s:
        page = results_page(s, s.get_one(Job, made), ResultsQuery(sort="name"))
    assert [row.name for row in page.items] == [f"{number}.png" for number in range(12)]


@pytest.mark.parametrize("filters", [{}, {"state": "open"}])
def test_slices_are_listed_as_submitted_whichever_upload_is_read_first(ann: User, filters: dict[str, str]) -> None:
    job = submit_uploads(ann, 2)
    first, second = WorkerPart(), WorkerPart()
    for worker in (first, second):
        worker.start()
    second.read(2, names="second {}")
    first.read(2, names="first {}")
    second.reject("second.txt", "format")
    first.reject("first.txt", "format")
    query = ResultsQuery.model_validate({"limit": 3, **filters})
    with read_scope() as s:
        page = results_page(s, job, query)
        rest = results_page(s, job, query.model_copy(update={"cursor": page.next_cursor}))
    assert [row.name for row in page.items + rest.items if row.state == "open"] == [
        *("first 0", "first 1"),
        *("second 0", "second 1"),
    ]
    assert [row.name for row in iter_results(job)][-2:] == ["first.txt", "second.txt"]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("filters", [{}, {"label": "non-COVID"}, {"state": "predicted"}])
def test_neighbours_lead_through_all_slices_that_match(job_id: str, sort: str, filters: dict[str, str]) -> None:
    query = ResultsQuery.model_validate({"sort": sort, **filters})
    with read_scope() as s:
        job = s.get_one(Job, job_id)
        ids = [row.slice_id for row in results_page(s, job, query).items]
        places = [slice_place(s, job, slice_id, query) for slice_id in ids]
    assert [place.number for place in places] == list(range(1, len(ids) + 1))
    assert {place.total for place in places} == {len(ids)}
    assert [place.previous_id for place in places] == [None, *ids[:-1]]
    assert [place.next_id for place in places] == [*ids[1:], None]


def test_slice_that_does_not_match_has_neighbours_but_no_number(job_id: str) -> None:
    with read_scope() as s:
        job = s.get_one(Job, job_id)
        ids = [row.slice_id for row in results_page(s, job, ResultsQuery()).items]
        place = slice_place(s, job, ids[1], ResultsQuery(label="COVID"))
    assert (place.number, place.total, place.previous_id, place.next_id) == (None, 3, ids[0], ids[3])


@pytest.mark.parametrize(("sort", "other"), list(permutations(SORTS, 2)))
def test_cursor_of_another_order_is_refused(job_id: str, sort: str, other: str) -> None:
    with read_scope() as s:
        job = s.get_one(Job, job_id)
        cursor = results_page(s, job, ResultsQuery.model_validate({"sort": sort, "limit": 2})).next_cursor
        with pytest.raises(BadCursor):
            results_page(s, job, ResultsQuery.model_validate({"sort": other, "cursor": cursor}))


@pytest.mark.parametrize("sort", SORTS)
def test_pages_lead_back_as_they_led_on(job_id: str, sort: str) -> None:
    query = ResultsQuery.model_validate({"sort": sort, "limit": 2})
    pages, places = [], []
    with read_scope() as s:
        job = s.get_one(Job, job_id)
        cursor = None
        while not pages or cursor:
            asked = query.model_copy(update={"cursor": cursor})
            pages.append(results_page(s, job, asked))
            places.append(page_place(s, job, asked, pages[-1].items))
            cursor = pages[-1].next_cursor
        before = [
            results_page(s, job, query.model_copy(update={"cursor": place.previous_cursor})) for place in places[1:]
        ]
    assert [(place.first, place.total) for place in places] == [(first, 9) for first in (1, 3, 5, 7, 9)]
    assert [page.items for page in before] == [page.items for page in pages[:-1]]


@pytest.mark.slow
def test_series_are_found_by_name_and_paged(ann: User) -> None:
    made = submit(ann)
    worker = WorkerPart()
    worker.start()
    for number in range(PAGE_ROWS + 2):
        worker.read(1, series=f"patient {number}")
    worker.read(1, series="100%")
    worker.finish_reading()
    while worker.predict([0.9]):
        pass
    with read_scope() as s:
        job = s.get_one(Job, made)
        last = series_page(s, job, SeriesQuery(page=99))
        found = series_page(s, job, SeriesQuery(find="0%"))
        nothing = series_page(s, job, SeriesQuery(find="\0"))
        assert series_label(s, job, found.items[0].series_id) == "100%"
    assert (last.page, last.pages, last.first, last.total) == (2, 2, PAGE_ROWS + 1, PAGE_ROWS + 3)
    assert [row.label for row in last.items] == [f"patient {PAGE_ROWS}", f"patient {PAGE_ROWS + 1}", "100%"]
    assert [(row.label, row.slices, row.positive) for row in found.items] == [("100%", 1, 1)]
    assert (nothing.items, nothing.total, nothing.pages) == ([], 0, 1)


def test_rate_leaves_out_what_was_before_the_first_chunk(ann: User) -> None:
    made = submit(ann)
    worker = WorkerPart()
    worker.start()
    for _ in range(3):
        worker.read(3)
    while worker.predict():
        pass
    with session_scope() as s:
        s.get_one(Job, made).started_at = s.scalar(select(from_now(-300)))
        for chunk, ago in zip(s.scalars(select(Chunk).order_by(Chunk.id)), (30, 20, 10), strict=True):
            assert chunk.state == Work.DONE
            chunk.closed_at = s.scalar(select(from_now(-ago)))
    with read_scope() as s:
        view = job_view.job_view(s, s.get_one(Job, made))
    assert view.rate == pytest.approx(6 / 30, rel=0.2)
    assert view.started_at is not None
    assert timedelta(0) < view.created_at - view.started_at
