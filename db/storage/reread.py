"""Reads the files of a folder again, some bytes at a time, and compares each with the SHA-256 that is its name."""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from db.settings import MIB

_PREFIXES = [f"{number:02x}" for number in range(256)]


@dataclass
class Reread:
    """The result of one turn. `last`: the name of the file that was read last, or "" after the last file."""

    whole: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    last: str = ""


class Rereader:
    """Reads the files of a folder in the order of their names, and starts again after the last.

    So the next file is always the one that was checked longest ago, and the name of the last file is all that a new
    process needs to continue.
    """

    def __init__(self, folder: Path, after: str = "") -> None:
        """Begin after the file of this name."""
        self._folder = folder
        self._last = after
        self._paths = _paths(folder, after)
        self._file: IO[bytes] | None = None
        self._hash: Any = None
        self._name = ""

    def turn(self, size: int) -> Reread:
        """Read about so many bytes. A large file takes several turns. Raises OSError: the folder is away."""
        found = Reread()
        while size > 0:
            if self._file is None and not self._open_next():
                self._last, self._paths = "", _paths(self._folder, "")
                break
            size -= self._read(min(size, MIB), found)
        found.last = self._last
        return found

    def _open_next(self) -> bool:
        """Open the next file that is still there; return False after the last."""
        for path in self._paths:
            try:
                self._file = path.open("rb", buffering=0)
            except FileNotFoundError:  # reaped meanwhile
                continue
            self._name, self._hash = path.name, hashlib.sha256()
            return True
        return False

    def _read(self, size: int, found: Reread) -> int:
        """Read a piece of the open file, and return its cost in bytes. At the end, record whether the file is whole."""
        assert self._file is not None  # noqa: S101  (`turn` opened it)
        try:
            piece = self._file.read(size)
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is a damaged block; other errors are a storage that is away
                raise
            return self._end(found, whole=False)
        if piece:
            self._hash.update(piece)
            return len(piece)
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # leaves the page cache to files in use
        return self._end(found, whole=self._hash.hexdigest() == self._name)

    def _end(self, found: Reread, *, whole: bool) -> int:
        assert self._file is not None  # noqa: S101
        self._file.close()
        self._file, self._last = None, self._name
        (found.whole if whole else found.damaged).append(self._name)
        return 4096  # small files cost more than their bytes


def _paths(folder: Path, after: str) -> Iterator[Path]:
    """Yield the files whose names follow `after`, in order. Only one of the 256 subfolders is listed at a time."""
    for prefix in _PREFIXES:
        if prefix >= after[:2]:
            yield from sorted(path for path in (folder / prefix).glob("*") if path.name > after)
