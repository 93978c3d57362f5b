"""Files named by their SHA-256, in a folder or, through fsspec, in an object store such as S3."""

import ctypes
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from math import inf
from pathlib import Path
from threading import Lock
from typing import IO, Any, Self
from uuid import uuid4
from weakref import WeakSet

import fsspec

from db.background import run_with_heartbeat
from db.database import current
from db.settings import MIB

_libc = ctypes.CDLL(None, use_errno=True)
TRASH = "trash"
MARKER = "installation"
EVICT_SECONDS = 60.0
TRUSTED_SECONDS = 3600.0
TOUCH_SECONDS = 60.0
_ROOM_BYTES = 64 * MIB  # received between two looks at the free disk


class FileMissing(Exception):
    """Storage does not hold a file of this SHA-256: it was lost or removed."""


class FileDamaged(Exception):
    """The bytes of a file do not have the SHA-256 that is its name."""


@dataclass(frozen=True)
class StoredFile:
    """A file that was received whole and is safe on disk."""

    sha256: str
    size: int


class Receiver:
    """Receives the bytes of one file, hashes them, and publishes the file under its hash.

    `finish()` makes the bytes durable in a temporary file (`path`). `publish()` finishes it and gives it its name.
    `abort()`, or the end of a `with` block, removes a file that is not published. While this process receives bytes,
    none of its temporary files grows old: the first part of a slow submission waits for the last.
    """

    def __init__(self, storage: "Storage") -> None:
        self._storage = storage
        self.path = storage.incoming / uuid4().hex
        # Unbuffered: what cannot be written fails in write(), not when an abandoned file is closed on a full disk.
        self._file: IO[bytes] | None = self.path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._size = 0
        self._room = 0
        self._received: StoredFile | None = None
        self._is_published = False
        storage.watch(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, data: bytes) -> int:
        """Append bytes. Raises OSError (ENOSPC) when the disk is full but for its reserve."""
        if self._file is None:
            raise ValueError("the receiver is finished")
        if self._size >= self._room:
            check_disk()
            self._room = self._size + _ROOM_BYTES
        view = memoryview(data)
        while len(view):
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self._size += len(data)
        self._storage.keep_young()
        return len(data)

    def finish(self) -> StoredFile:
        """Make the bytes durable; the file is still temporary."""
        if self._received is None:
            if self._file is None:
                raise ValueError("the receiver was aborted")
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._received = StoredFile(self._hash.hexdigest(), self._size)
        return self._received

    def publish(self) -> StoredFile:
        """Give the finished file its name in storage. Raises FileMissing: the temporary file was removed meanwhile."""
        received = self.finish()
        if not self._is_published:
            try:
                self._storage.adopt(self.path, received.sha256)
            except FileNotFoundError as error:
                raise FileMissing("a received file was removed before it was kept; send it again") from error
            self._is_published = True
        return received

    def close(self) -> StoredFile:
        """Publish, as a writable file is closed."""
        return self.publish()

    def abort(self) -> None:
        """Remove the file unless it is published."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.path.unlink(missing_ok=True)


class Storage:
    """Files by SHA-256 in a folder (`url` a path or file://) or in any other fsspec store (`s3://bucket/prefix`).

    A remote store is read through `cache`, a folder of copies on this machine.
    """

    def __init__(self, url: str, cache: Path) -> None:
        # No cache of listings: another machine may store or remove a file at any time.
        self.fs, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self.folder = Path(self.root) if self.is_local else cache
        self.incoming = self.folder / "incoming"
        self.incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._evict_at = self._touch_at = 0.0
        self._receivers: WeakSet[Receiver] = WeakSet()
        self._lock = Lock()  # of the receivers

    def _place(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256[2:4] / sha256

    def _remote(self, sha256: str) -> str:
        return f"{self.root}/{sha256[:2]}/{sha256[2:4]}/{sha256}"

    def receive(self) -> Receiver:
        """Return a receiver for one new file."""
        return Receiver(self)

    def watch(self, receiver: Receiver) -> None:
        """Keep the receiver's temporary file young from now on, while it lives."""
        with self._lock:
            self._receivers.add(receiver)

    def keep_young(self) -> None:
        """Touch the temporary files of this process's receivers, once a minute: old ones are removed."""
        if time.monotonic() < self._touch_at:
            return
        with self._lock:
            self._touch_at = time.monotonic() + TOUCH_SECONDS
            paths = [receiver.path for receiver in self._receivers]
        for path in paths:
            with suppress(FileNotFoundError):  # published, or aborted
                os.utime(path)

    def adopt(self, path: Path, sha256: str) -> None:
        """Move a finished file of this machine into storage. The caller has computed its SHA-256."""
        if not self.is_local:
            self.fs.put_file(str(path), self._remote(sha256))  # before the copy has its name: that says it is there
        place = self._place(sha256)
        _make_folder(place.parent)
        path.replace(place)
        if self.is_local:
            _sync_folder(place.parent)
        else:
            self._evict()

    def put(self, data: bytes | memoryview, *, durable: bool = True) -> str:
        """Store bytes and return their SHA-256. A file that is there already is compared, and is young afterwards.

        `durable=False` skips the fsync of a local file: call `sync` before a row names it.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        place = self._place(sha256)
        if _renew(place, data) and (self.is_local or self._is_young_in_the_store(sha256, len(data))):
            return sha256
        temporary = self.incoming / uuid4().hex
        with temporary.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if durable or not self.is_local:
            self.adopt(temporary, sha256)
        else:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.replace(place)
        return sha256

    def sync(self) -> None:
        """Make durable what `put(durable=False)` stored: one call for many files costs far less than one for each."""
        if not self.is_local:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            if _libc.syncfs(descriptor) != 0:
                raise OSError(ctypes.get_errno(), "the storage cannot be synced")
        finally:
            os.close(descriptor)

    def _is_young_in_the_store(self, sha256: str, size: int) -> bool:
        """Return whether a remote file is there and the reaper will not look at it soon."""
        try:
            info = self.fs.info(self._remote(sha256))
        except FileNotFoundError:
            return False
        return bool(info["size"] == size and _stored_at(info) > time.time() - current().orphan_seconds / 2)

    def local_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return a path of the file on this machine. A remote file is fetched first; `alive` is called meanwhile.

        Raises FileMissing, OSError, FileDamaged (what was fetched is damaged), and what `alive` raises.
        """
        place = self._place(sha256)
        if place.exists():
            if not self.is_local:
                os.utime(place)  # it is young for the eviction
            return place
        if self.is_local:
            if not self.restore(sha256):
                raise FileMissing(sha256)
            return place
        temporary = self.incoming / uuid4().hex
        try:
            run_with_heartbeat(lambda: self._fetch(sha256, temporary), alive)
            _make_folder(place.parent)
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        self._evict()
        return place

    def _fetch(self, sha256: str, target: Path) -> None:
        try:
            self.fs.get_file(self._remote(sha256), str(target))
        except FileNotFoundError:
            if not self.restore(sha256):
                raise FileMissing(sha256) from None
            self.fs.get_file(self._remote(sha256), str(target))
        _check(target, sha256)

    def verified_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return the path as `local_path` does, after checking the hash. A damaged copy is fetched again.

        Raises FileDamaged, and what `local_path` raises.
        """
        path = self.local_path(sha256, alive)
        try:
            run_with_heartbeat(lambda: _check(path, sha256), alive)
        except FileDamaged:
            if self.is_local:
                raise
            path.unlink(missing_ok=True)
            return self.local_path(sha256, alive)
        return path

    def received_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return the path as `verified_path` does, but do not hash a file that came within the last hour.

        For files that may be very large: they were hashed when they came.
        """
        path = self.local_path(sha256, alive)
        is_young = path.stat().st_mtime > time.time() - TRUSTED_SECONDS
        return path if is_young else self.verified_path(sha256, alive)

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a small file. Raises what `verified_path` raises."""
        return self.verified_path(sha256).read_bytes()

    def exists(self, sha256: str) -> bool:
        """Return whether storage holds the file."""
        return self._place(sha256).exists() if self.is_local else bool(self.fs.exists(self._remote(sha256)))

    def check_writable(self) -> None:
        """Raise OSError unless storage can be written to and, if it is remote, answers."""
        probe = self.incoming / uuid4().hex
        try:
            probe.write_bytes(b"1")
            if not self.is_local:
                self.fs.exists(self.root)
        finally:
            probe.unlink(missing_ok=True)

    def names(self, since: float, until: float) -> Iterator[str]:
        """Yield the SHA-256 of every file that was stored in [since, until), in seconds since 1970."""
        for start in (f"{number:02x}" for number in range(256)):  # a part at a time: a bucket's listing is large
            for name, stored_at in self._listing(start):
                if since <= stored_at < until:
                    yield name

    def _listing(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield the name of each file in the subfolders of a folder, and when it was stored."""
        if self.is_local:
            for path, status in _files((self.folder / folder).glob("*/*")):
                yield path.name, status.st_mtime
            return
        for path, info in self.fs.find(f"{self.root}/{folder}", detail=True).items():
            yield path.rsplit("/", 1)[-1], _stored_at(info)

    def delete(self, sha256: str) -> None:
        """Remove a file for good, its copy here too."""
        self._place(sha256).unlink(missing_ok=True)
        if not self.is_local:
            with suppress(FileNotFoundError):
                self.fs.rm_file(self._remote(sha256))

    def trash(self, sha256: str, before: float = inf) -> bool:
        """Move a file that was stored before a time to today's trash, from where it comes back when it is read.

        Return False if it is younger by now, or gone: somebody put it again, or another sweeper was quicker.
        """
        place, target = self._remote(sha256), f"{self.root}/{TRASH}/{datetime.now(UTC).date()}/{sha256}"
        try:
            if _stored_at(self.fs.info(place)) >= before:
                return False
            self._move(place, target)
            # A folder keeps the time of a file that it moves, so this shows a `put` between the look and the move.
            if self.is_local and _stored_at(self.fs.info(target)) >= before:
                self._move(target, place)
                return False
        except FileNotFoundError:
            return False
        if not self.is_local:
            self._place(sha256).unlink(missing_ok=True)
        return True

    def trashed(self) -> Iterator[tuple[str, date]]:
        """Yield the SHA-256 of each file in the trash, and the day it was put there."""
        for path in self.fs.glob(f"{self.root}/{TRASH}/*/*"):
            day, sha256 = path.split("/")[-2:]
            yield sha256, date.fromisoformat(day)

    def restore(self, sha256: str) -> bool:
        """Take a file out of the trash; return False if it is not there."""
        for path in self.fs.glob(f"{self.root}/{TRASH}/*/{sha256}"):
            with suppress(FileNotFoundError):  # another process was quicker
                self._move(path, self._remote(sha256))
                return True
        return False

    def purge(self, sha256: str, day: date) -> None:
        """Delete a file that was put into the trash on a day."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{TRASH}/{day}/{sha256}")

    def owner(self) -> str | None:
        """Return the id of the installation that the storage is marked with, or None. Raises OSError."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{MARKER}")).decode()
        except FileNotFoundError:
            return None

    def mark(self, owner: str) -> None:
        """Mark the storage with the id of an installation."""
        self.fs.pipe_file(f"{self.root}/{MARKER}", owner.encode())

    def _move(self, source: str, target: str) -> None:
        self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.fs.mv(source, target)

    def _evict(self) -> None:
        """Remove the copies that were used longest ago while all of them take too much room; once a minute.

        Old temporary files go too: the sweeper sees only those of its own machine.
        """
        if time.monotonic() < self._evict_at:
            return
        self._evict_at = time.monotonic() + EVICT_SECONDS
        self.reap_incoming(current().orphan_seconds)
        copies = sorted((info.st_atime, info.st_size, path) for path, info in _files(self.folder.glob("??/??/*")))
        size = sum(bytes_ for _, bytes_, _ in copies)
        for _, bytes_, path in copies:
            if size <= current().cache_bytes:
                break
            path.unlink(missing_ok=True)
            size -= bytes_

    def reap_incoming(self, older_than_seconds: float) -> int:
        """Remove temporary files that their writers left behind; return how many."""
        limit = time.time() - older_than_seconds
        stale = [path for path, status in _files(self.incoming.iterdir()) if status.st_mtime < limit]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)


def _stored_at(info: dict[str, Any]) -> float:
    """Return when a file was stored, in seconds since 1970. Each kind of store names it otherwise."""
    time_ = info.get("mtime") or info.get("LastModified") or info["created"]
    return float(time_.timestamp() if isinstance(time_, datetime) else time_)


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each file with its status; another process may remove some meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.stat()


def _check(path: Path, sha256: str) -> None:
    """Raise FileDamaged unless the file has this SHA-256."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise FileDamaged(f"the file {sha256} holds other bytes: {actual}")


def _renew(path: Path, data: bytes | memoryview) -> bool:
    """Return whether a file holds these bytes; it is young afterwards, which keeps the reaper from moving it."""
    try:
        os.utime(path)
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_short_of_disk(wanted: int = 0) -> bool:
    """Return whether `wanted` bytes more would leave less than the reserve free, in storage or in the home.

    The reserve is for work that is claimed already, and for the database if it is a file in the home. Raises OSError.
    """
    settings = current()
    folders = [folder for folder in (storage().folder, settings.home) if folder.exists()]
    return min(shutil.disk_usage(folder).free for folder in folders) < settings.reserve_bytes + wanted


def check_disk(wanted: int = 0) -> None:
    """Raise OSError (ENOSPC) if there is no room for so many bytes more; see `is_short_of_disk`."""
    if is_short_of_disk(wanted):
        raise OSError(errno.ENOSPC, "the free disk has reached its reserve (CTBATCH_RESERVE_BYTES)")


@lru_cache(maxsize=4)
def _storage(url: str, cache: Path) -> Storage:
    return Storage(url, cache)


def storage() -> Storage:
    """Return the storage that the settings in use name."""
    settings = current()
    return _storage(settings.storage, settings.home / "cache")
