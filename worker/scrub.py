"""Finds damaged files in storage. A thread of the sweeper does this slowly and all the time.

Otherwise a file would be checked only when it is used. That may be years later, when no backup has it any more. An
object store checks its files itself, so only a folder is checked here.
"""

import logging
import os
import threading

from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError

from db.bulk import one_of
from db.clock import from_now
from db.database import current, read_scope, session_scope
from db.models import DamagedFile, Installation
from db.storage import storage
from db.storage.reread import Reread, Rereader

log = logging.getLogger(__name__)

TURN_SECONDS = 10.0
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
    """Read about `size` bytes, and record which files are damaged. Raises OSError if the storage is unreachable."""
    found = reader.turn(size)
    with session_scope() as s:
        s.execute(delete(DamagedFile).where(one_of(s, DamagedFile.sha256, found.whole)))  # repaired since the last time
        known = set(s.scalars(select(DamagedFile.sha256)))
        s.add_all(DamagedFile(sha256=name) for name in found.damaged if name not in known)
        if not found.last:
            gone = [name for name in known if not storage().exists(name)]
            s.execute(delete(DamagedFile).where(one_of(s, DamagedFile.sha256, gone)))
            s.execute(update(Installation).values(reread_at=from_now()))
        s.execute(update(Installation).values(reread_to=found.last))
    for name in found.damaged:
        log.error("a stored file is damaged", extra={"sha256": name})
    return found


def _run(stop: threading.Event) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # of this thread only
    reader: Rereader | None = None
    while not stop.wait(TURN_SECONDS):
        try:
            reader = reader or begin()
            scrub(reader, int(current().reread_bytes_per_second * TURN_SECONDS))
        except (SQLAlchemyError, OSError) as error:  # database or storage is unreachable; go on from there later
            reader = None
            log.warning("no stored file is read again", extra={"error": type(error).__name__})
        except Exception:  # nobody would start this thread again
            reader = None
            log.exception("no stored file is read again")
