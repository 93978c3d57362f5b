"""Lets httpx read a part of a submission as a file of known length. The part is read while it is sent."""

import io
import os
from collections.abc import Callable, Iterator

from cli.files.parts import Part

BUFFER = 256 * 1024  # bytes that are read at once, because a TAR of tiny files comes in tiny pieces


class PartFile(io.RawIOBase):
    """Reads a part. `sent` is the number of bytes read since its start. `report` is called whenever `sent` changes.

    It is possible to seek to the start, and to the end, which gives the length.
    """

    def __init__(self, part: Part, report: Callable[[], None]) -> None:
        self.sent = 0
        self._part = part
        self._report = report
        self._position = 0
        self._pieces: Iterator[bytes] = iter(part)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = (0, self._position, self._part.size)[whence] + offset
        if position not in (0, self._position, self._part.size):
            raise io.UnsupportedOperation("a part is read from its start to its end")
        if position != self._position:
            self._position = position
            self._pieces, self._rest = iter(self._part) if position == 0 else iter(()), memoryview(b"")
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # httpx passes a memoryview
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        self._position += count
        self.sent = self._position
        self._report()
        return count
