"""Reads the bytes of a TAR, compressed or not, from front to back. Never decompresses more bytes than allowed.

The file objects of `gzip`, `bz2` and `lzma` are not used. None of them limits how many bytes it returns. The file
object of `lzma` does not limit its memory. The three also differ in how they report bytes after the last stream.
"""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Protocol

from db.settings import MIB
from worker.imaging.archives.entries import READ_BYTES, Allowance, Progress, no_progress
from worker.imaging.archives.region import Region
from worker.imaging.rejections import ArchiveRefused

_XZ_MEMORY = 128 * MIB
"""Memory for unpacking xz; `xz -9` needs 65 MiB."""


class Source(Protocol):
    """Bytes that are read only forwards.

    The methods raise ArchiveRefused: `truncated_archive`, `malformed_archive`, `too_large_unpacked`, `trailing_data`.
    """

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer at the end."""

    def skip(self, count: int) -> int:
        """Skip `count` bytes, and return how many there were."""

    def take_out(self, count: int) -> Region:
        """Return the next `count` bytes, or fewer at the end, as a separate file. Raises OSError too."""


class PlainSource:
    """A TAR that is not compressed."""

    def __init__(self, file: Region) -> None:
        self._file = file
        self._stream = file.stream()

    def read(self, count: int) -> bytes:
        return self._stream.read(count)

    def skip(self, count: int) -> int:
        return self.take_out(count).size

    def take_out(self, count: int) -> Region:
        region = self._file.part(self._stream.tell(), count)
        self._stream.seek(region.size, os.SEEK_CUR)
        return region


class Unpacker(Protocol):
    """A decompressor of zlib, bz2 or lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


_UNPACKERS: dict[str, Callable[[], Unpacker]] = {
    "gz": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


class PackedSource:
    """A TAR compressed by gzip, bzip2 or xz, in one or several streams. It is decompressed in parts of 256 KiB.

    `progress` is called for each part, whether it is read or skipped. Errors that `progress` raises are passed on.

    Reading raises ArchiveRefused (`too_large_unpacked`) if more bytes are unpacked than the allowance had left when the
    source was opened.
    """

    def __init__(self, file: Region, kind: str, allowance: Allowance, progress: Progress = no_progress) -> None:
        self._file = file.stream()
        self._allowance = allowance
        self._progress = progress
        self._new = _UNPACKERS[kind]
        self._unpacker = self._new()
        self._left = allowance.left
        self._input = b""
        self._part = b""  # unpacked bytes; those from _at on are not read yet
        self._at = 0
        self._ended = False

    def read(self, count: int) -> bytes:
        parts = []
        while count and (part := self._take(count)):
            parts.append(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: int) -> int:
        left = count
        while left and (there := len(self._take(left))):
            left -= there
        return count - left

    def take_out(self, count: int) -> Region:
        if count > self._allowance.left:
            raise ArchiveRefused("too_large_unpacked", "It unpacks to more than is accepted.")
        copy = self._allowance.scratch(count)
        while count and (part := self._take(count)):
            count -= copy.write(part)
        copy.flush()
        return Region(copy)

    def _take(self, count: int) -> bytes:
        if self._at == len(self._part):
            self._part, self._at = self._unpack(), 0
        taken = self._part[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def _unpack(self) -> bytes:
        """Return the next bytes, or b"" at the end of the last stream."""
        part = b""
        while not part and not self._ended:
            if self._unpacker.eof:
                self._next_stream()
                continue
            if not self._input:
                self._input = self._file.read(READ_BYTES)
            part = self._unpack_input()
        self._progress()
        self._left -= len(part)
        if self._left < 0:
            raise ArchiveRefused("too_large_unpacked", "It unpacks to more than is accepted.")
        return part

    def _unpack_input(self) -> bytes:
        at_end = not self._input
        try:
            part = self._unpacker.decompress(self._input, min(READ_BYTES, max(self._left, 1)))
        except lzma.LZMAError as error:
            if "limit" in str(error):
                raise ArchiveRefused("too_large_unpacked", "It takes more memory to unpack than is allowed.") from error
            raise ArchiveRefused("malformed_archive", f"The compressed data is damaged ({error}).") from error
        except (zlib.error, OSError, EOFError, ValueError) as error:
            raise ArchiveRefused("malformed_archive", f"The compressed data is damaged ({error}).") from error
        self._input = getattr(self._unpacker, "unconsumed_tail", b"")
        if at_end and not part and not self._unpacker.eof:
            raise ArchiveRefused("truncated_archive", "The compressed data ends too early.")
        return part

    def _next_stream(self) -> None:
        """Start the next stream, or note the end. Zero bytes may follow the last stream, but no other bytes.

        Raises ArchiveRefused.
        """
        rest = self._unpacker.unused_data or self._input
        while not rest.strip(b"\x00"):
            rest = self._file.read(READ_BYTES)
            if not rest:
                self._ended = True
                return
        rest = rest.lstrip(b"\x00")
        rest += self._file.read(max(0, 6 - len(rest)))
        if not rest.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
            raise ArchiveRefused("trailing_data", "Bytes follow the end of the compressed data.")
        self._unpacker, self._input = self._new(), rest
