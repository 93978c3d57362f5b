"""Finds damaged and missing files in storage. A thread of the sweeper does this slowly and all the time.

Otherwise a file would be checked only when it is used. That may be years later, when no backup has it any more. An
object store checks its files itself, so only a folder is checked here.
"""

import logging
import os
import threading

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from db.bulk import one_of
from db.clock import from_now
from db.database import current, read_scope, session_scope
from db.installation import ForeignStorage, check_storage
from db.models import DamagedFile, Installation
from db.storage import storage
from db.storage.reread import Reread, Rereader
from worker.reap import named_files, unnamed

log = logging.getLogger(__name__)

TURN_SECONDS = 10.0
MOST_RECORDED = 1000  # missing files; if a whole folder is lost, its names would fill the table
NICE = 19  # let all other processes go first


def start(stop: threading.Event) -> None:
    """Start the thread, if the settings want it and the storage is a folder. The thread ends with the process."""
    if storage().is_local and current().reread_bytes_per_second > 0:
        threading.Thread(target=_run, args=(stop,), name="scrub", daemon=True).start()


def begin() -> Rereader:
    """Return a reader that continues where the last reader stopped."""
    with read_scope() as s:
        return Rereader(storage().folder, s.scalars(select(Installation.reread_to)).one())


def scrub(reader: Rereader, size: int) -> Reread:
    """Read about `size` bytes, and record which files are damaged. At the end, also record which files are missing.

    Raises OSError: the storage is unreachable. Raises ForeignStorage: it is not that of the database, so missing files
    mean nothing.
    """
    found = reader.turn(size)
    with session_scope() as s:
        s.execute(delete(DamagedFile).where(one_of(s, DamagedFile.sha256, found.whole)))  # repaired since the last time
        known = set(s.scalars(select(DamagedFile.sha256)))
        s.add_all(DamagedFile(sha256=name) for name in found.damaged if name not in known)
        s.execute(update(Installation).values(reread_to=found.last))
    for name in found.damaged:
        log.error("a stored file is damaged", extra={"sha256": name})
    if not found.last:
        _record_missing()
    return found


def _record_missing() -> None:
    """Record which files the database refers to, but the storage does not hold. End the round."""
    with read_scope() as s:
        check_storage(s)
        missing = _find_missing(s)[:MOST_RECORDED]
    removed = set(unnamed(missing))  # from the database, since the search began
    missing = [name for name in missing if name not in removed and not storage().exists(name)]
    with session_scope() as s:
        known = set(s.scalars(select(DamagedFile.sha256)))
        unused = [name for name in known.difference(missing) if not storage().exists(name)]
        s.execute(delete(DamagedFile).where(one_of(s, DamagedFile.sha256, unused)))
        s.add_all(DamagedFile(sha256=name) for name in missing if name not in known)
        s.execute(update(Installation).values(reread_at=from_now()))
    if missing:
        log.error("stored files are missing", extra={"files": len(missing), "first": missing[0]})


def _find_missing(s: Session) -> list[str]:
    """Return the files that are named, but neither stored nor in the trash, from which reading would restore them."""
    missing = {name for name in named_files(s, exact=True) if not storage().exists(name)}
    return sorted(missing - {name for name, _ in storage().trashed()}) if missing else []


def _run(stop: threading.Event) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # of this thread only
    reader: Rereader | None = None
    while not stop.wait(TURN_SECONDS):
        try:
            reader = reader or begin()
            scrub(reader, int(current().reread_bytes_per_second * TURN_SECONDS))
        except (SQLAlchemyError, OSError, ForeignStorage) as error:  # not at hand; go on from there later
            reader = None
            log.warning("no stored file is read again", extra={"error": type(error).__name__})
        except Exception:  # nobody would start this thread again
            reader = None
            log.exception("no stored file is read again")
