"""A submitted file, archive or loose image → its entries, streamed; nothing is ever written, and no name is a path."""

import os
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

from db.settings import MIB
from worker.imaging.archives.compressed import READ_BYTES, PackedSource, PlainSource, Source
from worker.imaging.archives.entries import (
    Content,
    Entries,
    Entry,
    Inspection,
    Limits,
    Progress,
    check_content,
    no_progress,
    too_large,
)
from worker.imaging.archives.tar import TarReader, inspect_tar
from worker.imaging.archives.zip import read_zip
from worker.imaging.archives.zip_directory import inspect_zip
from worker.imaging.display_names import display_name, is_ignored
from worker.imaging.file_types import HEAD, archive_kind, is_tar
from worker.imaging.rejections import ArchiveRefused

__all__ = ["Content", "Entries", "Entry", "Inspection", "Limits", "inspect_archive", "read_entries", "unpack_tar"]

_PACKED = ("gz", "bz2", "xz")
_PART = 1024 * 1024
LOOKED_BYTES = 16 * MIB
"""How much of a packed TAR is unpacked for a look at its beginning: half a second of bzip2."""


class _LookedEnough(Exception):
    """As much of a packed TAR was unpacked as a look at its beginning may take."""


def inspect_archive(path: Path, filename: str, limits: Limits, *, whole: bool = True) -> Inspection:
    """Check a submission before anything of it is queued.

    The bytes decide the kind; `filename` is only a name to show. A ZIP costs its directory and a TAR its headers. A
    packed TAR is unpacked once (gzip about 300 MB a second, xz 100, bzip2 30), because only its end shows whether it
    is whole. Unless `whole`, only its first 16 MiB are unpacked: if it is longer, the number of its entries stays
    unknown, and `read_entries` finds what is wrong with the rest. A loose file is never refused: what is wrong with it
    is for its row. Memory does not grow with the entries, except by 16 bytes each in a ZIP.

    Raises ArchiveRefused. What passes may still hold single files that `read_entries` rejects.
    """
    with path.open("rb") as file:
        kind, size = _kind(file), os.fstat(file.fileno()).st_size
        if kind == "zip":
            return inspect_zip(file, limits)[0]
        if kind is not None:
            return _inspect_tar(file, kind, limits, size, whole=whole)
        return Inspection("file", 0 if is_ignored(filename) else 1, size)


def _inspect_tar(file: BinaryIO, kind: str, limits: Limits, size: int, *, whole: bool) -> Inspection:
    if kind not in _PACKED:
        return inspect_tar(_source(file, kind, limits), limits, size, kind)
    parts = count(1)

    def look() -> None:
        if next(parts) * READ_BYTES > LOOKED_BYTES:
            raise _LookedEnough

    try:
        source = _source(file, kind, limits, no_progress if whole else look)
        return inspect_tar(source, limits, size, f"tar.{kind}")
    except _LookedEnough:
        return Inspection(f"tar.{kind}", None, None)


def read_entries(path: Path, filename: str, limits: Limits, progress: Progress = no_progress) -> Entries:
    """Yield every file of a submission in the archive's order. Its bytes are unpacked when its `read()` is called.

    An entry of a ZIP that is not read is not touched. A packed TAR is unpacked from front to back, but an entry that
    is not read is not kept. Ordinals count from 0 and are the same at every reading. Folders, `__MACOSX`, `.DS_Store`,
    `Thumbs.db`, `DICOMDIR` and `._name` twins are passed over, without an ordinal. A loose file is the one entry,
    named `filename`.

    `progress` is called while a packed TAR is unpacked, every quarter of a megabyte, and what it raises is raised.

    Raises ArchiveRefused: of a ZIP before the first entry, of a TAR where the damage is met.
    """
    with path.open("rb") as file:
        kind, size = _kind(file), os.fstat(file.fileno()).st_size
        if kind == "zip":
            yield from read_zip(file, limits)
        elif kind is not None:
            yield from TarReader(_source(file, kind, limits, progress), limits, size).entries()
        elif not is_ignored(filename):
            yield Entry(0, display_name(filename), size, partial(_read_loose, file, size, limits))


def unpack_tar(path: Path, limits: Limits, progress: Progress) -> Iterator[bytes]:
    """Yield the bytes of the TAR inside a packed TAR, a megabyte at a time. `progress` is called as in `read_entries`.

    Raises ArchiveRefused where the damage is met.
    """
    with path.open("rb") as file:
        kind = _kind(file)
        if kind not in _PACKED:
            raise ValueError("not a packed TAR")
        source = _source(file, kind, limits, progress)
        while part := source.read(_PART):
            yield part


def _read_loose(file: BinaryIO, size: int, limits: Limits) -> Content:
    return too_large(size, limits) if size > limits.max_entry_bytes else check_content(file.read())


def _kind(file: BinaryIO) -> str | None:
    """Return `zip`, `tar`, `gz`, `bz2`, `xz`, or None, and leave the file at its start. Other archives are refused."""
    kind = archive_kind(file.read(HEAD))
    file.seek(0)
    if kind not in (None, "zip", "tar", *_PACKED):
        raise ArchiveRefused("unsupported_archive", f"A {kind} archive; send ZIP, TAR, TAR.GZ, TAR.BZ2 or TAR.XZ.")
    return kind


def _source(file: BinaryIO, kind: str, limits: Limits, progress: Progress = no_progress) -> Source:
    """Return the TAR's bytes. Raises ArchiveRefused if a packed file does not hold a TAR."""
    if kind == "tar":
        return PlainSource(file)
    head = PackedSource(file, kind, limits).read(HEAD)
    if not is_tar(head):
        raise ArchiveRefused("malformed_archive", f"The {kind} file does not hold a TAR.")
    return PackedSource(file, kind, limits, progress)
