"""Reads the prepared pictures of slices, and their heat maps."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Chunk, Job, Prediction, Slice
from db.storage import FileDamaged, storage


@dataclass(frozen=True)
class SliceImage:
    """A prepared slice, uint8[224, 224], and its heat map, float32[7, 7], or None if it was not predicted.

    `aspect`: width / height of the received picture.
    """

    pixels: NDArray[np.uint8]
    cam: NDArray[np.float32] | None
    aspect: float


def slice_image(s: Session, job: Job, slice_id: int) -> SliceImage | None:
    """Return a slice's prepared pixels and heat map, or None if the job has no such slice or it was never prepared.

    Raises storage's FileMissing and FileDamaged.
    """
    query = (
        select(Chunk.array_sha256, Slice.array_row, Slice.pixels_sha256, Prediction.cam, Slice.width, Slice.height)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Slice.id == slice_id, Slice.job_id == job.id)
    )
    row = s.execute(query).first()
    if row is None:
        return None
    cam = None if row.cam is None else np.frombuffer(row.cam, "<f2").reshape(7, 7).astype(np.float32)
    aspect = row.width / row.height if row.width and row.height else 1.0
    return SliceImage(slice_pixels(row.array_sha256, row.array_row, row.pixels_sha256), cam, aspect)


def slice_pixels(array_sha256: str, array_row: int, pixels_sha256: str) -> NDArray[np.uint8]:
    """Return one slice of an array file, uint8[224, 224], after checking the hash of this slice.

    The hash of the whole file is not checked, because the file is a hundred times as large. Raises storage's
    FileMissing and FileDamaged.
    """
    path = storage().local_path(array_sha256)
    try:
        pixels = np.array(np.load(path, mmap_mode="r", allow_pickle=False)[array_row])
    except (ValueError, EOFError, IndexError) as error:
        raise FileDamaged(f"the file {array_sha256} is not an array with this slice") from error
    if hashlib.sha256(pixels.data).hexdigest() != pixels_sha256:
        raise FileDamaged(f"a slice in the file {array_sha256} holds other pixels")
    return pixels
