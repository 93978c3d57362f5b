"""Finds the place of a slice or a page among the results of a job: its number, the total, and its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db.ledger.results import (
    ResultRow,
    ResultsQuery,
    cursor_after,
    filtered,
    joined_to_predictions,
    needs_predictions,
    order_of,
)
from db.models import Job, Slice, User


@dataclass(frozen=True)
class SlicePlace:
    """The number of a slice among the matching slices, from 1 (None if it does not match), and its neighbours."""

    number: int | None
    total: int
    previous_id: int | None
    next_id: int | None


@dataclass(frozen=True)
class PagePlace:
    """The number of a page's first slice (from 1), the number of all slices, and the cursor of the previous page.

    `previous_cursor` is None on the first page. It is also None on the second page, as the first page needs no cursor.
    """

    first: int
    total: int
    previous_cursor: str | None


def slice_place(s: Session, job: Job, slice_id: int, query: ResultsQuery, reader: User | None = None) -> SlicePlace:
    """Return the place of a slice in the order of a query. The page of the query does not matter.

    `reader`: as for `filtered`, here and below.
    """
    order, keys = order_of(query.sort), _keys_of(s, job, slice_id, query)
    before, after = (order.side(keys, after=after) for after in (False, True))
    itself = Slice.id == slice_id
    counts = (func.count(), func.count().filter(before), func.count().filter(itself))
    total, earlier, found = s.execute(_selected(job, query, reader, *counts)).one()
    ids = _selected(job, query, reader, Slice.id)
    previous = s.scalar(ids.where(before).order_by(*order.clauses(backwards=True)).limit(1))
    following = s.scalar(ids.where(after).order_by(*order.clauses()).limit(1))
    return SlicePlace(earlier + 1 if found else None, total, previous, following)


def count_results(s: Session, job: Job, query: ResultsQuery, reader: User | None = None) -> int:
    """Return how many slices match the filters of a query, on all pages."""
    return s.scalar(_selected(job, query, reader, func.count())) or 0


def page_place(
    s: Session, job: Job, query: ResultsQuery, rows: list[ResultRow], reader: User | None = None
) -> PagePlace:
    """Return the place of a page with these rows among all matching slices."""
    if query.cursor is None or not rows:
        return PagePlace(1, count_results(s, job, query, reader), None)
    order = order_of(query.sort)
    before = order.side(_keys_of(s, job, rows[0].slice_id, query), after=False)
    counts = (func.count(), func.count().filter(before))
    total, earlier = s.execute(_selected(job, query, reader, *counts)).one()
    back = _selected(job, query, reader, *order.keys).where(before).order_by(*order.clauses(backwards=True))
    start = s.execute(back.offset(query.limit).limit(1)).first()  # the previous page begins after this row
    return PagePlace(earlier + 1, total, None if start is None else cursor_after(query, start))


def _keys_of(s: Session, job: Job, slice_id: int, query: ResultsQuery) -> Sequence[Any]:
    return s.execute(_of_job(job, query, *order_of(query.sort).keys).where(Slice.id == slice_id)).one()


def _selected(job: Job, query: ResultsQuery, reader: User | None, *columns: Any) -> Select[Any]:
    return filtered(_of_job(job, query, *columns), query, reader)


def _of_job(job: Job, query: ResultsQuery, *columns: Any) -> Select[Any]:
    rows = select(*columns).select_from(Slice).where(Slice.job_id == job.id)
    return joined_to_predictions(rows, job) if needs_predictions(query) else rows
