"""Reads the files of a folder again, some bytes at a time. Compares each file with the SHA-256 in its name."""

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
    """The result of one turn. `last`: the name of the last file that was read, or "" if all files were read."""

    whole: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    last: str = ""


class Rereader:
    """Reads the files of a folder in the order of their names. After the last file, starts again.

    So the next file is always the one that was checked longest ago. A new process needs only the name of the last file
    to continue.
    """

    def __init__(self, folder: Path, after: str = "") -> None:
        """Begin after the file with this name."""
        self._folder = folder
        self._last = after
        self._paths = _paths(folder, after)
        self._file: IO[bytes] | None = None
        self._hash: Any = None
        self._name = ""

    def turn(self, size: int) -> Reread:
        """Read about `size` bytes. A large file takes several turns. Raises OSError if the folder is unreachable."""
        found = Reread()
        while size > 0:
            if self._file is None and not self._open_next():
                self._last, self._paths = "", _paths(self._folder, "")
                break
            size -= self._read(min(size, MIB), found)
        found.last = self._last
        return found

    def _open_next(self) -> bool:
        """Open the next file that still exists. Return False after the last file."""
        for path in self._paths:
            try:
                self._file = path.open("rb", buffering=0)
            except FileNotFoundError:  # removed meanwhile
                continue
            self._name, self._hash = path.name, hashlib.sha256()
            return True
        return False

    def _read(self, size: int, found: Reread) -> int:
        """Read a piece of the open file, and return its cost in bytes. At the end, record if the file is damaged."""
        assert self._file is not None  # noqa: S101  (`turn` opened it)
        try:
            piece = self._file.read(size)
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is a damaged block; for other errors, the storage is unreachable
                raise
            return self._end(found, whole=False)
        if piece:
            self._hash.update(piece)
            return len(piece)
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # keep the page cache for files in use
        return self._end(found, whole=self._hash.hexdigest() == self._name)

    def _end(self, found: Reread, *, whole: bool) -> int:
        assert self._file is not None  # noqa: S101
        self._file.close()
        self._file, self._last = None, self._name
        (found.whole if whole else found.damaged).append(self._name)
        return 4096  # small files cost more than their bytes


def _paths(folder: Path, after: str) -> Iterator[Path]:
    """Yield the files whose names come after `after`, in order. List only one of the 256 subfolders at a time."""
    for prefix in _PREFIXES:
        if prefix >= after[:2]:
            yield from sorted(path for path in (folder / prefix).glob("*") if path.name > after)
