"""Carries out claimed work. Ingest, prediction, datasets, training and evaluation follow one policy:

* A heartbeat keeps the lease while the work makes progress.
* If the lease was lost and somebody else has the work (`StaleClaim`), this is logged, and nothing is recorded.
* While the database is unreachable, the worker keeps its results, and tries to record them until the database is back
  (`patiently`). Then the lease is renewed.
* If storage, decoders or memory are not available, the work is put off and tried again later. This does not count as an
  attempt. Each delay is logged as an error, and counted in the metric `ctbatch_put_offs`.
* If storage is available, but a block of a file cannot be read, the work is put off too. This counts as an attempt,
  because the block may be bad for good. After the last attempt, the work fails. For an upload, the same holds if its
  file is missing or damaged, because some object stores deny for a moment that they have a file.
* If the database ended a statement that took too long, the work is put off. For uploads and chunks, this counts as an
  attempt.
* While less disk space is free than the reserve, no work is claimed. The reserve is for work that is claimed already.
* If a person stops the worker, long work (`is_given_back`) goes back to the queue at once. This does not count as an
  attempt. Chunks are short, and uploads record their results often. So both go on until they end or are killed.
* Any other error ends the work. `fail` records the reason for people. If `fail` itself raises an error, the error goes
  to Celery's log, and the lease runs out.
* Progress is noted once a second. If the database is unreachable, only this note is lost.
"""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from db.database import is_away, is_too_slow, read_scope, session_scope
from db.installation import is_storage_at_hand
from db.ledger import leases
from db.ledger.leases import Claim, StaleClaim
from db.models import LeaseMixin
from db.reasons import REASONS
from db.storage import FileDamaged, FileMissing, FileUnreadable, storage
from worker.heartbeat import Heartbeat, WorkerStops, stop_request
from worker.imaging.archives.region import BlockUnreadable
from worker.imaging.rejections import DecoderUnavailable

log = logging.getLogger(__name__)

DATA_AWAY = (OSError, OperationalError)  # without MemoryError: for work that would run out of memory again
AWAY = (*DATA_AWAY, DecoderUnavailable, MemoryError)
UNREADABLE = (FileUnreadable, BlockUnreadable)
WAIT_SECONDS = 2.0  # pause between two checks whether the database is back
NOTE_SECONDS = 1.0  # pause between two notes of the progress

T = TypeVar("T")
Fail = Callable[[Exception], None]
PutOff = Callable[[Exception, bool], None]
"""Puts off the work because of an error. The flag says whether this counts as an attempt."""


def may_claim() -> bool:
    """Return whether this process may claim more work: it need not stop, and enough disk space is free.

    If the disk is short of space, log it. Raises OSError.
    """
    if stop_request.is_set():
        return False
    if storage().is_short_of_disk():
        log.error("nothing is claimed: the free disk has reached its reserve (CTBATCH_RESERVE_BYTES)")
        return False
    return True


def carry_out(
    model: type[LeaseMixin],
    claims: Sequence[Claim],
    work: Callable[[Heartbeat], None],
    *,
    fail: Fail,
    put_off: PutOff,
    away: tuple[type[Exception], ...] = AWAY,
    own_faults: tuple[type[Exception], ...] = UNREADABLE,
    tries: int = 0,
    is_given_back: bool = False,
) -> None:
    """Do claimed work by the policy above.

    `away`: the errors that put off the work. Any other error is passed to `fail`. `own_faults`: the errors that only
    the files of this work cause if the storage is available. After an own fault, the work is put off until it has had
    `tries` attempts. `is_given_back`: give the work back if the worker is asked to stop.
    """
    rows = {"kind": model.__name__, "ids": [claim.id for claim in claims]}

    def put_off_or_fail(error: Exception) -> None:
        is_at_hand = is_storage_at_hand()
        if is_at_hand and _attempts(model, claims) >= tries:
            fail(error)
        else:
            log.error("work put off", extra=rows | _kind_of(error))
            put_off(error, is_at_hand)

    with Heartbeat(model, claims, is_given_back=is_given_back) as heartbeat:
        try:
            try:
                work(heartbeat)
            except (StaleClaim, WorkerStops):
                raise
            except own_faults as error:
                patiently(heartbeat, partial(put_off_or_fail, error))
            except away as error:
                log.error("work put off", extra=rows | _kind_of(error))  # noqa: TRY400  the error text can hold a name
                patiently(heartbeat, partial(put_off, error, False))
            except (FileMissing, FileDamaged) as error:
                if OSError in away and not is_storage_at_hand():
                    log.error("work put off: storage is not available", extra=rows)  # noqa: TRY400  a traceback could name a file
                    why = OSError("the storage is not available: it lacks the marker file of this database")
                    patiently(heartbeat, partial(put_off, why, False))
                else:
                    patiently(heartbeat, partial(fail, error))
            except Exception as error:
                patiently(heartbeat, partial(fail, error))
        except StaleClaim:
            log.info("work is someone else's now", extra=rows)
        except WorkerStops:
            log.info("the worker stops, work given back", extra=rows)
            _give_back(model, claims)


def _attempts(model: type[LeaseMixin], claims: Sequence[Claim]) -> int:
    """Return the most attempts that one of the rows has had since its last progress."""
    table: Any = model
    with read_scope() as s:
        return s.scalar(select(func.max(table.attempts)).where(table.id.in_([claim.id for claim in claims]))) or 0


def patiently(heartbeat: Heartbeat, act: Callable[[], T]) -> T:
    """Call `act` and return its result. While the database is unreachable, wait and call it again.

    `act` runs one transaction, or several transactions that can be repeated. Raises StaleClaim, WorkerStops, and what
    `act` raises.
    """
    while True:
        try:
            return act()
        except OperationalError as error:
            if not is_away(error):
                raise
            log.warning("waiting for the database", extra={"error": type(error.orig).__name__})
        heartbeat.progress()
        time.sleep(WAIT_SECONDS)


def _kind_of(error: Exception) -> dict[str, object]:
    """Return what the log may state about an error. The error's text is included only if it cannot contain a name."""
    facts: dict[str, object] = {"error": type(error).__name__}
    if isinstance(error, OperationalError):
        facts["error"] = type(error.orig).__name__
        if is_too_slow(error):
            facts["reason"] = "database_slow"
    elif isinstance(error, OSError):
        facts["errno"] = error.errno
        if error.errno == errno.EREMOTEIO:
            facts["reason"] = error.strerror
    elif isinstance(error, DecoderUnavailable):
        facts["reason"] = str(error)
    return facts


def _give_back(model: type[LeaseMixin], claims: Sequence[Claim]) -> None:
    table: Any = model
    for claim in claims:
        with suppress(StaleClaim), session_scope() as s:
            leases.give_back(s, model, claim, attempts=table.attempts - 1)


def reason_of(error: Exception) -> str:
    """Return why work was put off, in one line for people."""
    if is_too_slow(error):
        text = REASONS["database_slow"]
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = str(error.orig if isinstance(error, OperationalError) else error)
    return (text.strip() or type(error).__name__).splitlines()[0]


class ProgressNotes:
    """Notes the progress of some work, at most once a second."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._noted_at = 0.0

    def alive(self, write: Callable[[], None]) -> None:
        """Report progress to the heartbeat, and call `write` if a note is due. Raises StaleClaim, WorkerStops."""
        self._heartbeat.progress()
        if time.monotonic() - self._noted_at >= NOTE_SECONDS:
            self.now(write)

    def now(self, write: Callable[[], None]) -> None:
        """Call `write`, which notes the progress in the database. If the database is unreachable, only log that."""
        self._noted_at = time.monotonic()
        try:
            write()
        except OperationalError as error:
            log.warning("progress not noted", extra={"error": type(error).__name__})
