"""Reads the headers of a TAR (ustar, pax and GNU), and checks each header before using its numbers.

Follows POSIX.1-2017 (pax) and GNU tar's manual, "Basic Tar Format". `tarfile` is not used: it ends silently at a
cut-off or damaged header, reads pax headers of any length into memory, and keeps every member.
"""

from dataclasses import dataclass, field

from db.settings import MIB
from worker.imaging.archives.compressed import Source
from worker.imaging.display_names import decode_name
from worker.imaging.file_types import checksum_holds
from worker.imaging.rejections import ArchiveRefused

BLOCK = 512
_MAX_EXTENSION = MIB
"""Bytes of one pax header or GNU long name."""
_MAP_GOES_ON, _MAP_GOES_ON_AGAIN = 482, 504  # offsets: in a GNU sparse header; in a block that continues its map

_LINKS_AND_DEVICES = b"123456"
_EXTENSIONS = b"xgLK"


@dataclass(frozen=True)
class TarMember:
    """A header with the extensions before it.

    `stored`: how many bytes follow the header, without padding. `kind`: the type flag. `pax`: the records of its pax
    header.
    """

    raw_name: bytes
    stored: int
    kind: bytes
    pax: dict[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return decode_name(self.pax.get("GNU.sparse.name") or self.raw_name)

    @property
    def is_folder(self) -> bool:
        return self.kind == b"5" or (self.kind in b"0\x00" and self.stored == 0 and self.raw_name.endswith(b"/"))

    @property
    def is_regular(self) -> bool:
        return self.kind in (b"0", b"\x00", b"7", b"S")

    @property
    def is_sparse(self) -> bool:
        """Return whether the file is sparse: holes are not stored (GNU tar manual, "Storing Sparse Files")."""
        return self.kind == b"S" or any(key.startswith("GNU.sparse.") for key in self.pax)


def next_member(source: Source) -> TarMember | None:
    """Return the next member, or None at the end of the TAR. At the end, also read the zero blocks and the padding.

    Raises ArchiveRefused: `truncated_archive`, `malformed_archive`, `trailing_data`.
    """
    long_name: bytes | None = None
    pax: dict[str, bytes] = {}
    while True:
        header = source.read(BLOCK)
        if len(header) == BLOCK and not any(header):
            _read_padding(source)
            return None
        if len(header) < BLOCK:
            raise ArchiveRefused("truncated_archive", "The TAR ends without its end mark.")
        if not checksum_holds(header):
            raise ArchiveRefused("malformed_archive", "A header of the TAR is damaged.")
        kind, size = header[156:157], number(header[124:136])
        if kind not in _EXTENSIONS:
            break
        extension = _read_extension(source, size)
        if kind == b"L":
            long_name = extension.split(b"\x00", 1)[0]
        elif kind == b"x":
            pax = parse_pax(extension)
    stored = decimal(pax["size"]) if "size" in pax else size
    if kind in _LINKS_AND_DEVICES:
        stored = 0
    if kind == b"S" and header[_MAP_GOES_ON]:
        _pass_sparse_map(source)
    return TarMember(pax.get("path") or long_name or _plain_name(header), stored, kind, pax)


def padding(size: int) -> int:
    """Return how many bytes fill up the last block after `size` bytes."""
    return -size % BLOCK


def number(raw: bytes) -> int:
    """Return a header's number: octal digits, or base 256 if the first bit is set (GNU). Raises ArchiveRefused."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") - (0x80 << 8 * (len(raw) - 1))
        if raw[0] != 0x80 or value >= 1 << 63:
            raise ArchiveRefused("malformed_archive", "A header of the TAR states an impossible size.")
        return value
    try:
        return int(raw.split(b"\x00", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise ArchiveRefused("malformed_archive", "A header of the TAR holds a field that is not a number.") from error


def decimal(raw: bytes) -> int:
    """Return the number in a pax record: only digits, at most 19. Raises ArchiveRefused."""
    if not raw.isdigit() or len(raw) > 19:
        raise ArchiveRefused("malformed_archive", "A pax header of the TAR holds a field that is not a number.")
    return int(raw)


def parse_pax(data: bytes) -> dict[str, bytes]:
    """Return the records of a pax header. A key's last record counts. Raises ArchiveRefused(`malformed_archive`)."""
    fields: dict[str, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        length = decimal(data[at:space]) if space > 0 else 0
        record = data[at : at + length]
        keyword, equals, value = record[space - at + 1 : -1].partition(b"=")
        if len(record) < 5 or len(record) != length or not equals or not record.endswith(b"\n"):
            raise ArchiveRefused("malformed_archive", "A pax header of the TAR is damaged.")
        fields[keyword.decode(errors="replace")] = value
        at += length
    return fields


def _read_extension(source: Source, size: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise ArchiveRefused("malformed_archive", f"A name or pax header of the TAR is {size} bytes long.")
    data = source.read(size)
    if len(data) < size or source.skip(padding(size)) < padding(size):
        raise ArchiveRefused("truncated_archive", "The TAR ends within a header.")
    return data


def _pass_sparse_map(source: Source) -> None:
    """Skip the blocks that continue the map of a GNU sparse member. The member's size does not include them."""
    goes_on = True
    while goes_on:
        block = source.read(BLOCK)
        if len(block) < BLOCK:
            raise ArchiveRefused("truncated_archive", "The TAR ends within a header.")
        goes_on = bool(block[_MAP_GOES_ON_AGAIN])


def _plain_name(header: bytes) -> bytes:
    name = header[:100].split(b"\x00", 1)[0]
    prefix = header[345:500].split(b"\x00", 1)[0] if header[257:263] == b"ustar\x00" else b""
    return prefix + b"/" + name if prefix else name


def _read_padding(source: Source) -> None:
    while rest := source.read(BLOCK * BLOCK):
        if any(rest):
            raise ArchiveRefused("trailing_data", "Bytes follow the end of the TAR.")
