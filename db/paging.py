"""Keyset pages: some items, and a cursor for the next page."""

import base64
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field
from sqlalchemy import and_, func, select, true
from sqlalchemy.orm import Session

from db import MAX_INTEGER

T = TypeVar("T")
Cursor = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[A-Za-z0-9_-]+$")]


class BadCursor(ValueError):
    """The cursor was not made by this server."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor of the next page, or None on the last page.

    `first`: the number of the first item, from 1. `total`: the number of all items. `previous_cursor`: the cursor of
    the previous page, or None if the previous page is the first page. Lists that do not count their items leave these
    three out.
    """

    items: list[T]
    next_cursor: str | None
    first: int = 1
    total: int | None = None
    previous_cursor: str | None = None


def encode(*key: Any) -> str:
    """Return the cursor for a key of numbers and texts."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, *types: type) -> list[Any]:
    """Return the key in a cursor. Its parts must have these types. Raises BadCursor."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise BadCursor("not a cursor of this server") from None
    if not isinstance(key, list) or len(key) != len(types):
        raise BadCursor("not a cursor of this server")
    if not all(_fits(value, type_) for value, type_ in zip(key, types, strict=True)):
        raise BadCursor("not a cursor of this server")
    return key


def _fits(value: Any, type_: type) -> bool:
    """Return whether a part of a cursor has this type, and databases accept it (no NUL, 64 bits, no infinity)."""
    if type(value) is str:
        return type_ is str and "\0" not in value
    if type(value) is int:
        return type_ in (int, float) and abs(value) < 2**63
    return type(value) is float and type_ is float and math.isfinite(value)


def newest_first(s: Session, model: type[T], cursor: str | None, limit: int) -> Page[T]:
    """Return a page of a table, newest rows first. The ids must grow with time. Leave out deleted rows.

    Raises BadCursor.
    """
    table: Any = model
    is_kept = table.deleted_at.is_(None) if hasattr(table, "deleted_at") else true()
    query = select(table).where(is_kept).order_by(table.id.desc()).limit(limit + 1)
    total = s.scalar(select(func.count()).select_from(table).where(is_kept))
    if cursor is not None:
        (before,) = decode(cursor, int)
        if not 0 < before <= MAX_INTEGER:
            raise BadCursor("not a cursor of this server")
        query = query.where(table.id < before)
    rows = list(s.scalars(query))
    next_cursor = encode(rows[limit - 1].id) if len(rows) > limit else None
    if cursor is None or not rows:
        return Page(rows[:limit], next_cursor, total=total)
    newer = and_(table.id > rows[0].id, is_kept)
    first = 1 + (s.scalar(select(func.count()).where(newer)) or 0)
    start = s.scalar(select(table.id).where(newer).order_by(table.id).offset(limit).limit(1))
    return Page(rows[:limit], next_cursor, first, total, None if start is None else encode(start))
