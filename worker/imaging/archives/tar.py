"""The files of a TAR, one after another, from front to back."""

from functools import partial

from db.settings import MIB
from worker.imaging.archives.compressed import Source
from worker.imaging.archives.entries import Content, Entries, Entry, Inspection, Limits, check_content, too_large
from worker.imaging.archives.tar_headers import TarMember, next_member, padding
from worker.imaging.display_names import display_name, is_ignored
from worker.imaging.rejections import ArchiveRefused, SliceRejected


class TarReader:
    """One pass over a TAR of `archive_bytes`. `files` and `unpacked` count what was passed so far."""

    def __init__(self, source: Source, limits: Limits, archive_bytes: int) -> None:
        self._source = source
        self._limits = limits
        self._cap = min(limits.max_unpacked_bytes, max(limits.max_ratio * archive_bytes, MIB))
        self._members = 0
        self._current: TarMember | None = None  # the member whose bytes come next
        self._last_good: str | None = None
        self.files = 0
        self.unpacked = 0

    def entries(self) -> Entries:
        """Yield every file; reading it may reject it as `not_regular`, `unsupported`, `too_large_unpacked`, `empty` or
        `nested`.

        Raises ArchiveRefused, which names the last entry that was passed whole.
        """
        try:
            while member := next_member(self._source):
                self._count()
                self._current = member
                is_file = not member.is_folder and not is_ignored(member.name)
                name = display_name(member.name)
                if is_file:
                    yield Entry(self.files, name, member.stored, partial(self._read, member))
                    self.files += 1
                self._pass(member)
                self._last_good = name if is_file else self._last_good
        except ArchiveRefused as refusal:
            raise self._with_last_good(refusal) from refusal
        if not self.files:
            raise ArchiveRefused("no_images", "The TAR holds no file that could be an image.")

    def _count(self) -> None:
        self._members += 1
        if self._members > self._limits.max_entries:
            raise ArchiveRefused("too_many_entries", f"More than the {self._limits.max_entries} entries accepted.")

    def _read(self, member: TarMember) -> Content:
        if member is not self._current:
            raise RuntimeError("an entry of a TAR is read once, before the next one is asked for")
        if not member.is_regular:
            return SliceRejected("not_regular", "The entry is a link, a device or something else that is not a file.")
        if member.is_sparse:
            return SliceRejected("unsupported", "Sparse files in a TAR are not read; pack it without sparse files.")
        if member.stored > self._limits.max_entry_bytes:
            return too_large(member.stored, self._limits)
        self._current = None
        try:
            data = self._source.read(member.stored)
        except ArchiveRefused as refusal:
            raise self._with_last_good(refusal) from refusal
        if len(data) < member.stored:
            raise self._with_last_good(ArchiveRefused("truncated_archive", "The TAR ends within a file."))
        return check_content(data)

    def _pass(self, member: TarMember) -> None:
        """Move the source behind a member, over its bytes if they were not read."""
        rest = padding(member.stored) + (member.stored if member is self._current else 0)
        if self._source.skip(rest) < rest:
            raise ArchiveRefused("truncated_archive", "The TAR ends within a file.")
        self.unpacked += member.stored
        if self.unpacked > self._cap:
            raise ArchiveRefused("too_large_unpacked", f"Unpacked it has more than the {self._cap} bytes accepted.")

    def _with_last_good(self, refusal: ArchiveRefused) -> ArchiveRefused:
        return ArchiveRefused(refusal.code, refusal.detail, self._last_good)


def inspect_tar(source: Source, limits: Limits, archive_bytes: int, kind: str) -> Inspection:
    """Read the TAR once, to its end; memory stays at one block. Raises ArchiveRefused."""
    reader = TarReader(source, limits, archive_bytes)
    for _ in reader.entries():
        pass
    return Inspection(kind, reader.files, reader.unpacked)
