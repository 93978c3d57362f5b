"""Moves unused stored files to the trash, and empties the trash later. A file is unused if no row refers to it.

Deleting cannot be undone, so five rules protect the files:
1. Nothing is moved in a storage that is not marked as this database's. No file older than the database is moved.
2. A file stays in the trash for days. It is restored if a row begins to refer to it, or if it is read.
3. A round that finds many unused files leaves them, because the database may be the wrong one, or an old backup. Files
   of deleted jobs and datasets do not count, and are moved: the database itself says that they may be unused.
4. A file's age is checked again just before it is moved. The rows are checked again just after, because a row may refer
   to the file by then.
5. The columns that name files are marked in the models. A test fails for a column of hashes without a mark.
"""

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import JSON, Column, select
from sqlalchemy.orm import Session

from db.clock import moment
from db.database import current, read_scope, session_scope
from db.datasets import deletion
from db.installation import ARE_LEFT, claim_storage, this_installation
from db.models.base import FILE, Base
from db.storage import storage

log = logging.getLogger(__name__)

NAMES_A_QUERY = 500
STREAMED = {"yield_per": 1000}  # rows that are fetched at once
MANY, MANY_SHARE, FEW = 1000, 0.05, 100
"""A round leaves unused files if it finds more than MANY, or more than both FEW and MANY_SHARE of all files."""
_SHA256, _WHOLE = re.compile(r"\b[0-9a-f]{64}\b"), re.compile(r'"([0-9a-f]{64})"')


class TooManyOrphans(Exception):
    """So many files are unused that the database is probably the wrong one."""


@dataclass(frozen=True)
class Reaped:
    """How many files were moved to the trash, restored from it, and deleted."""

    trashed: int
    restored: int
    deleted: int


def reap(*, confirmed: bool = False) -> Reaped:
    """Carry out one round. `confirmed`: a person has checked, and any number of files may go to the trash.

    Raises:
        ForeignStorage: the storage may belong to another database.
        TooManyOrphans: too many files are unused, so only those of deleted jobs and datasets were moved.
    """
    with session_scope() as s:
        claim_storage(s)
        since = this_installation(s).created_at.timestamp()
        began = moment(s)
    age = current().orphan_seconds
    before = time.time() - age
    storage().incoming.remove_old(age)
    restored, deleted = _empty_trash((datetime.now(UTC) - timedelta(days=current().trash_days)).date())
    count = 0
    expected: list[str] = []  # files of deleted jobs and datasets
    unexpected: list[str] = []
    for names in _batches(storage().names(since, before)):
        count += len(names)
        unused = unnamed(names)
        released = _released(unused)
        expected += released
        unexpected += [sha256 for sha256 in unused if sha256 not in released]
    are_left = not confirmed and (len(unexpected) > MANY or len(unexpected) > max(FEW, MANY_SHARE * count))
    trashed = [
        sha256 for sha256 in (expected if are_left else [*expected, *unexpected]) if storage().trash(sha256, before)
    ]
    put_back = _restore_named(trashed)
    with session_scope() as s:
        deletion.forget_released(s, before=began - timedelta(seconds=2 * age))
        this_installation(s).unexpected_files = len(unexpected) if are_left else 0
    if are_left:
        raise TooManyOrphans(f"the database does not refer to {len(unexpected)} of {count} stored files. {ARE_LEFT}")
    return Reaped(len(trashed) - put_back, restored + put_back, deleted)


def purge() -> int:
    """Delete all files in the trash to which no row refers, however new. Return how many.

    Raises ForeignStorage: the storage may belong to another database.
    """
    with session_scope() as s:
        claim_storage(s)
    return _empty_trash(date.max)[1]


def restore_all() -> int:
    """Restore all files from the trash, and return how many."""
    names = [sha256 for sha256, _ in storage().trashed()]
    return sum(storage().restore(sha256) for sha256 in names)


def file_columns() -> list[Column[Any]]:
    """Return the columns that the models mark as naming files in storage."""
    tables = Base.metadata.tables.values()
    return [column for table in tables for column in table.columns if column.info == FILE]


def unnamed(names: Sequence[str]) -> list[str]:
    """Return the files of `names` that the database does not refer to."""
    with read_scope() as s:
        named = set(named_files(s, names))
    return [sha256 for sha256 in names if sha256 not in named]


def _released(names: Sequence[str]) -> set[str]:
    """Return the files among `names` that belonged to deleted jobs or datasets."""
    with read_scope() as s:
        return deletion.released(s, names)


def named_files(s: Session, names: Sequence[str] | None = None, *, exact: bool = False) -> Iterator[str]:
    """Yield the files that the database refers to. A file may come several times.

    `names`: leave out other files, except those that JSON columns name. `exact`: leave out hashes in longer texts of
    JSON, such as in the name of an archive. Otherwise they count too, which is safer if files may be removed.
    """
    pattern = _WHOLE if exact else _SHA256
    for column in file_columns():
        query = select(column).where(column.is_not(None))
        if isinstance(column.type, JSON):
            for value in s.scalars(query):
                yield from pattern.findall(json.dumps(value))
        else:
            yield from s.scalars(query if names is None else query.where(column.in_(names)), execution_options=STREAMED)


def _restore_named(trashed: Sequence[str]) -> int:
    """Restore the files that a row has begun to refer to during the round. Return how many."""
    count = 0
    for names in _batches(iter(trashed)):
        lost = set(unnamed(names))
        count += sum(storage().restore(sha256) for sha256 in names if sha256 not in lost)
    return count


def _empty_trash(until: date) -> tuple[int, int]:
    """Restore files that a row refers to by now. Delete files that were put there before a day. Count both."""
    days = defaultdict(list)  # a file may have come into the trash on several days
    for sha256, day in storage().trashed():
        days[sha256].append(day)
    restored = deleted = 0
    for names in _batches(iter(days)):
        lost = set(unnamed(names))
        restored += sum(storage().restore(sha256) for sha256 in names if sha256 not in lost)
        old = [(sha256, day) for sha256 in lost for day in days[sha256] if day < until]
        deleted += len(old)
        for sha256, day in old:
            storage().purge(sha256, day)
    return restored, deleted


def _batches(names: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(names, NAMES_A_QUERY)):
        yield batch
