"""The storage itself. It is a folder, or an object store whose files are copied into a folder of this machine."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from db.background import run_with_heartbeat, wait_for_storage
from db.database import current
from db.storage.errors import FileDamaged, FileMissing, RaisingOSError
from db.storage.files import (
    check_hash,
    make_folder,
    make_room,
    renew,
    stored_at,
    sync_everything,
    sync_folder,
    write_file,
)
from db.storage.incoming import Incoming
from db.storage.receiver import Receiver
from db.storage.remote import open_fs
from db.storage.removal import Removal

MARKER = "installation"
PROBE = "probe"  # a file that is written to check that the store accepts files
EVICT_SECONDS = 60.0
IN_USE_SECONDS = 3600.0  # how long a worker may read a copy after it was used last
TRUSTED_SECONDS = 3600.0
MOST_VERIFIED = 10_000  # the most files that a process remembers as hashed


class Storage(Removal):
    """Files by SHA-256, in a folder (`url` is a path or file://) or in another fsspec store (`s3://bucket/prefix`).

    Files of a remote store are read from `cache`, a folder of copies on this machine.
    """

    def __init__(self, url: str, cache: Path) -> None:
        fs, self.root = open_fs(url)
        self.fs = RaisingOSError(fs)
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self.folder = Path(self.root) if self.is_local else cache
        self.incoming = Incoming(self.folder / "incoming")
        self._evict_at = 0.0
        self._verified: dict[str, int] = {}  # times in ns of the files that this process has hashed

    def receive(self) -> Receiver:
        """Return a receiver for one new file."""
        return Receiver(self)

    def adopt(self, path: Path, sha256: str) -> None:
        """Move a finished file of this machine into storage. The caller has computed its SHA-256.

        If the store is remote, the file stays here as a copy, unless the cache has no size (`cache_bytes`).
        """
        place = self._place(sha256)
        if not self.is_local:
            # The store comes first, because a copy with its final name means that the store has the file.
            self.fs.put_file(str(path), self._remote(sha256))
        if self.is_local or current().cache_bytes:
            _move_into_place(path, place)
        else:
            path.unlink(missing_ok=True)
        if self.is_local:
            sync_folder(place.parent)
        else:
            self._evict()

    def put(self, data: bytes | memoryview, *, durable: bool = True, alive: Callable[[], None] = lambda: None) -> str:
        """Store bytes, and return their SHA-256. If the file exists already, compare it, and set its time to now.

        `durable=False` skips the fsync of a local file. Then call `sync` before a row refers to the file. `alive` is
        called while this process waits for a remote store. It is not called for a folder, because a thread for each
        small file would take half as long as storing the file. Raises OSError, and what `alive` raises.
        """
        if self.is_local:
            return self._put(data, durable=durable)
        return wait_for_storage(lambda: self._put(data, durable=durable), alive)

    def _put(self, data: bytes | memoryview, *, durable: bool) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        place = self._place(sha256)
        if renew(place, data) and (self.is_local or self._is_young_in_the_store(sha256, len(data))):
            return sha256
        temporary = self.incoming.new_path()
        try:
            write_file(temporary, data, durable=durable)
            if durable or not self.is_local:
                self.adopt(temporary, sha256)
            else:
                _rename(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
        return sha256

    def sync(self) -> None:
        """Make the files of `put(durable=False)` durable. One call for many files is much quicker than many calls."""
        if self.is_local:
            sync_everything(self.folder)

    def _is_young_in_the_store(self, sha256: str, size: int) -> bool:
        """Return whether a remote file exists, and is so young that the reaper will not move it soon."""
        try:
            info = self.fs.info(self._remote(sha256))
        except FileNotFoundError:
            return False
        return bool(info["size"] == size and stored_at(info) > time.time() - current().orphan_seconds / 2)

    def local_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return the path of the file on this machine. Fetch a remote file first, and call `alive` meanwhile.

        Work looks for its file here before it reads it. So this is where it usually notices that storage hangs.

        Raises FileMissing, OSError, FileDamaged (the fetched bytes are damaged), and what `alive` raises.
        """
        place = self._place(sha256)
        if wait_for_storage(place.exists, alive):
            if self.is_local:
                return place
            with suppress(FileNotFoundError):  # evicted just now, so it is fetched again
                os.utime(place)  # marks the copy as used now, so that it is not evicted
                return place
        if self.is_local:
            if not self.restore(sha256) and not place.exists():  # another reader may have restored it
                raise FileMissing(sha256)
            return place
        temporary = self.incoming.new_path()
        try:
            run_with_heartbeat(lambda: self._fetch(sha256, temporary), alive)
            os.utime(temporary)  # fetching may have taken long
            _move_into_place(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
        self._evict()
        return place

    def verified_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return the path as `local_path` does, after checking the hash. A damaged copy is fetched again.

        Raises FileDamaged, and what `local_path` raises.
        """
        path = self.local_path(sha256, alive)
        try:
            wait_for_storage(lambda: check_hash(path, sha256), alive, size=path.stat().st_size)
        except FileDamaged:
            if self.is_local:
                raise
            path.unlink(missing_ok=True)
            return self.local_path(sha256, alive)
        return path

    def received_path(self, sha256: str, alive: Callable[[], None] = lambda: None) -> Path:
        """Return the path as `verified_path` does, but do not hash a file that was stored within the last hour.

        This is for files that may be very large. They were hashed when they were received. This process hashes an older
        file once, and again if the file changes.
        """
        path = self.local_path(sha256, alive)
        written = path.stat().st_mtime_ns
        if written > (time.time() - TRUSTED_SECONDS) * 1e9 or self._verified.get(sha256) == written:
            return path
        path = self.verified_path(sha256, alive)
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.clear()
        self._verified[sha256] = path.stat().st_mtime_ns
        return path

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a small file. Raises what `verified_path` raises."""
        return self.verified_path(sha256).read_bytes()

    def exists(self, sha256: str) -> bool:
        """Return whether storage holds the file."""
        return self._place(sha256).exists() if self.is_local else bool(self.fs.exists(self._remote(sha256)))

    def is_short_of_disk(self, wanted: int = 0) -> bool:
        """Return whether `wanted` more bytes would leave less than the reserve free, in this folder or in the home.

        The reserve is for work that is claimed already, and for a database in the home. Raises OSError.
        """
        if not self._lacks_room(wanted):
            return False
        if not self.is_local:
            self._evict()  # while the disk is full, nothing is fetched, so nothing else makes room
        return True

    def _lacks_room(self, wanted: int = 0) -> bool:
        settings = current()
        folders = [folder for folder in (self.folder, settings.home) if folder.exists()]
        return min(shutil.disk_usage(folder).free for folder in folders) < settings.reserve_bytes + wanted

    def check_disk(self, wanted: int = 0) -> None:
        """Raise OSError (ENOSPC) if `wanted` more bytes do not fit, as in `is_short_of_disk`."""
        if self.is_short_of_disk(wanted):
            raise OSError(errno.ENOSPC, "the free disk has reached its reserve (CTBATCH_RESERVE_BYTES)")

    def check_writable(self) -> None:
        """Raise OSError unless files can be written to this machine, and to the store if it is remote."""
        probe = self.incoming.new_path()
        try:
            probe.write_bytes(b"1")
            if not self.is_local:
                self.fs.pipe_file(f"{self.root}/{PROBE}", b"1")
        finally:
            probe.unlink(missing_ok=True)

    def owner(self) -> str | None:
        """Return the id of the installation in the storage's mark, or None. Raises OSError."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{MARKER}")).decode()
        except FileNotFoundError:
            return None

    def mark(self, owner: str) -> None:
        """Mark the storage with the id of an installation."""
        self.fs.pipe_file(f"{self.root}/{MARKER}", owner.encode())

    def _evict(self) -> None:
        """Remove the least recently used copies while all copies take too much room, at most once a minute.

        Copies that were used in the last hour stay, because an upload may be larger than the cache. On a full disk,
        only copies of the last minute stay. Also remove old temporary files, because the sweeper sees only the
        temporary files of its own machine.
        """
        if time.monotonic() < self._evict_at:
            return
        self._evict_at = time.monotonic() + EVICT_SECONDS
        self.incoming.remove_old(current().orphan_seconds)
        in_use = EVICT_SECONDS if self._lacks_room() else IN_USE_SECONDS
        make_room(self.folder.glob("??/*"), current().cache_bytes, unused_since=time.time() - in_use)


def _move_into_place(source: Path, target: Path) -> None:
    """Give a file its final name. Make its folder durable if this is its first file."""
    make_folder(target.parent)
    source.replace(target)


def _rename(source: Path, target: Path) -> None:
    """Give a file its final name. Make the folder if this is its first file. Nothing is made durable."""
    try:
        source.replace(target)
    except FileNotFoundError:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source.replace(target)
