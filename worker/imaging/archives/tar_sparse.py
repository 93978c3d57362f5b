"""Sparse TAR members, in GNU's old format and pax formats 0.0, 0.1 and 1.0, unfolded within the size limit.

Formats: GNU tar manual, "Storing Sparse Files".
"""

from dataclasses import dataclass

from worker.imaging.archives.compressed import Source
from worker.imaging.archives.tar_headers import BLOCK, TarMember, decimal, number
from worker.imaging.rejections import ArchiveRefused

_MAX_PIECES = 65_536


@dataclass(frozen=True)
class SparseMap:
    """`size`: bytes of the file unfolded; `pieces`: (offset, length) of what is stored; `stored`: bytes that follow."""

    size: int
    pieces: list[tuple[int, int]]
    stored: int


def is_sparse(member: TarMember) -> bool:
    """Whether the member's bytes are only the pieces between its holes."""
    return member.kind == b"S" or any(key.startswith("GNU.sparse.") for key in member.pax)


def read_map(source: Source, member: TarMember) -> SparseMap:
    """The member's map, read from the header, from the blocks behind it, or from the front of its data.

    Raises ArchiveRefused(`malformed_archive`) unless the pieces lie in order within the size and fill what is stored.
    """
    stored, pax = member.stored, member.pax
    if member.kind == b"S":
        size, numbers = number(member.header[483:495]), _old_numbers(source, member.header)
    else:
        size = decimal(pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size") or b"")
        if pax.get("GNU.sparse.major") == b"1":
            numbers, read = _front_numbers(source, stored)
            stored -= read
        elif "GNU.sparse.map" in pax:
            numbers = [decimal(digits) for digits in pax["GNU.sparse.map"].split(b",")]
        else:
            numbers = list(member.sparse_pairs)
    return SparseMap(size, _checked(numbers, size, stored), stored)


def unfold(stored: bytes, sparse: SparseMap) -> bytes:
    """The file with its holes as zero bytes; `sparse.size` must have been checked against the limit."""
    whole = bytearray(sparse.size)
    at = 0
    for offset, length in sparse.pieces:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(whole)


def _old_numbers(source: Source, header: bytes) -> list[int]:
    """Four pairs in the header, then 21 a block for as long as a block says that another follows."""
    numbers = _pairs(header[386:482])
    more = header[482]
    while more:
        block = source.read(BLOCK)
        if len(block) < BLOCK or len(numbers) > 2 * _MAX_PIECES:
            raise ArchiveRefused("malformed_archive", "The map of a sparse file in the TAR does not end.")
        numbers += _pairs(block[:504])
        more = block[504]
    return numbers


def _pairs(raw: bytes) -> list[int]:
    return [number(raw[at : at + 12]) for at in range(0, len(raw), 12) if raw[at]]


def _front_numbers(source: Source, stored: int) -> tuple[list[int], int]:
    """Pax 1.0: decimal numbers by line in front of the data: how many pieces, then the pairs; padded to a block.

    Returns the pairs and the bytes read.
    """
    text = bytearray()
    lines, wanted = 0, 1
    while lines < wanted:
        block = source.read(BLOCK)
        text += block
        lines += block.count(b"\n")
        if not lines or len(block) < BLOCK or len(text) > stored:
            raise ArchiveRefused("malformed_archive", "The map of a sparse file in the TAR does not end.")
        count = decimal(bytes(text[: text.index(b"\n")]))
        if count > _MAX_PIECES:
            raise ArchiveRefused("malformed_archive", "The map of a sparse file in the TAR is too long.")
        wanted = 1 + 2 * count
    return [decimal(line) for line in bytes(text).split(b"\n")[1:wanted]], len(text)


def _checked(numbers: list[int], size: int, stored: int) -> list[tuple[int, int]]:
    pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise ArchiveRefused("malformed_archive", "The pieces of a sparse file in the TAR overlap.")
        end = offset + length
    if len(numbers) % 2 or end > size or sum(length for _, length in pieces) != stored:
        raise ArchiveRefused("malformed_archive", "The map of a sparse file in the TAR does not fit its data.")
    return pieces
