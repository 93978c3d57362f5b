"""The headers of a TAR, ustar, pax and GNU, each checked before its numbers are believed.

Written after POSIX.1-2017 (pax) and GNU tar's manual, "Basic Tar Format". `tarfile` is not used: it ends silently at a
cut-off or damaged header, reads pax headers of any length into memory and keeps every member.
"""

from dataclasses import dataclass, field

from worker.imaging.archives.compressed import Source
from worker.imaging.archives.entries import MIB
from worker.imaging.display_names import decode_name
from worker.imaging.file_types import checksum_holds
from worker.imaging.rejections import ArchiveRefused

BLOCK = 512
_MAX_EXTENSION = MIB
"""Bytes of one pax header or GNU long name."""

_LINKS_AND_DEVICES = b"123456"
_EXTENSIONS = b"xgLK"


@dataclass(frozen=True)
class TarMember:
    """One header with the extensions before it. `stored`: bytes that follow it, without padding; `kind`: its type
    flag; `pax`: what a pax header said of it; `header`: the 512 bytes."""

    raw_name: bytes
    stored: int
    kind: bytes
    header: bytes
    pax: dict[str, bytes] = field(default_factory=dict)
    sparse_pairs: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return decode_name(self.pax.get("GNU.sparse.name") or self.raw_name)

    @property
    def is_folder(self) -> bool:
        return self.kind == b"5" or (self.kind in b"0\x00" and self.stored == 0 and self.raw_name.endswith(b"/"))

    @property
    def is_regular(self) -> bool:
        return self.kind in (b"0", b"\x00", b"7", b"S")


def next_member(source: Source) -> TarMember | None:
    """The next member, or None where the TAR ends, its zero blocks and the padding behind them read.

    Raises ArchiveRefused: `truncated_archive`, `malformed_archive`, `trailing_data`.
    """
    long_name: bytes | None = None
    pax: dict[str, bytes] = {}
    pairs: tuple[int, ...] = ()
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
            pax, pairs = parse_pax(extension)
    stored = decimal(pax["size"]) if "size" in pax else size
    if kind in _LINKS_AND_DEVICES:
        stored = 0
    return TarMember(pax.get("path") or long_name or _plain_name(header), stored, kind, header, pax, pairs)


def padding(size: int) -> int:
    """Bytes that fill the last block of `size` bytes."""
    return -size % BLOCK


def number(raw: bytes) -> int:
    """A header's number: octal digits, or base 256 where the first bit is set (GNU). Raises ArchiveRefused."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") - (0x80 << 8 * (len(raw) - 1))
        if raw[0] != 0x80 or value >= 1 << 63:
            raise ArchiveRefused("malformed_archive", "A header of the TAR states an impossible size.")
        return value
    try:
        return int(raw.split(b"\x00", 1)[0].strip() or b"0", 8)
    except ValueError as error:
        raise ArchiveRefused("malformed_archive", "A header of the TAR states no number.") from error


def decimal(raw: bytes) -> int:
    """A pax record's number: up to 19 digits, nothing else. Raises ArchiveRefused."""
    if not raw.isdigit() or len(raw) > 19:
        raise ArchiveRefused("malformed_archive", "A pax header of the TAR states no number.")
    return int(raw)


def parse_pax(data: bytes) -> tuple[dict[str, bytes], tuple[int, ...]]:
    """The records of a pax header (the last of a key counts), and the sparse map that GNU's pax format 0.0 spreads over
    repeated keys. Raises ArchiveRefused(`malformed_archive`)."""
    fields: dict[str, bytes] = {}
    pairs: list[int] = []
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 20)
        length = decimal(data[at:space]) if space > 0 else 0
        record = data[at : at + length]
        keyword, equals, value = record[space - at + 1 : -1].partition(b"=")
        if len(record) < 5 or len(record) != length or not equals or not record.endswith(b"\n"):
            raise ArchiveRefused("malformed_archive", "A pax header of the TAR is damaged.")
        key = keyword.decode(errors="replace")
        if key in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
            pairs.append(decimal(value))
        fields[key] = value
        at += length
    return fields, tuple(pairs)


def _read_extension(source: Source, size: int) -> bytes:
    if size > _MAX_EXTENSION:
        raise ArchiveRefused("malformed_archive", f"A name or pax header of the TAR is {size} bytes long.")
    data = source.read(size)
    if len(data) < size or source.skip(padding(size)) < padding(size):
        raise ArchiveRefused("truncated_archive", "The TAR ends within a header.")
    return data


def _plain_name(header: bytes) -> bytes:
    name = header[:100].split(b"\x00", 1)[0]
    prefix = header[345:500].split(b"\x00", 1)[0] if header[257:263] == b"ustar\x00" else b""
    return prefix + b"/" + name if prefix else name


def _read_padding(source: Source) -> None:
    while rest := source.read(BLOCK * BLOCK):
        if any(rest):
            raise ArchiveRefused("trailing_data", "Bytes follow the end of the TAR.")
