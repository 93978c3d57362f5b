"""Works on single files and folders of a storage: their age, their hash, and making them durable."""

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from db.storage.errors import FileDamaged, FileUnreadable

_libc = ctypes.CDLL(None, use_errno=True)


def stored_at(info: dict[str, Any]) -> float:
    """Return when a file was stored, in seconds since 1970. Kinds of stores differ in the name of this time."""
    time_ = info.get("mtime") or info.get("LastModified") or info["created"]
    return float(time_.timestamp() if isinstance(time_, datetime) else time_)


def each_file(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each file with its status. Skip files that another process removes meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path, path.stat()


def make_room(copies: Iterable[Path], most: int, *, unused_since: float) -> None:
    """Remove the least recently used copies while all copies take more than `most` bytes.

    Copies that were used after `unused_since`, in seconds since 1970, stay.
    """
    by_use = sorted((status.st_atime, status.st_size, path) for path, status in each_file(copies))
    size = sum(bytes_ for _, bytes_, _ in by_use)
    for used_at, bytes_, path in by_use:
        if size <= most or used_at > unused_since:
            break
        path.unlink(missing_ok=True)
        size -= bytes_


def check_hash(path: Path, sha256: str) -> None:
    """Raise FileDamaged unless the file has this SHA-256.

    Raises FileUnreadable if the disk cannot read a block of the file, and OSError for other faults.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        if error.errno == errno.EIO:
            raise FileUnreadable(f"the file {sha256} cannot be read") from error
        raise
    if actual != sha256:
        raise FileDamaged(f"the file {sha256} holds other bytes: {actual}")


def renew(path: Path, data: bytes | memoryview) -> bool:
    """Set a file's time to now, so that the reaper does not move it. Return whether the file has these bytes.

    Return False too if the disk cannot read a block of the file. Raises OSError for other faults.
    """
    try:
        os.utime(path)
        return path.read_bytes() == data
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EIO):
            return False
        raise


def write_file(path: Path, data: bytes | memoryview, *, durable: bool) -> None:
    """Write a new file. `durable`: make sure that it is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_if_free(source: Path, target: Path) -> bool:
    """Move a file, unless `target` exists. In that case, delete `source` and return False. Raises OSError."""
    try:
        os.link(source, target)  # fails if the target exists, even if it was made at this moment
    except FileNotFoundError:
        raise
    except OSError as error:
        if not isinstance(error, FileExistsError) and not target.exists():
            source.replace(target)  # a file system without hard links
            return True
        source.unlink(missing_ok=True)
        return False
    source.unlink(missing_ok=True)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_everything(folder: Path) -> None:
    """Make all files durable on the disk of a folder. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "the storage cannot be synced")
    finally:
        os.close(descriptor)
