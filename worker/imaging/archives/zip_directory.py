"""Checks the whole central directory of a ZIP, without holding it in memory.

Follows APPNOTE 6.3.10. `zipfile` is not used: it keeps about a kilobyte for each entry, accepts a forged ZIP64 locator
and, in Python 3.11.7 and 3.12.1, reads fully overlapping entries without an error.

The Archive Utility of macOS (Finder) does not write ZIP64. Above 65,535 entries or 4 GiB, its numbers wrap around
(thejoshwolfe/yauzl#69). A directory with wrapped numbers is found from the end of the file, and read to its own end.
"""

import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from worker.imaging.archives.entries import Allowance
from worker.imaging.archives.region import Region
from worker.imaging.display_names import decode_name, is_ignored
from worker.imaging.file_types import is_archive_name
from worker.imaging.rejections import ArchiveRefused

_END = struct.Struct("<4s4H2IH")
_END_MAGIC = b"PK\x05\x06"
_LOCATOR = struct.Struct("<4sIQI")
_LOCATOR_MAGIC = b"PK\x06\x07"
_END64 = struct.Struct("<4sQ2H2I4Q")
_END64_MAGIC = b"PK\x06\x06"
_RECORD = struct.Struct("<4s6H3I5H2I")
_RECORD_MAGIC = b"PK\x01\x02"
LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_MAGIC = b"PK\x03\x04"

_ENCRYPTED = 0x2001  # the data (bit 0), or the directory itself (bit 13)
_UTF8 = 0x0800
_UNSET16, _UNSET32, _MAX64 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_WRAP16, _WRAP32 = 1 << 16, 1 << 32
_DEFLATE64 = 9


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the central directory.

    `crc`: the CRC-32. `packed`, `size`: bytes before and after unpacking. `offset`: the place of the local header.
    """

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    unix_mode: int

    @property
    def name(self) -> str:
        return decode_name(self.raw_name, utf8=bool(self.flags & _UTF8))

    @property
    def is_file(self) -> bool:
        """Return whether the record gets a row: it is not a folder and not ignored. A "folder" with bytes is a file.

        Some tools of Windows write `patient1\\` for a folder.
        """
        return not (self.raw_name.endswith((b"/", b"\\")) and self.size == 0) and not is_ignored(self.name)

    @property
    def is_regular(self) -> bool:
        return stat.S_IFMT(self.unix_mode) in (0, stat.S_IFREG)


@dataclass(frozen=True)
class Directory:
    """The place of the central directory: `start` and `size` in bytes. It has `count` records.

    `count_wraps`: the count is known only modulo 65,536. `offsets_wrap`: the offsets of local headers are known only
    modulo 4 GiB.
    """

    start: int
    size: int
    count: int
    count_wraps: bool
    offsets_wrap: bool


def find_directory(file: Region) -> Directory:
    """Find the central directory by the end record, and by the ZIP64 end record if there is one.

    Raises ArchiveRefused: `truncated_archive`, `trailing_data`, `bad_zip64`, `malformed_archive`,
    `unsupported_archive`.
    """
    at, end = _find_end(file)
    _, disk, first_disk, here, count, length, start, _ = end
    if locator := _read_locator(file, at):
        at, count, length, start = _read_end64(file, locator, at, (count, length, start))
        wraps = False
    elif disk or first_disk or here != count:
        raise ArchiveRefused("unsupported_archive", "The ZIP is split over several files; send it as one.")
    else:
        wraps = at - length >= _WRAP32 and (at - length) % _WRAP32 == start
    if start + length != at and not wraps:
        raise ArchiveRefused("malformed_archive", "The ZIP's directory is not where its end record says.")
    return Directory(at - length, length, count, count_wraps=locator is None, offsets_wrap=wraps)


def records(file: Region, directory: Directory) -> Iterator[Record]:
    """Yield the records in order.

    Raises ArchiveRefused(`malformed_archive`) unless the directory holds exactly as many records as it states, and no
    other bytes.
    """
    stream = file.part(directory.start, directory.size).stream()
    left, count, wrapped, last_offset = directory.size, 0, 0, 0
    while left:
        fixed = stream.read(_RECORD.size)
        if len(fixed) < _RECORD.size or not fixed.startswith(_RECORD_MAGIC):
            raise ArchiveRefused("malformed_archive", "The ZIP's directory holds something that is not an entry.")
        fields = _RECORD.unpack(fixed)
        name_length, extra_length, comment_length = fields[10:13]
        variable = stream.read(name_length + extra_length + comment_length)
        left -= _RECORD.size + name_length + extra_length + comment_length
        if left < 0:
            raise ArchiveRefused("malformed_archive", "A record of the ZIP's directory is longer than the directory.")
        if directory.offsets_wrap:  # entries are in the directory's order, so a lower offset has wrapped
            wrapped += _WRAP32 if fields[16] < last_offset else 0
            last_offset = fields[16]
        count += 1
        extra = variable[name_length : name_length + extra_length]
        yield _record(fields, variable[:name_length], extra, wrapped)
    if (count % _WRAP16 if directory.count_wraps else count) != directory.count:
        raise ArchiveRefused("malformed_archive", "The ZIP's directory does not hold as many entries as it states.")


def check_directory(file: Region, allowance: Allowance) -> tuple[Directory, int | None]:
    """Check the whole directory before anything is inflated. Return its place, and how many files get a row.

    The number is None if a file has the name of an archive, because the number of files inside is not known yet. Takes
    16 bytes of memory for each entry.

    Raises ArchiveRefused: `too_many_entries`, `password_protected`, `deflate64`, `too_large_unpacked`, `overlap`,
    `no_images`, and what `find_directory` and `records` raise.
    """
    directory = find_directory(file)
    starts, ends = array("Q"), array("Q")
    files, unpacked, may_nest = 0, 0, False
    for record in records(file, directory):
        if record.flags & _ENCRYPTED:
            raise ArchiveRefused("password_protected", "An entry of the ZIP is encrypted.")
        if record.method == _DEFLATE64:
            raise ArchiveRefused("deflate64", "An entry of the ZIP is packed with Deflate64.")
        allowance.take(entries=1)
        unpacked += record.size
        if record.is_file:
            files += 1
            may_nest = may_nest or is_archive_name(record.raw_name)
        else:
            allowance.passes_over(record.name)
        starts.append(record.offset)
        ends.append(min(_MAX64, record.offset + _local_length(file, record.offset) + record.packed))
    allowance.take(unpacked=unpacked)
    _check_overlap(starts, ends, directory.start)
    if not files:
        raise ArchiveRefused("no_images", "The ZIP holds no file that could be an image.")
    return directory, None if may_nest else files


def last_whole_entry(file: Region) -> str | None:
    """Return the name of the last complete entry of a cut-off ZIP, by its local headers."""
    at, last = 0, None
    while len(fixed := file.pread(LOCAL.size, at)) == LOCAL.size and fixed.startswith(LOCAL_MAGIC):
        _, _, flags, *_, packed, _, name_length, extra_length = LOCAL.unpack(fixed)
        name = file.pread(name_length, at + LOCAL.size)
        at += LOCAL.size + name_length + extra_length + packed
        if flags & 0x08 or at > file.size:  # bit 3: the length is stated only after the data
            break
        last = decode_name(name, utf8=bool(flags & _UTF8))
    return last


def _find_end(file: Region) -> tuple[int, tuple[bytes, int, int, int, int, int, int, int]]:
    """Return the offset and the fields of the end record. Its comment must end exactly at the end of the file."""
    tail_start = max(0, file.size - _END.size - 0xFFFF)
    tail = file.pread(file.size - tail_start, tail_start)
    first = None
    at = tail.rfind(_END_MAGIC)
    while at >= 0:
        if len(tail) - at >= _END.size:
            fields = _END.unpack_from(tail, at)
            if at + _END.size + fields[7] == len(tail):
                return tail_start + at, fields
            first = at if first is None else first
        at = tail.rfind(_END_MAGIC, 0, at)
    if first is not None and first + _END.size + _END.unpack_from(tail, first)[7] < len(tail):
        raise ArchiveRefused("trailing_data", "Bytes follow the end of the ZIP.")
    raise ArchiveRefused("truncated_archive", "The ZIP has no end record.", last_whole_entry(file))


def _read_locator(file: Region, end: int) -> tuple[int, int, int] | None:
    """Return the ZIP64 locator before the end record: (disk, offset of the ZIP64 end record, disks), or None."""
    if end < _LOCATOR.size:
        return None
    magic, disk, offset, disks = _LOCATOR.unpack(file.pread(_LOCATOR.size, end - _LOCATOR.size))
    return (disk, offset, disks) if magic == _LOCATOR_MAGIC else None


def _read_end64(
    file: Region, locator: tuple[int, int, int], end: int, plain: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Return the offset of the ZIP64 end record, and what it states: the directory's count, length and start.

    `plain`: what the ordinary end record states about these three. The ZIP64 record must be exactly between the
    directory and the locator, and must agree with every ordinary field that is not marked unset. Programs differ in
    which of the two records they use, and a forger could exploit that.
    """
    disk, at, disks = locator
    if disk or disks > 1 or at + _END64.size > end - _LOCATOR.size:
        raise ArchiveRefused("bad_zip64", "The ZIP64 locator points outside the archive.")
    fields = _END64.unpack(file.pread(_END64.size, at))
    magic, length_of_record, here, count, length, start = fields[0], fields[1], *fields[6:10]
    if magic != _END64_MAGIC or at + 12 + length_of_record != end - _LOCATOR.size or here != count:
        raise ArchiveRefused("bad_zip64", "The ZIP64 locator does not point to a ZIP64 end record.")
    for value, unset, ordinary in zip((count, length, start), (_UNSET16, _UNSET32, _UNSET32), plain, strict=True):
        if ordinary not in (unset, value):
            raise ArchiveRefused("bad_zip64", "The ZIP64 end record contradicts the ordinary one.")
    return at, count, length, start


def _record(fields: tuple[int, ...], raw_name: bytes, extra: bytes, wrapped: int) -> Record:
    """Return a record. `wrapped` is added to its offset."""
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    offset = fields[16] + wrapped
    if _UNSET32 in (packed, size, fields[16]) and not wrapped:
        size, packed, offset = _zip64_values(extra, size, packed, offset)
    made_on_unix = fields[1] >> 8 in (3, 19)  # Unix or macOS: the upper half is the file mode
    return Record(raw_name, flags, method, crc, packed, size, offset, fields[15] >> 16 if made_on_unix else 0)


def _zip64_values(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Return size, packed size and offset. Values marked unset come from the ZIP64 extra field (APPNOTE 4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1 and at + 4 + length <= len(extra):
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            size, packed, offset = (next(wide, None) if value == _UNSET32 else value for value in values)
            if size is None or packed is None or offset is None:
                break
            return size, packed, offset
        at += 4 + length
    raise ArchiveRefused("bad_zip64", "An entry refers to ZIP64 values that are not there.")


def _local_length(file: Region, offset: int) -> int:
    """Return the length of the local header at `offset`, or of its fixed part if the header is unreadable."""
    fixed = file.pread(LOCAL.size, offset)
    if len(fixed) < LOCAL.size or not fixed.startswith(LOCAL_MAGIC):
        return LOCAL.size
    return LOCAL.size + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")


def _check_overlap(starts: "array[int]", ends: "array[int]", directory_start: int) -> None:
    """Refuse entries that share bytes with each other or with the directory.

    Zip bombs work like this: entries share all their bytes, or take the next header as their own data (Fifield, "A
    better zip bomb", WOOT 2019)."""
    if not starts:
        return
    first, last = np.asarray(starts), np.asarray(ends)
    order = np.argsort(first, kind="stable")
    if last.max() > directory_start or (first[order][1:] < last[order][:-1]).any():
        raise ArchiveRefused("overlap", "Entries of the ZIP overlap one another or the directory.")
