"""Reads a file, or a range of a file, as a separate file."""

import errno
import io
import os
from typing import Any, BinaryIO, Self

_BUFFER = 64 * 1024


class BlockUnreadable(OSError):
    """The disk of this machine cannot read a block of a file. Its errno is EIO."""


class Region:
    """`size` bytes of a file from `start` on, or the whole file. Reading does not move the position of the file."""

    def __init__(self, file: BinaryIO, start: int = 0, size: int | None = None) -> None:
        self._file = file  # keeps a temporary file alive
        self._start = start
        self.size = os.fstat(file.fileno()).st_size if size is None else size

    def pread(self, count: int, at: int) -> bytes:
        """Return `count` bytes from the place `at` on, or fewer at the end. Raises BlockUnreadable, OSError."""
        if not 0 <= at < self.size:
            return b""
        try:
            return os.pread(self._file.fileno(), min(count, self.size - at), self._start + at)
        except OSError as error:
            if error.errno == errno.EIO:
                raise BlockUnreadable(errno.EIO, os.strerror(errno.EIO)) from error
            raise

    def part(self, start: int, size: int) -> Self:
        """Return a range of this region. It ends at the region's end at the latest."""
        start = min(start, self.size)
        return type(self)(self._file, self._start + start, min(size, self.size - start))

    def stream(self, start: int = 0) -> BinaryIO:
        """Return a reader of the bytes from `start` on. The reader has its own position."""
        return io.BufferedReader(_Stream(self.part(start, self.size)), _BUFFER)


class _Stream(io.RawIOBase):
    def __init__(self, region: Region) -> None:
        self._region = region
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._region.size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        data = self._region.pread(len(view), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
