"""Reads the files of a TAR one after the other, from front to back."""

from functools import partial

from worker.imaging.archives.compressed import Source
from worker.imaging.archives.entries import Allowance, Content, Entries, Entry, check_content, too_large
from worker.imaging.archives.region import Region
from worker.imaging.archives.tar_headers import TarMember, next_member, padding
from worker.imaging.display_names import display_name
from worker.imaging.rejections import ArchiveRefused, SliceRejected


class TarReader:
    """One pass over a TAR."""

    def __init__(self, source: Source, allowance: Allowance) -> None:
        self._source = source
        self._allowance = allowance
        self._current: TarMember | None = None  # the member whose bytes come next
        self._last_good: str | None = None

    def entries(self) -> Entries:
        """Yield every file.

        A file's `read()` may reject it as `not_regular`, `unsupported`, `too_large_unpacked`, `empty` or `nested`.

        Raises ArchiveRefused, which names the last entry that was complete.
        """
        files = 0
        try:
            while member := next_member(self._source):
                self._allowance.take(entries=1)
                self._current = member
                is_file = not member.is_folder and not self._allowance.passes_over(member.name)
                name = display_name(member.name)
                if is_file:
                    yield Entry(files, name, member.stored, partial(self._read, member), partial(self._open, member))
                    files += 1
                self._pass(member)
                self._last_good = name if is_file else self._last_good
        except ArchiveRefused as refusal:
            raise self._with_last_good(refusal) from refusal
        if not files:
            raise ArchiveRefused("no_images", "The TAR holds no file that could be an image.")

    def _read(self, member: TarMember) -> Content:
        try:
            self._check_regular(member)
        except SliceRejected as rejection:
            return rejection
        if member.stored > self._allowance.limits.max_entry_bytes:
            return too_large(member.stored, self._allowance.limits)
        self._current = None
        try:
            data = self._source.read(member.stored)
        except ArchiveRefused as refusal:
            raise self._with_last_good(refusal) from refusal
        self._check_whole(len(data), member)
        return check_content(data)

    def _open(self, member: TarMember) -> Region:
        self._check_regular(member)
        self._current = None
        region = self._source.take_out(member.stored)
        self._check_whole(region.size, member)
        return region

    def _check_regular(self, member: TarMember) -> None:
        """Check that the member is a plain file, whose bytes come next in the TAR."""
        if member is not self._current:
            raise RuntimeError("an entry of a TAR is read once, before the next one is asked for")
        if not member.is_regular:
            raise SliceRejected("not_regular", "The entry is a link, a device or something else that is not a file.")
        if member.is_sparse:
            raise SliceRejected("unsupported", "Sparse files in a TAR are not read; pack it without sparse files.")

    def _check_whole(self, count: int, member: TarMember) -> None:
        if count < member.stored:
            raise self._with_last_good(ArchiveRefused("truncated_archive", "The TAR ends within a file."))

    def _pass(self, member: TarMember) -> None:
        """Move the source to the end of a member. If the bytes of the member were not read, skip them."""
        rest = padding(member.stored) + (member.stored if member is self._current else 0)
        if self._source.skip(rest) < rest:
            raise ArchiveRefused("truncated_archive", "The TAR ends within a file.")
        self._allowance.take(unpacked=member.stored)

    def _with_last_good(self, refusal: ArchiveRefused) -> ArchiveRefused:
        return ArchiveRefused(refusal.code, refusal.detail, self._last_good)
