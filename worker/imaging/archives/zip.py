"""Reads the files of a ZIP one by one, within the sizes that were checked before."""

import bz2
import zlib
from collections.abc import Iterator
from functools import partial

from worker.imaging.archives.compressed import Unpacker
from worker.imaging.archives.entries import (
    READ_BYTES,
    Allowance,
    Content,
    Entries,
    Entry,
    Limits,
    Progress,
    check_content,
    too_large,
)
from worker.imaging.archives.region import Region
from worker.imaging.archives.zip_directory import LOCAL, LOCAL_MAGIC, Record, check_directory, records
from worker.imaging.display_names import display_name
from worker.imaging.rejections import SliceRejected

_STORED, _DEFLATED, _BZIP2 = 0, 8, 12


def read_zip(file: Region, allowance: Allowance, progress: Progress) -> Entries:
    """Yield every file of the ZIP in the order of the directory. Check the whole directory first (`check_directory`).

    A file's `read()` may reject it as `not_regular`, `too_large_unpacked`, `unsupported` (a compression method other
    than stored, deflate and bzip2), `corrupt`, `size_mismatch`, `empty` or `nested`. `progress` is called while a
    file's `open()` inflates it.
    """
    directory, _ = check_directory(file, allowance)
    # Records are parsed again, one by one, because 200,000 of them in memory would take 60 MB.
    files = (record for record in records(file, directory) if record.is_file)
    for ordinal, record in enumerate(files):
        read = partial(_content, file, record, allowance.limits)
        yield Entry(
            ordinal, display_name(record.name), record.size, read, partial(_open, file, record, allowance, progress)
        )


def _content(file: Region, record: Record, limits: Limits) -> Content:
    try:
        _check_regular(record)
        if record.size > limits.max_entry_bytes:
            return too_large(record.size, limits)
        data = b"".join(_inflated(file, record, record.size + 1))
        _check_crc(zlib.crc32(data), record)
        return check_content(data)
    except SliceRejected as rejection:
        return rejection


def _open(file: Region, record: Record, allowance: Allowance, progress: Progress) -> Region:
    """Return the entry's bytes as a separate file. Stored bytes are read in place. Others are inflated.

    The CRC of stored bytes is not checked. Stored bytes may be an archive of many gigabytes. The check would read the
    archive once more at each reading of the submission.

    Raises SliceRejected, OSError.
    """
    _check_regular(record)
    if record.method == _STORED and record.packed == record.size:
        return file.part(_data_offset(file, record), record.size)
    copy, crc = allowance.scratch(record.size), 0
    for part in _inflated(file, record, READ_BYTES):
        progress()
        crc = zlib.crc32(part, crc)
        copy.write(part)
    _check_crc(crc, record)
    copy.flush()
    return Region(copy)


def _check_regular(record: Record) -> None:
    if not record.is_regular:
        raise SliceRejected("not_regular", "The entry is a link or a device.")


def _check_crc(crc: int, record: Record) -> None:
    if crc != record.crc:
        raise SliceRejected("corrupt", "The file's CRC-32 differs from the archive's.")


def _inflated(file: Region, record: Record, most: int) -> Iterator[bytes]:
    """Yield the entry's bytes, exactly as many as the directory states, in parts of at most `most` bytes.

    Raises SliceRejected.
    """
    packed = file.part(_data_offset(file, record), record.packed)
    if record.method == _STORED:
        if record.packed != record.size:
            raise SliceRejected("size_mismatch", "Stored without compression, yet packed and unpacked sizes differ.")
        yield from (packed.pread(most, at) for at in range(0, record.size, most))
    elif record.method == _DEFLATED:
        yield from _inflate(packed, record.size, zlib.decompressobj(-zlib.MAX_WBITS), most)
    elif record.method == _BZIP2:
        yield from _inflate(packed, record.size, bz2.BZ2Decompressor(), most)
    else:
        raise SliceRejected("unsupported", f"ZIP compression method {record.method} is not read.")


def _data_offset(file: Region, record: Record) -> int:
    fixed = file.pread(LOCAL.size, record.offset)
    if len(fixed) < LOCAL.size or not fixed.startswith(LOCAL_MAGIC):
        raise SliceRejected("corrupt", "The archive's directory points to a place without an entry.")
    name_length, extra_length = LOCAL.unpack(fixed)[9:]
    if file.pread(name_length, record.offset + LOCAL.size) != record.raw_name:
        raise SliceRejected("corrupt", "The entry's own header and the archive's directory disagree on its name.")
    return record.offset + LOCAL.size + int(name_length) + int(extra_length)


def _inflate(packed: Region, size: int, inflater: Unpacker, most: int) -> Iterator[bytes]:
    """Inflate the stated number of bytes, or one more at most. One byte more shows that the stated size is wrong."""
    room, at, data = size + 1, 0, b""
    while room and not inflater.eof:
        if not data and at < packed.size and getattr(inflater, "needs_input", True):  # bzip2 may hold back more output
            data = packed.pread(1024 * 1024, at)
            at = at + len(data) if data else packed.size
        try:
            part = inflater.decompress(data, min(room, most))
        except (zlib.error, OSError) as error:
            raise SliceRejected("corrupt", f"The compressed data is damaged ({error}).") from error
        data = getattr(inflater, "unconsumed_tail", b"")
        if not part and not data and at >= packed.size and not inflater.eof:
            raise SliceRejected("corrupt", "The compressed data ends too early.")
        yield part
        room -= len(part)
    if room != 1 or inflater.unused_data or at < packed.size:
        raise SliceRejected("size_mismatch", f"The file does not unpack to the {size} bytes stated.")
