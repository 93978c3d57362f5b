"""The files of a TAR, one after another, from front to back."""

from worker.imaging.archives.compressed import Source
from worker.imaging.archives.entries import (
    MIB,
    Content,
    Entries,
    Entry,
    Inspection,
    Limits,
    Skip,
    check_content,
    too_large,
)
from worker.imaging.archives.tar_headers import TarMember, next_member, padding
from worker.imaging.archives.tar_sparse import SparseMap, is_sparse, read_map, unfold
from worker.imaging.display_names import is_ignored, label
from worker.imaging.rejections import ArchiveRefused, SliceRejected


class TarReader:
    """One pass over a TAR of `archive_bytes`; afterwards `files` and `unpacked` say what was in it."""

    def __init__(self, source: Source, limits: Limits, archive_bytes: int) -> None:
        self._source = source
        self._limits = limits
        self._cap = min(limits.max_unpacked_bytes, max(limits.max_ratio * archive_bytes, MIB))
        self._members = 0
        self._last_good: str | None = None
        self.files = 0
        self.unpacked = 0

    def entries(self, skip: Skip) -> Entries:
        """Every file: its bytes, or why it is rejected: `not_regular`, `too_large_unpacked`, `empty`, `nested`.

        Raises ArchiveRefused, naming the last entry that was read whole.
        """
        try:
            while member := next_member(self._source):
                self._count()
                wanted = self._is_file(member) and not skip(self.files)
                size, content = self._read(member, wanted)
                if not self._is_file(member):
                    continue
                entry = Entry(self.files, label(member.name), size)
                self.files += 1
                self._last_good = entry.name
                if wanted:
                    yield entry, content
        except ArchiveRefused as refusal:
            raise ArchiveRefused(refusal.code, refusal.detail, self._last_good) from refusal
        if not self.files:
            raise ArchiveRefused("no_images", "The TAR holds no file that could be an image.")

    @staticmethod
    def _is_file(member: TarMember) -> bool:
        return not member.is_folder and not is_ignored(member.name)

    def _count(self) -> None:
        self._members += 1
        if self._members > self._limits.max_entries:
            raise ArchiveRefused("too_many_entries", f"More than the {self._limits.max_entries} entries accepted.")

    def _read(self, member: TarMember, wanted: bool) -> tuple[int, Content]:
        """Size and content of a member, the source moved behind it; content that is not wanted is passed over."""
        sparse = read_map(self._source, member) if member.is_regular and is_sparse(member) else None
        size, stored = (sparse.size, sparse.stored) if sparse else (member.stored, member.stored)
        content: Content = b""
        if not member.is_regular:
            content = SliceRejected("not_regular", "The entry is a link, a device or another thing that is no file.")
        elif size > self._limits.max_entry_bytes:
            content = too_large(size, self._limits)
        elif wanted:
            content = self._read_whole(stored, sparse)
            stored = 0
        there = self._source.skip(stored + padding(member.stored))
        if there < stored + padding(member.stored):
            raise ArchiveRefused("truncated_archive", "The TAR ends within a file.")
        self._add(size)
        return size, content

    def _read_whole(self, stored: int, sparse: SparseMap | None) -> Content:
        data = self._source.read(stored)
        if len(data) < stored:
            raise ArchiveRefused("truncated_archive", "The TAR ends within a file.")
        return check_content(unfold(data, sparse) if sparse else data)

    def _add(self, size: int) -> None:
        self.unpacked += size
        if self.unpacked > self._cap:
            raise ArchiveRefused("too_large_unpacked", f"Unpacked it has more than the {self._cap} bytes accepted.")


def inspect_tar(source: Source, limits: Limits, archive_bytes: int, kind: str) -> Inspection:
    """Read the TAR once, to its end; memory stays at one block. Raises ArchiveRefused."""
    reader = TarReader(source, limits, archive_bytes)
    for _ in reader.entries(lambda _: True):
        pass
    return Inspection(kind, reader.files, reader.unpacked)
