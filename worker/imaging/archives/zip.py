"""The files of a ZIP, inflated one by one within the sizes that were checked before."""

import bz2
import os
import zlib
from functools import partial
from typing import BinaryIO

from worker.imaging.archives.compressed import Unpacker
from worker.imaging.archives.entries import Content, Entries, Entry, Limits, check_content, too_large
from worker.imaging.archives.zip_directory import LOCAL, LOCAL_MAGIC, Record, inspect_zip, records
from worker.imaging.display_names import display_name
from worker.imaging.rejections import SliceRejected

_READ = 1024 * 1024
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12


def read_zip(file: BinaryIO, limits: Limits) -> Entries:
    """Yield every file of the ZIP in the directory's order; the whole directory is checked first (`inspect_zip`).

    Reading a file may reject it as `not_regular`, `too_large_unpacked`, `unsupported` (a compression method other than
    stored, deflate and bzip2), `corrupt`, `size_mismatch`, `empty` or `nested`.
    """
    _, directory = inspect_zip(file, limits)
    # Records are parsed again, one by one: to hold 200,000 of them would take 60 MB.
    files = (record for record in records(file, directory) if record.is_file)
    for ordinal, record in enumerate(files):
        yield Entry(ordinal, display_name(record.name), record.size, partial(_content, file, record, limits))


def _content(file: BinaryIO, record: Record, limits: Limits) -> Content:
    if not record.is_regular:
        return SliceRejected("not_regular", "The entry is a link or a device.")
    if record.size > limits.max_entry_bytes:
        return too_large(record.size, limits)
    try:
        return check_content(_read(file.fileno(), record))
    except SliceRejected as rejection:
        return rejection


def _read(handle: int, record: Record) -> bytes:
    """Return the entry's bytes, of exactly the stated size and CRC. Raises SliceRejected."""
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
        raise SliceRejected("corrupt", "The archive's directory points to a place without an entry.")
    name_length, extra_length = LOCAL.unpack(fixed)[9:]
    if os.pread(handle, name_length, record.offset + LOCAL.size) != record.raw_name:
        raise SliceRejected("corrupt", "The entry's own header and the archive's directory disagree on its name.")
    return record.offset + LOCAL.size + int(name_length) + int(extra_length)


def _inflate(handle: int, record: Record, at: int, inflater: Unpacker) -> bytes:
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
