"""Receives a file: hashes its bytes, makes them durable, and then names the file by its hash."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self

from db.settings import MIB
from db.storage.errors import FileMissing
from db.storage.incoming import Incoming

_ROOM_BYTES = 64 * MIB  # bytes received between two checks of the free disk space


class Target(Protocol):
    """The part of `db.storage.store.Storage` that a receiver uses."""

    incoming: Incoming

    def check_disk(self, wanted: int = 0) -> None: ...
    def adopt(self, path: Path, sha256: str) -> None: ...


@dataclass(frozen=True)
class StoredFile:
    """A file that was received completely, and is safe on the disk."""

    sha256: str
    size: int


class Receiver:
    """Receives the bytes of one file, hashes them, and publishes the file under its hash.

    `finish()` makes the bytes durable in a temporary file (`path`). `publish()` finishes the file and names it by its
    hash. `abort()`, or the end of a `with` block, removes a file that is not published.

    Old temporary files are removed. So while this process receives bytes, it touches all its temporary files, because
    the first part of a slow submission has to wait for the last part.
    """

    def __init__(self, storage: Target) -> None:
        self._storage = storage
        self.path = storage.incoming.new_path()
        # Unbuffered, so that a full disk raises an error in write(), and not when an abandoned file is closed.
        self._file: IO[bytes] | None = self.path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0
        self._room = 0
        self._received: StoredFile | None = None
        self._is_published = False
        storage.incoming.watch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, data: bytes) -> int:
        """Append bytes. Raises OSError (ENOSPC) if the free disk space is down to the reserve."""
        if self._file is None:
            raise ValueError("the receiver is finished")
        if self._size >= self._room:
            self._storage.check_disk()
            self._room = self._size + _ROOM_BYTES
        view = memoryview(data)
        while len(view):
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self._size += len(data)
        self._storage.incoming.keep_young()
        return len(data)

    def finish(self) -> StoredFile:
        """Make the bytes durable. The file is still temporary."""
        if self._received is None:
            if self._file is None:
                raise ValueError("the receiver was aborted")
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._received = StoredFile(self._hash.hexdigest(), self._size)
        return self._received

    def publish(self) -> StoredFile:
        """Give the finished file its name in storage. Raises FileMissing if the temporary file is gone."""
        received = self.finish()
        if not self._is_published:
            try:
                self._storage.adopt(self.path, received.sha256)
            except FileNotFoundError as error:
                raise FileMissing("a received file was removed before it was kept; send it again") from error
            self._is_published = True
        return received

    def close(self) -> StoredFile:
        """Publish the file, so that callers can treat the receiver as a writable file."""
        return self.publish()

    def abort(self) -> None:
        """Remove the file unless it is published."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)
