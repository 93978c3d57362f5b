"""The files of a ZIP, one after another, inflated within the sizes that were checked before."""

import bz2
import os
import zlib
from typing import BinaryIO, Protocol

from worker.imaging.archives.entries import Content, Entries, Entry, Limits, Skip, check_content, too_large
from worker.imaging.archives.zip_directory import LOCAL, LOCAL_MAGIC, Record, find_directory, inspect_zip, records
from worker.imaging.display_names import label
from worker.imaging.rejections import SliceRejected

_READ = 1024 * 1024
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12


class _Inflater(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def read_zip(file: BinaryIO, limits: Limits, skip: Skip) -> Entries:
    """Every file of the ZIP in the directory's order: its bytes, or why it is rejected.

    A file is `not_regular`, `too_large_unpacked`, `unsupported` (a compression method other than stored, deflate and
    bzip2), `corrupt`, `size_mismatch`, `empty` or `nested`. The whole directory is checked first (`inspect_zip`).
    """
    inspect_zip(file, limits)
    ordinal = 0
    for record in records(file, find_directory(file)):
        if not record.is_file:
            continue
        if not skip(ordinal):
            yield Entry(ordinal, label(record.name), record.size), _content(file.fileno(), record, limits)
        ordinal += 1


def _content(handle: int, record: Record, limits: Limits) -> Content:
    if not record.is_regular:
        return SliceRejected("not_regular", "The entry is a link or a device.")
    if record.size > limits.max_entry_bytes:
        return too_large(record.size, limits)
    try:
        return check_content(_read(handle, record))
    except SliceRejected as rejection:
        return rejection


def _read(handle: int, record: Record) -> bytes:
    """The entry's bytes, of exactly the stated size and CRC. Raises SliceRejected."""
    at = _data_offset(handle, record)
    if record.method == _STORED:
        if record.packed != record.size:
            raise SliceRejected("size_mismatch", "Stored without compression, yet packed and unpacked sizes differ.")
        data = os.pread(handle, record.size, at)
    elif record.method == _DEFLATED:
        data = _inflate(handle, record, at, zlib.decompressobj(-zlib.MAX_WBITS))
    elif record.method == _BZIP2:
        data = _inflate(handle, record, at, bz2.BZ2Decompressor())
    else:
        raise SliceRejected("unsupported", f"ZIP compression method {record.method} is not read.")
    if zlib.crc32(data) != record.crc:
        raise SliceRejected("corrupt", "The file's CRC-32 differs from the archive's.")
    return data


def _data_offset(handle: int, record: Record) -> int:
    fixed = os.pread(handle, LOCAL.size, record.offset)
    if len(fixed) < LOCAL.size or not fixed.startswith(LOCAL_MAGIC):
        raise SliceRejected("corrupt", "The archive's directory points to no entry here.")
    name_length, extra_length = LOCAL.unpack(fixed)[9:]
    if os.pread(handle, name_length, record.offset + LOCAL.size) != record.raw_name:
        raise SliceRejected("corrupt", "The entry bears another name than the archive's directory gives it.")
    return record.offset + LOCAL.size + int(name_length) + int(extra_length)


def _inflate(handle: int, record: Record, at: int, inflater: _Inflater) -> bytes:
    """Inflate to the stated size and no further: one byte more is a mismatch, however many would have followed."""
    parts: list[bytes] = []
    room, end = record.size + 1, at + record.packed
    packed = b""
    while room and not inflater.eof:
        if not packed and at < end:
            packed = os.pread(handle, min(_READ, end - at), at)
            at = at + len(packed) if packed else end
        try:
            part = inflater.decompress(packed, room)
        except (zlib.error, OSError) as error:
            raise SliceRejected("corrupt", f"The compressed data is damaged ({error}).") from error
        packed = getattr(inflater, "unconsumed_tail", b"")
        if not part and not packed and at >= end and not inflater.eof:
            raise SliceRejected("corrupt", "The compressed data ends too early.")
        parts.append(part)
        room -= len(part)
    if room != 1 or inflater.unused_data or at < end:
        raise SliceRejected("size_mismatch", f"The file does not unpack to the {record.size} bytes stated.")
    return b"".join(parts)
