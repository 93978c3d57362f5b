"""A submitted file, archive or loose image → its entries, streamed. No name is a path, and no file is left behind."""

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
from worker.imaging.file_types import HEAD, PACKED, archive_kind, is_tar
from worker.imaging.rejections import ArchiveRefused, SliceRejected

__all__ = ["Content", "Entries", "Entry", "Inspection", "Limits", "PassedOver", "inspect_archive", "read_entries"]

LOOKED_BYTES = 16 * MIB
"""How much is unpacked for a look at the beginning of a submission: half a second of bzip2."""


class _LookedEnough(Exception):
    """As much of a submission was unpacked as a look at its beginning may take."""


def inspect_archive(path: Path, filename: str, limits: Limits, *, whole: bool = True) -> Inspection:
    """Check a submission before anything of it is queued.

    The bytes decide the kind; `filename` is only a name to show. A ZIP costs its directory and a TAR its headers. A
    packed TAR is unpacked once (gzip about 300 MB a second, xz 100, bzip2 30), because only its end shows whether it
    is whole. So is an archive inside of an archive if it is packed there. Unless `whole`, only 16 MiB are unpacked: if
    there is more, the number of entries stays unknown, and `read_entries` finds what is wrong with the rest. A loose
    file is never refused: what is wrong with it is for its row. Memory does not grow with the entries, except by 16
    bytes each in a ZIP.

    Raises ArchiveRefused, and OSError if the disk has no room to unpack an archive inside of it. What passes may still
    hold single files that `read_entries` rejects.
    """
    parts = count(1)

    def look() -> None:
        if next(parts) * READ_BYTES > LOOKED_BYTES:
            raise _LookedEnough

    with path.open("rb") as file:
        region, allowance = Region(file), Allowance(limits, path)
        if archive_kind(region.pread(HEAD, 0)) == "zip":
            _, files = check_directory(region, allowance)
            if files is not None:  # there is no need to list them
                return Inspection("zip", files, allowance.unpacked)
            allowance = Allowance(limits, path)
        open_ = partial(_entries, allowance, no_progress if whole else look)
        kind, entries = open_(region, filename)
        try:
            number = sum(1 for _ in flat(entries, open_))
        except _LookedEnough:
            return Inspection(kind, None, None)
        return Inspection(kind, number, region.size if kind == "file" else allowance.unpacked)


def read_entries(
    path: Path,
    filename: str,
    limits: Limits,
    progress: Progress = no_progress,
    passed_over: PassedOver | None = None,
) -> Entries:
    """Yield every file of a submission in the archive's order. Its bytes are unpacked when its `read()` is called.

    An entry of a ZIP that is not read is not touched. A packed TAR is unpacked from front to back, but an entry that
    is not read is not kept. Ordinals count from 0 and are the same at every reading. Folders, `__MACOSX`, `.DS_Store`,
    `Thumbs.db`, `DICOMDIR` and `._name` twins are passed over, without an ordinal. A loose file is the one entry,
    named `filename`. `passed_over` counts what is passed over, and is complete once the last entry was yielded.

    If a file of an archive has both the name and the bytes of an archive, the files inside of it follow as
    `inner.zip/name`. This inner archive is read where it lies if it is stored as it is, else unpacked into a temporary
    file. If it is refused, one last entry has its name and rejects it with the code. Archives that lie deeper are
    rejected as `nested`. A file in gzip, bzip2 or xz that is not a TAR is unpacked.

    `progress` is called while something is unpacked, every quarter of a megabyte, and what it raises is raised.

    Raises ArchiveRefused: for a ZIP before the first entry, for a TAR where the damage is met, and for a limit where it
    is exceeded. Raises OSError too.
    """
    with path.open("rb") as file:
        open_ = partial(_entries, Allowance(limits, path, passed_over), progress)
        yield from flat(open_(Region(file), filename)[1], open_)


def _entries(allowance: Allowance, progress: Progress, file: Region, filename: str) -> tuple[str, Entries]:
    """Return the kind of a file, and its entries. If it is not an archive: `file`, and itself as the only entry.

    Raises ArchiveRefused.
    """
    kind = archive_kind(file.pread(HEAD, 0))
    if kind == "zip":
        return kind, read_zip(file, allowance, progress)
    if kind == "tar":
        return kind, TarReader(PlainSource(file), allowance).entries()
    if kind in PACKED:
        source = PackedSource(file, kind, allowance, progress)
        if is_tar(PackedSource(file, kind, allowance).read(HEAD)):
            return f"tar.{kind}", TarReader(source, allowance).entries()
        return "file", _one(filename, file.size, partial(_read_packed, source, allowance), allowance)
    if kind is not None:
        raise ArchiveRefused("unsupported_archive", f"A {kind} archive; send ZIP, TAR, TAR.GZ, TAR.BZ2 or TAR.XZ.")
    return "file", _one(filename, file.size, partial(_read_loose, file, allowance), allowance)


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
