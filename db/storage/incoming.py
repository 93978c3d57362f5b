"""The folder of temporary files of a storage. Receivers write there. Files that they leave behind are removed."""

import os
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Protocol
from uuid import uuid4
from weakref import WeakSet

from db.storage.files import each_file

TOUCH_SECONDS = 60.0


class Receiver(Protocol):
    """A `db.storage.receiver.Receiver`. `path`: its temporary file."""

    path: Path


class Incoming:
    """The temporary files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._touch_at = 0.0
        self._receivers: WeakSet[Receiver] = WeakSet()
        self._lock = Lock()  # of the receivers

    def new_path(self) -> Path:
        """Return the path of a temporary file that does not exist yet."""
        return self.folder / uuid4().hex

    def watch(self, receiver: Receiver) -> None:
        """Keep the temporary file of a receiver young from now on, as long as the receiver exists."""
        with self._lock:
            self._receivers.add(receiver)

    def keep_young(self) -> None:
        """Touch the temporary files of this process's receivers once a minute, because old ones are removed."""
        if time.monotonic() < self._touch_at:
            return
        with self._lock:
            self._touch_at = time.monotonic() + TOUCH_SECONDS
            paths = [receiver.path for receiver in self._receivers]
        for path in paths:
            with suppress(FileNotFoundError):  # published, or aborted
                os.utime(path)

    def remove_old(self, older_than_seconds: float) -> int:
        """Remove temporary files that their writers left behind. Return how many."""
        limit = time.time() - older_than_seconds
        stale = [path for path, status in each_file(self.folder.iterdir()) if status.st_mtime < limit]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)
