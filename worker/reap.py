"""Removes stored files that no row names, a day after they were stored."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import JSON, Column, select
from sqlalchemy.orm import Session

from db.database import current, read_scope
from db.models.base import FILE, Base
from db.storage import storage

NAMES_A_QUERY = 500
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")


def reap() -> int:
    """Delete files that are old and that no row names, and return how many."""
    age = current().orphan_seconds
    reaped = storage().reap_incoming(age)
    batch: list[str] = []
    for name in storage().names(age):
        batch.append(name)
        if len(batch) == NAMES_A_QUERY:
            reaped += reap_unnamed(batch)
            batch = []
    return reaped + reap_unnamed(batch)


def file_columns() -> list[Column[Any]]:
    """Return the columns that the models mark as naming files in storage."""
    tables = Base.metadata.tables.values()
    return [column for table in tables for column in table.columns if column.info == FILE]


def reap_unnamed(names: list[str]) -> int:
    """Delete the files of `names` that no row names, and return how many."""
    with read_scope() as s:
        named = set(_named(s, names))
    orphans = [name for name in names if name not in named]
    for name in orphans:
        storage().delete(name)
    return len(orphans)


def _named(s: Session, names: Sequence[str]) -> Iterator[str]:
    """Yield the files of `names` that a row names, and all files that JSON columns name: few rows have any."""
    for column in file_columns():
        if isinstance(column.type, JSON):
            for value in s.scalars(select(column)):
                yield from _SHA256.findall(json.dumps(value))
        else:
            yield from s.scalars(select(column).where(column.in_(names)))
