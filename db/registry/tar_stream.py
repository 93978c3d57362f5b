"""Makes a TAR while it is sent. The length is known beforehand, and the same files give the same bytes.

`tarfile` is not used, because it writes to a file and does not know the length in advance. The format is pax
(POSIX.1-2001). For short plain names, this is the same as ustar (POSIX.1-1988). There is no owner and no time.
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
    """Return the length in bytes of a TAR with these members (name and size), with the end mark."""
    return sum(len(_header(name, size)) + size + _padding(size) for name, size in members) + len(END)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)  # the defaults are constant: no owner, time 0, mode 0644
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % BLOCK
