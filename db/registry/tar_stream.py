"""Makes a TAR while it is sent. Its length is known beforehand, and the same files give the same bytes.

It is written here because `tarfile` writes to a file and does not know the length in advance. The format is pax
(POSIX.1-2001), which for short plain names is ustar (POSIX.1-1988) byte for byte. There is no owner and no time.
"""

import tarfile
from collections.abc import Iterable, Iterator

BLOCK = tarfile.BLOCKSIZE
END = b"\0" * (2 * BLOCK)


def tar_member(name: str, size: int, content: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the bytes of a regular file in a TAR. `content` must have `size` bytes."""
    yield _header(name, size)
    yield from content
    yield b"\0" * _padding(size)


def tar_size(members: Iterable[tuple[str, int]]) -> int:
    """Return the bytes of a TAR of these members (name and size), its end mark included."""
    return sum(len(_header(name, size)) + size + _padding(size) for name, size in members) + len(END)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # its defaults are constants: no owner, time 0, mode 0644
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % BLOCK
