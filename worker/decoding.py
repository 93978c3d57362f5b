"""Reading what was received: entries of a stored file, decoded in the sandbox, their originals stored."""

import io
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from db.database import current
from db.storage import storage
from worker.imaging.archives.archive import Entry, read_entries
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool
from worker.received_files import archive_limits

Read = tuple[Entry, str | None, list[PreparedSlice] | SliceRejected]
"""An entry, its bytes' SHA-256, what became of it."""


def new_decoders() -> DecoderPool:
    """A set of sandboxed children, as the settings have it; they start at first use."""
    settings = current()
    size = settings.decoders or min(os.cpu_count() or 1, 8)
    limits = DecodeLimits(
        max_pixels=settings.max_pixels,
        cpu_seconds=settings.decode_seconds,
        wall_seconds=3 * settings.decode_seconds,  # a busy machine is no fault of the file
        memory_bytes=settings.decode_memory_bytes,
    )
    return DecoderPool(size, limits)


def read_decoded(
    pool: DecoderPool, sha256: str, filename: str, skip: Callable[[int], bool], progress: Callable[[], None]
) -> Iterator[Read]:
    """Every entry of a stored file that is not skipped, in the archive's order, decoded or rejected.

    Originals are stored. `progress` is called for each entry, and while the file is fetched. Raises ArchiveRefused,
    FileMissing, OSError, DecoderUnavailable.
    """

    def readable() -> Iterator[tuple[tuple[Entry, str | None], bytes | SliceRejected]]:
        path = storage().local_path(sha256, progress)
        for entry, content in read_entries(path, filename, archive_limits(), skip):
            # Not fsynced: the file received is, and an original can be read from it again.
            kept = None if isinstance(content, SliceRejected) else storage().put(content, durable=False)
            yield (entry, kept), content

    for (entry, kept), result in pool.map(readable()):
        progress()
        yield entry, kept, result


def npy_bytes(arrays: Sequence[NDArray[np.uint8]]) -> memoryview:
    """Prepared slices as the bytes of one .npy file, uint8[n, 224, 224]."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack(arrays), allow_pickle=False)
    return buffer.getbuffer()
