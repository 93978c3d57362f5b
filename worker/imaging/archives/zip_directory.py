"""The central directory of a ZIP, checked as a whole without holding it in memory.

Written after APPNOTE 6.3.10. `zipfile` is not used: it keeps about a kilobyte an entry, believes a forged ZIP64 locator
and, in Python 3.11.7 and 3.12.1, reads fully overlapping entries without complaint.
"""

import os
import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from worker.imaging.archives.entries import Inspection, Limits
from worker.imaging.display_names import decode_name, is_ignored
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


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the central directory. `crc` is CRC-32; `packed`, `size` in bytes; `offset` of the local header."""

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
        """Return whether it gets a row. A "folder" that holds bytes is a file.

        Some tools of Windows write `patient1\\` for a folder.
        """
        return not (self.raw_name.endswith((b"/", b"\\")) and self.size == 0) and not is_ignored(self.name)

    @property
    def is_regular(self) -> bool:
        return stat.S_IFMT(self.unix_mode) in (0, stat.S_IFREG)


@dataclass(frozen=True)
class Directory:
    """The place of the central directory: `start` and `size` in bytes, `count` records."""

    start: int
    size: int
    count: int


def find_directory(file: BinaryIO) -> Directory:
    """Find the central directory, by the end record and by the ZIP64 end record if there is one.

    Raises ArchiveRefused: `truncated_archive`, `trailing_data`, `bad_zip64`, `malformed_archive`,
    `unsupported_archive`.
    """
    size = file.seek(0, os.SEEK_END)
    at, end = _find_end(file, size)
    _, disk, first_disk, here, count, length, start, _ = end
    if locator := _read_locator(file, at):
        at, count, length, start = _read_end64(file, locator, at, (count, length, start))
    elif disk or first_disk or here != count:
        raise ArchiveRefused("unsupported_archive", "The ZIP is split over several files; send it as one.")
    if start + length != at:
        raise ArchiveRefused("malformed_archive", "The ZIP's directory is not where its end record says.")
    return Directory(start, length, count)


def records(file: BinaryIO, directory: Directory) -> Iterator[Record]:
    """Yield the records in order. They are read one by one, so do not seek in `file` before the last one.

    Raises ArchiveRefused(`malformed_archive`) unless exactly `directory.count` records fill `directory.size` bytes.
    """
    file.seek(directory.start)
    left = directory.size
    for _ in range(directory.count):
        fixed = file.read(_RECORD.size)
        if left < _RECORD.size or len(fixed) < _RECORD.size or not fixed.startswith(_RECORD_MAGIC):
            raise ArchiveRefused("malformed_archive", "The ZIP's directory holds fewer entries than it states.")
        fields = _RECORD.unpack(fixed)
        name_length, extra_length, comment_length = fields[10:13]
        variable = file.read(name_length + extra_length + comment_length)
        left -= _RECORD.size + name_length + extra_length + comment_length
        if left < 0:
            raise ArchiveRefused("malformed_archive", "A record of the ZIP's directory is longer than the directory.")
        yield _record(fields, variable[:name_length], variable[name_length : name_length + extra_length])
    if left:
        raise ArchiveRefused("malformed_archive", "The ZIP's directory holds more than the entries it states.")


def inspect_zip(file: BinaryIO, limits: Limits) -> tuple[Inspection, Directory]:
    """Check the whole directory before a byte is inflated, and return where it lies.

    Memory: 16 bytes an entry. Raises ArchiveRefused: `too_many_entries`, `password_protected`, `too_large_unpacked`,
    `overlap`, `no_images`, and what `find_directory` and `records` raise.
    """
    directory = find_directory(file)
    if directory.count > limits.max_entries:
        raise ArchiveRefused("too_many_entries", f"{directory.count} entries; {limits.max_entries} are accepted.")
    starts, ends = array("Q"), array("Q")
    files = unpacked = 0
    handle = file.fileno()
    for record in records(file, directory):
        if record.flags & _ENCRYPTED:
            raise ArchiveRefused("password_protected", "An entry of the ZIP is encrypted.")
        unpacked += record.size
        files += record.is_file
        starts.append(record.offset)
        ends.append(min(_MAX64, record.offset + _local_length(handle, record.offset) + record.packed))
    _check_size(unpacked, os.fstat(handle).st_size, limits)
    _check_overlap(starts, ends, directory.start)
    if not files:
        raise ArchiveRefused("no_images", "The ZIP holds no file that could be an image.")
    return Inspection("zip", files, unpacked), directory


def last_whole_entry(file: BinaryIO) -> str | None:
    """Return the name of the last entry of a cut-off ZIP whose bytes are all there by its local headers."""
    size, at, last = file.seek(0, os.SEEK_END), 0, None
    while len(fixed := os.pread(file.fileno(), LOCAL.size, at)) == LOCAL.size and fixed.startswith(LOCAL_MAGIC):
        _, _, flags, *_, packed, _, name_length, extra_length = LOCAL.unpack(fixed)
        name = os.pread(file.fileno(), name_length, at + LOCAL.size)
        at += LOCAL.size + name_length + extra_length + packed
        if flags & 0x08 or at > size:  # bit 3: the length stands behind the data only
            break
        last = decode_name(name, utf8=bool(flags & _UTF8))
    return last


def _find_end(file: BinaryIO, size: int) -> tuple[int, tuple[bytes, int, int, int, int, int, int, int]]:
    """Return offset and fields of the end record, whose comment must reach exactly to the end of the file."""
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
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


def _read_locator(file: BinaryIO, end: int) -> tuple[int, int, int] | None:
    """Return the ZIP64 locator before the end record, or None: (disk, offset of the ZIP64 end record, disks)."""
    if end < _LOCATOR.size:
        return None
    file.seek(end - _LOCATOR.size)
    magic, disk, offset, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    return (disk, offset, disks) if magic == _LOCATOR_MAGIC else None


def _read_end64(
    file: BinaryIO, locator: tuple[int, int, int], end: int, plain: tuple[int, int, int]
) -> tuple[int, int, int, int]:
    """Return offset, count, length and start by the ZIP64 end record; `plain` are the last three of the ordinary one.

    It must lie exactly between directory and locator, and agree with every ordinary field that is not marked unset.
    Programs differ in which of the two they believe, and a forger counts on that.
    """
    disk, at, disks = locator
    if disk or disks > 1 or at + _END64.size > end - _LOCATOR.size:
        raise ArchiveRefused("bad_zip64", "The ZIP64 locator points outside the archive.")
    file.seek(at)
    fields = _END64.unpack(file.read(_END64.size))
    magic, length_of_record, here, count, length, start = fields[0], fields[1], *fields[6:10]
    if magic != _END64_MAGIC or at + 12 + length_of_record != end - _LOCATOR.size or here != count:
        raise ArchiveRefused("bad_zip64", "The ZIP64 locator does not point to a ZIP64 end record.")
    for value, unset, ordinary in zip((count, length, start), (_UNSET16, _UNSET32, _UNSET32), plain, strict=True):
        if ordinary not in (unset, value):
            raise ArchiveRefused("bad_zip64", "The ZIP64 end record contradicts the ordinary one.")
    return at, count, length, start


def _record(fields: tuple[int, ...], raw_name: bytes, extra: bytes) -> Record:
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    offset = fields[16]
    if _UNSET32 in (packed, size, offset):
        size, packed, offset = _zip64_values(extra, size, packed, offset)
    made_on_unix = fields[1] >> 8 in (3, 19)  # Unix, macOS: the upper half holds the mode
    return Record(raw_name, flags, method, crc, packed, size, offset, fields[15] >> 16 if made_on_unix else 0)


def _zip64_values(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Return size, packed size and offset, from the ZIP64 extra field if they are marked unset (APPNOTE 4.5.3)."""
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


def _local_length(handle: int, offset: int) -> int:
    """Return the bytes of the local header at `offset`, or of its fixed part if it is unreadable."""
    if offset >= 1 << 63:
        return LOCAL.size
    fixed = os.pread(handle, LOCAL.size, offset)
    if len(fixed) < LOCAL.size or not fixed.startswith(LOCAL_MAGIC):
        return LOCAL.size
    return LOCAL.size + int.from_bytes(fixed[26:28], "little") + int.from_bytes(fixed[28:30], "little")


def _check_size(unpacked: int, packed: int, limits: Limits) -> None:
    if unpacked > limits.max_unpacked_bytes:
        raise ArchiveRefused(
            "too_large_unpacked", f"{unpacked} bytes unpacked; {limits.max_unpacked_bytes} are accepted."
        )
    if unpacked > limits.max_ratio * packed:
        raise ArchiveRefused(
            "too_large_unpacked", f"It unpacks to {unpacked // packed} times its size; {limits.max_ratio} is accepted."
        )


def _check_overlap(starts: "array[int]", ends: "array[int]", directory_start: int) -> None:
    """Refuse entries that share bytes with one another (all of them, or quoting the next header as their own data:
    Fifield, "A better zip bomb", WOOT 2019) or with the directory."""
    if not starts:
        return
    first, last = np.asarray(starts), np.asarray(ends)
    order = np.argsort(first, kind="stable")
    if last.max() > directory_start or (first[order][1:] < last[order][:-1]).any():
        raise ArchiveRefused("overlap", "Entries of the ZIP overlap one another or the directory.")
