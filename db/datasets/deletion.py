"""The parts that the deletions of jobs and of datasets share: the refusal, and the files that they release."""

import math
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, literal, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.bulk import one_of
from db.clock import moment
from db.database import current
from db.models import ReleasedFile

ROWS = 1000  # the most rows that one transaction removes, not counting labels of slices
DAY_SECONDS = 24 * 3600.0


class NotDeletable(Exception):
    """The job or dataset cannot be deleted now. The message says why, and what to do.

    `code`: `job_open`, `dataset_building`, `run_open` or `evaluation_open`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def days_until_files_are_gone() -> int:
    """Return after about how many days the files of a deletion leave the disk, if nothing else uses them.

    The files go to the trash when they are older than `orphan_seconds`. They are deleted from the trash on the day
    after they were there for `trash_days`.
    """
    settings = current()
    return settings.trash_days + 1 + math.ceil((settings.orphan_seconds + settings.reap_every_seconds) / DAY_SECONDS)


def release_column(s: Session, file: InstrumentedAttribute[str | None], rows: ColumnElement[bool]) -> None:
    """Release the files that this column of these rows names. The rows are about to be removed."""
    released = select(file, literal(moment(s), ReleasedFile.released_at.type)).where(rows, file.is_not(None))
    s.execute(insert(ReleasedFile).from_select(["sha256", "released_at"], released.distinct()))


def release(s: Session, names: Sequence[str]) -> None:
    """Release these files. The rows that name them are about to lose the names."""
    now = moment(s)
    if values := [{"sha256": name, "released_at": now} for name in dict.fromkeys(names)]:
        s.execute(insert(ReleasedFile), values)


def released(s: Session, names: Sequence[str]) -> set[str]:
    """Return the files among `names` that a deletion released."""
    return set(s.scalars(select(ReleasedFile.sha256).where(one_of(s, ReleasedFile.sha256, names))))


def forget_released(s: Session, before: datetime) -> None:
    """Forget the files that were released before this time of the database's clock."""
    s.execute(delete(ReleasedFile).where(ReleasedFile.released_at < before))
