"""Reads a submitted file, archive or loose image, as a stream of entries.

Names in an archive are never used as paths, and no file is left on the disk.
"""

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from db.settings import MIB
from worker.imaging.archives.compressed import PackedSource, PlainSource
from worker.imaging.archives.entries import (
    READ_BYTES,
    Allowance,
    Content,
    Entries,
    Entry,
    Inspection,
    Limits,
    PassedOver,
    Progress,
    check_content,
    no_progress,
    too_large,
)
from worker.imaging.archives.nested import flat
from worker.imaging.archives.region import Region
from worker.imaging.archives.tar import TarReader
from worker.imaging.archives.zip import read_zip
from worker.imaging.archives.zip_directory import check_directory
from worker.imaging.display_names import display_name
from worker.imaging.file_types import HEAD, PACKED, archive_kind, is_tar, is_tar_name
from worker.imaging.rejections import ArchiveRefused, SliceRejected

__all__ = ["Content", "Entries", "Entry", "Inspection", "Limits", "PassedOver", "inspect_archive", "read_entries"]

LOOKED_BYTES = 16 * MIB
"""Bytes that are unpacked for a look at the beginning of a submission. With bzip2 this takes half a second."""


class _LookedEnough(Exception):
    """The check of a submission has unpacked as many bytes as it may."""


def inspect_archive(path: Path, filename: str, limits: Limits, *, whole: bool = True) -> Inspection:
    """Check a submission before it is queued.

    The bytes decide the kind. `filename` is for display. Only if the bytes are zeros or damaged, `filename` decides
    whether they are a TAR.

    Reads the directory of a ZIP, or the headers of a TAR. Unpacks a packed TAR once (gzip about 300 MB/s, xz 100 MB/s,
    bzip2 30 MB/s), because only the end of the TAR shows whether it is complete. Also unpacks archives that are
    compressed inside an archive. Without `whole`, unpacks at most 16 MiB. If a submission unpacks to more, the number
    of entries stays unknown, and `read_entries` finds the faults of the rest.

    A loose file is never refused, because its row can state its fault. Each entry of a ZIP takes 16 bytes of memory.
    Entries of a TAR take no memory.

    Raises ArchiveRefused, and OSError if the disk has no room to unpack an inner archive. In a submission that passes,
    `read_entries` may still reject single files.
    """
    parts = count(1)

    def look() -> None:
        if next(parts) * READ_BYTES > LOOKED_BYTES:
            raise _LookedEnough

    with path.open("rb") as file:
        region, allowance = Region(file), Allowance(limits, path)
        if archive_kind(region.pread(HEAD, 0)) == "zip":
            _, files = check_directory(region, allowance)
            if files is not None:  # the number is known without listing the files
                return Inspection("zip", files)
            allowance = Allowance(limits, path)
        open_ = partial(_entries, allowance, no_progress if whole else look)
        kind, entries = open_(region, filename)
        try:
            number = sum(1 for _ in flat(entries, open_))
        except _LookedEnough:
            return Inspection(kind, None)
        return Inspection(kind, number)


def read_entries(
    path: Path,
    filename: str,
    limits: Limits,
    progress: Progress = no_progress,
    passed_over: PassedOver | None = None,
) -> Entries:
    """Yield every file of a submission in the archive's order. `read()` of a file unpacks its bytes.

    An entry of a ZIP is unpacked only if it is read. A packed TAR is always unpacked from front to back. The bytes of
    entries that are not read are dropped. Ordinals count from 0, and are the same at every reading. Folders,
    `__MACOSX`, `.DS_Store`, `Thumbs.db`, `DICOMDIR` and `._name` twins are passed over, without an ordinal.
    `passed_over` counts the files named `DICOMDIR`, and is complete when the last entry has been yielded. A loose file
    is a single entry, named `filename`.

    If a file has both the name and the bytes of an archive, its files follow as `inner.zip/name`. An inner archive that
    is stored without compression is read in place. Any other inner archive is unpacked into a temporary file. If the
    inner archive is refused, the last of its entries has the archive's name, and is rejected with the code of the
    refusal. Archives inside an inner archive are rejected as `nested`. A file in gzip, bzip2 or xz that is not a TAR is
    unpacked.

    `progress` is called after every quarter of a megabyte that is unpacked. Errors that it raises are passed on.

    Raises ArchiveRefused: before the first entry of a damaged ZIP, at the damage in a TAR, or when a limit is exceeded.
    Raises OSError too.
    """
    with path.open("rb") as file:
        open_ = partial(_entries, Allowance(limits, path, passed_over), progress)
        yield from flat(open_(Region(file), filename)[1], open_)


def _entries(allowance: Allowance, progress: Progress, file: Region, filename: str) -> tuple[str, Entries]:
    """Return the kind of a file, and its entries. If it is not an archive, the kind is `file`, with a single entry.

    Raises ArchiveRefused.
    """
    kind = archive_kind(file.pread(HEAD, 0), filename)
    if kind == "zip":
        return kind, read_zip(file, allowance, progress)
    if kind == "tar":
        return kind, TarReader(PlainSource(file), allowance).entries()
    if kind in PACKED:
        source = PackedSource(file, kind, allowance, progress)
        if _packs_tar(PackedSource(file, kind, allowance), filename):
            return f"tar.{kind}", TarReader(source, allowance).entries()
        return "file", _one(filename, file.size, partial(_read_packed, source, allowance), allowance)
    if kind is not None:
        raise ArchiveRefused("unsupported_archive", f"It is a {kind} archive.")
    return "file", _one(filename, file.size, partial(_read_loose, file, allowance), allowance)


def _packs_tar(source: PackedSource, filename: str) -> bool:
    """Return whether a packed file is a TAR. If it cannot be unpacked, its name decides.

    Raises ArchiveRefused: the file cannot be unpacked, and has the name of a TAR.
    """
    try:
        return is_tar(source.read(HEAD), filename)
    except ArchiveRefused:
        if is_tar_name(filename):
            raise
        return False


def _one(filename: str, size: int, read: Callable[[], Content], allowance: Allowance) -> Entries:
    if not allowance.passes_over(filename):
        yield Entry(0, display_name(filename), size, read)


def _read_loose(file: Region, allowance: Allowance) -> Content:
    if file.size > allowance.limits.max_entry_bytes:
        return too_large(file.size, allowance.limits)
    return check_content(file.pread(file.size, 0))


def _read_packed(source: PackedSource, allowance: Allowance) -> Content:
    most = allowance.limits.max_entry_bytes
    try:
        data = source.read(most + 1)
        allowance.take(unpacked=len(data))
    except ArchiveRefused as refusal:
        return SliceRejected(refusal.code, refusal.detail)
    return too_large(len(data), allowance.limits) if len(data) > most else check_content(data)
