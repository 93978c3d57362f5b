"""The limits of a submission and an entry of an archive, common to all kinds of archives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from db.settings import MIB, Settings
from worker.imaging.file_types import archive_kind
from worker.imaging.rejections import SliceRejected

Content = bytes | SliceRejected
Progress = Callable[[], None]


def no_progress() -> None:
    """Report to nobody that reading goes on."""


@dataclass(frozen=True)
class Limits:
    """The limits of one submission.

    `max_entries` counts every record of the archive, folders too. `max_ratio` is bytes unpacked over bytes of the
    archive, as a whole. `max_entry_bytes` is for one file: a larger one is rejected alone.
    """

    max_entries: int = 200_000
    max_unpacked_bytes: int = 256 * 1024 * MIB
    max_ratio: int = 200
    max_entry_bytes: int = 256 * MIB

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that the settings state."""
        return cls(settings.max_entries, settings.max_unpacked_bytes, settings.max_ratio, settings.max_entry_bytes)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive, whose bytes are unpacked only by `read()`.

    `ordinal` counts from 0 over the files that get a row, in the archive's order. `name` can be shown and stored
    (`display_names.display_name`). `size` is in bytes, as the archive states it.

    `read()` returns the bytes, or the reason why the file is rejected. It works once, and only until the next entry is
    asked for. Raises ArchiveRefused if the archive itself is damaged there.
    """

    ordinal: int
    name: str
    size: int
    read: Callable[[], Content] = field(repr=False, compare=False)


Entries = Iterator[Entry]


@dataclass(frozen=True)
class Inspection:
    """The contents of a checked archive. `kind`: zip, tar, tar.gz, tar.bz2, tar.xz or file; `entries`: files that get a
    row; `unpacked_bytes`: their sizes and those of passed-over files. Both are None if only the beginning was read."""

    kind: str
    entries: int | None
    unpacked_bytes: int | None


def check_content(data: bytes) -> Content:
    """Return `data`, or the rejection of an empty file or of an archive in the archive."""
    if not data:
        return SliceRejected("empty", "The file has no bytes.")
    if kind := archive_kind(data[:512]):
        return SliceRejected("nested", f"The file is itself packed ({kind}).")
    return data


def too_large(size: int, limits: Limits) -> SliceRejected:
    """Return the rejection of one file above `limits.max_entry_bytes`."""
    return SliceRejected("too_large_unpacked", f"{size} bytes; {limits.max_entry_bytes} are accepted a file.")
