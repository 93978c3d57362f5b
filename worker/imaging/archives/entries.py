"""The limits of a submission, and the entries of an archive. All kinds of archives share these."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from db.settings import MIB, Settings
from worker.imaging.archives.region import Region
from worker.imaging.display_names import is_dicomdir, is_ignored
from worker.imaging.file_types import archive_kind
from worker.imaging.rejections import ArchiveRefused, SliceRejected

Content = bytes | SliceRejected
Progress = Callable[[], None]

READ_BYTES = 256 * 1024
"""Bytes that are unpacked between two reports of progress."""


def no_progress() -> None:
    """Do nothing. This is the default if nobody wants reports of progress."""


@dataclass(frozen=True)
class Limits:
    """The limits of one submission.

    `max_entries` counts every record of the archive, also folders. `max_ratio` is the number of all unpacked bytes
    divided by the size of the archive. Both also count archives inside the archive. `max_entry_bytes`: a larger file is
    rejected, but not the archive. `reserve_bytes` stay free on the disk when an archive inside the archive is unpacked.
    """

    max_entries: int = 200_000
    max_unpacked_bytes: int = 256 * 1024 * MIB
    max_ratio: int = 200
    max_entry_bytes: int = 640 * MIB
    reserve_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that the settings state."""
        return cls(
            settings.max_entries,
            settings.max_unpacked_bytes,
            settings.max_ratio,
            settings.max_entry_bytes,
            settings.reserve_bytes,
        )


@dataclass
class PassedOver:
    """Counts files that are passed over in a submission, so that the owner can be informed.

    `dicomdirs`: the files named DICOMDIR so far, in the archive and in archives inside it.
    """

    dicomdirs: int = 0


class NoRoom(OSError):
    """An archive inside the archive needs more disk space than is free above the reserve. Its errno is ENOSPC."""


class Allowance:
    """How much one reading of a submission may still unpack, including the archives inside the archive.

    `cap`: the most bytes that the submission may unpack to, by `limits`. `cap` is at least a megabyte. Otherwise an
    empty TAR of ten kilobytes, which packs to a hundred bytes, would exceed its cap. `unpacked`: bytes so far.
    """

    def __init__(self, limits: Limits, path: Path, passed_over: PassedOver | None = None) -> None:
        self.limits = limits
        self._passed_over = passed_over or PassedOver()
        self.cap = min(limits.max_unpacked_bytes, max(limits.max_ratio * path.stat().st_size, MIB))
        self.unpacked = 0
        self._entries = 0
        self._folder = path.parent

    @property
    def left(self) -> int:
        """The bytes that may still be unpacked."""
        return self.cap - self.unpacked

    def take(self, *, entries: int = 0, unpacked: int = 0) -> None:
        """Count records and unpacked bytes. Raises ArchiveRefused: `too_many_entries`, `too_large_unpacked`."""
        self._entries += entries
        self.unpacked += unpacked
        if self._entries > self.limits.max_entries:
            raise ArchiveRefused("too_many_entries", f"More than the {self.limits.max_entries} entries accepted.")
        if self.unpacked > self.cap:
            raise ArchiveRefused("too_large_unpacked", f"Unpacked it has more than the {self.cap} bytes accepted.")

    def passes_over(self, name: str) -> bool:
        """Return whether a file of this name is passed over, without a row. Count a DICOMDIR."""
        self._passed_over.dicomdirs += is_dicomdir(name)
        return is_ignored(name)

    def scratch(self, size: int) -> BinaryIO:
        """Return a nameless temporary file for `size` bytes, beside the submission. Raises NoRoom, OSError."""
        if shutil.disk_usage(self._folder).free < size + self.limits.reserve_bytes:
            raise NoRoom(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return tempfile.TemporaryFile(dir=self._folder)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive. Its bytes are unpacked only when `read()` or `open()` is called.

    `ordinal` counts the files that get a row, from 0 and in the archive's order. `name` can be shown and stored
    (`display_names.display_name`). `size` is in bytes, as the archive states it.

    `read()` returns the bytes, or the reason why the file is rejected. `open()` returns the bytes as a file, of any
    size. It raises SliceRejected or OSError. `open` is None unless the entry is in an archive. Call only one of the
    two, only once, and before the next entry is taken. Both raise ArchiveRefused if the archive is damaged.
    """

    ordinal: int
    name: str
    size: int
    read: Callable[[], Content] = field(repr=False, compare=False)
    open: Callable[[], Region] | None = field(default=None, repr=False, compare=False)


Entries = Iterator[Entry]


@dataclass(frozen=True)
class Inspection:
    """The contents of a checked archive. `kind`: zip, tar, tar.gz, tar.bz2, tar.xz or file.

    `entries`: how many files get a row, or None if only the beginning was read.
    """

    kind: str
    entries: int | None


def check_content(data: bytes) -> Content:
    """Return `data`, or a rejection if it is empty or itself an archive."""
    if not data:
        return SliceRejected("empty", "The file has no bytes.")
    if kind := archive_kind(data[:512]):
        return SliceRejected("nested", f"The file is itself packed ({kind}).")
    return data


def too_large(size: int, limits: Limits) -> SliceRejected:
    """Return the rejection of a file that is larger than `limits.max_entry_bytes`."""
    return SliceRejected("too_large_unpacked", f"{size} bytes; {limits.max_entry_bytes} are accepted a file.")
