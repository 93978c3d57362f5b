"""A folder as a TAR made while it is sent: its length known in advance, the same bytes each time, nothing held."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UsageError

PIECE = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)


@dataclass(frozen=True)
class PackedFile:
    """A file to send: where it lies, the name it gets, and its size when it was looked at."""

    path: Path
    name: str
    size: int


class TarStream:
    """Yields a TAR of regular files, in the order given, with nothing in it that differs between two sendings."""

    def __init__(self, members: Sequence[PackedFile]) -> None:
        """Keep the members; their sizes are taken as they are."""
        self.members = list(members)

    def __len__(self) -> int:
        """Return the number of bytes that will be sent."""
        return sum(len(_header(member)) + member.size + _padding(member.size) for member in self.members) + len(END)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes, a piece at a time.

        Raises:
            UsageError: a file became shorter, or could not be read any more.
        """
        for member in self.members:
            yield _header(member)
            yield from read_exactly(member.path, member.size)
            yield b"\0" * _padding(member.size)
        yield END


def _header(member: PackedFile) -> bytes:
    info = tarfile.TarInfo(member.name)  # its defaults are constants: no owner, time 0, mode 0644
    info.size = member.size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % BLOCK


def read_exactly(path: Path, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file.

    Raises:
        UsageError: it holds fewer, or could not be read.
    """
    left = size
    try:
        with path.open("rb") as file:
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if left:
        raise UsageError(f"{path} became shorter while it was sent; nothing was submitted")
