"""Reads stored files: decodes their entries in the sandbox, and stores the originals of the entries."""

import io
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from db.database import current
from db.storage import storage
from db.timing.stages import Stage, timed
from worker.engines.processor import usable_cores
from worker.imaging.archives.archive import Entries, Entry, Limits, PassedOver, read_entries
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import SIDE, PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

Read = tuple[Entry, str | None, list[PreparedSlice] | SliceRejected]
"""An entry, the SHA-256 of its bytes (None if they cannot be read), and its slices or its rejection."""


def new_decoders() -> DecoderPool:
    """Return a pool of sandboxed decoders with the present settings. The decoders start when they are first used."""
    settings = current()
    size = settings.decoders or min(usable_cores(), 8)
    limits = DecodeLimits(
        max_pixels=settings.max_pixels,
        cpu_seconds=settings.decode_seconds,
        # more than the processor time, because a decoder has to wait on a busy machine
        wall_seconds=6 * settings.decode_seconds,
        memory_bytes=settings.decode_memory_bytes,
        max_file_bytes=settings.max_entry_bytes,
        set_apart=settings.set_apart,
    )
    return DecoderPool(size, limits, filter_required=not settings.allow_unfiltered_decoders)


def check_decoder() -> str | None:
    """Start a decoder. Return why it has no system call filter, or None if it has one. Raises DecoderUnavailable."""
    with new_decoders() as pool:
        list(pool.map([(0, b"not an image")]))
        return pool.unfiltered


def stored_entries(
    sha256: str, filename: str, progress: Callable[[], None], passed_over: PassedOver | None = None
) -> Entries:
    """Yield the entries of a stored file, within the limits that the settings state.

    `progress` is called while the file is fetched, while bytes are unpacked, and once for each entry. `passed_over`
    counts the DICOMDIR files (see `read_entries`). Raises ArchiveRefused, FileMissing, FileDamaged, OSError.
    """
    path = storage().received_path(sha256, progress)
    for entry in read_entries(path, filename, Limits.of(current()), progress, passed_over):
        progress()
        yield entry


def read_decoded(pool: DecoderPool, entries: Iterable[Entry], progress: Callable[[], None]) -> Generator[Read]:
    """Read the entries, and store their bytes. Yield the entries in order, each decoded or rejected.

    The entries are read ahead: the decoders get entries before earlier entries are yielded. Call `storage().sync()`
    before rows refer to the stored bytes. `progress` is called for each entry, and during each wait for a remote store.
    Raises DecoderUnavailable, OSError, and what reading an entry raises.
    """

    store = storage()

    def readable() -> Iterator[tuple[tuple[Entry, str | None], bytes | SliceRejected]]:
        source = iter(entries)
        while True:
            with timed(Stage.INFLATE):
                if (entry := next(source, None)) is None:
                    return
                content = entry.read()
            with timed(Stage.HASH):
                kept = None if isinstance(content, SliceRejected) else store.put(content, durable=False, alive=progress)
            yield (entry, kept), content

    for (entry, kept), result in pool.map(readable()):
        progress()
        yield entry, kept, result


def npy_bytes(arrays: Sequence[NDArray[np.uint8]]) -> bytes:
    """Return prepared slices as the bytes of one .npy file, uint8[n, 224, 224]."""
    header = io.BytesIO()
    shape = (len(arrays), SIDE, SIDE)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    # copies the pixels once; np.stack would add a copy
    return b"".join((header.getvalue(), *(pixels.data for pixels in arrays)))
