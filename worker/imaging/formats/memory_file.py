"""Reads bytes in memory as a file, without copying them all: the memory of a decoder holds a large file only once."""

import io


class MemoryFile(io.RawIOBase):
    """A read-only file over bytes in memory. `is_cut`: a read was cut short by the end."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data, self._at = memoryview(data), 0
        self.is_cut = False

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        part = bytes(self._data[self._at : end])
        self._at += len(part)
        self.is_cut |= 0 < len(part) < size
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def has_more(self) -> bool:
        return self._at < len(self._data)

    def getvalue(self) -> memoryview:
        """Return all bytes. Pillow hands them to libtiff, and would otherwise copy them for each page."""
        return self._data
