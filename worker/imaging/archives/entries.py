"""What all kinds of archives have in common: the limits, and an entry."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from worker.imaging.file_types import archive_kind
from worker.imaging.rejections import SliceRejected

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What one submission may hold.

    `max_entries` counts every record of the archive, folders too. `max_ratio` is bytes unpacked over bytes of the
    archive, as a whole. `max_entry_bytes` is for one file: a larger one is rejected alone.
    """

    max_entries: int = 200_000
    max_unpacked_bytes: int = 256 * 1024 * MIB
    max_ratio: int = 200
    max_entry_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive. `ordinal` counts from 0 over the files that get a row, in the archive's order; `name` is
    a label (see `display_names.label`); `size` is in bytes, as the archive states it."""

    ordinal: int
    name: str
    size: int


@dataclass(frozen=True)
class Inspection:
    """What a checked archive holds. `kind`: zip, tar, tar.gz, tar.bz2, tar.xz or file; `entries`: files that get a
    row; `unpacked_bytes`: their sizes and those of passed-over files."""

    kind: str
    entries: int
    unpacked_bytes: int


Skip = Callable[[int], bool]
Content = bytes | SliceRejected
Entries = Iterator[tuple[Entry, Content]]


def check_content(data: bytes) -> Content:
    """`data`, or the rejection of an empty file and of an archive in the archive."""
    if not data:
        return SliceRejected("empty", "The file has no bytes.")
    if kind := archive_kind(data[:512]):
        return SliceRejected("nested", f"The file is itself packed ({kind}).")
    return data


def too_large(size: int, limits: Limits) -> SliceRejected:
    """The rejection of one file above `limits.max_entry_bytes`."""
    return SliceRejected("too_large_unpacked", f"{size} bytes; {limits.max_entry_bytes} are accepted a file.")
