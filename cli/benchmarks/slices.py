"""The slices that benchmarks run on: files of a folder, or synthetic ones."""

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.errors import UsageError
from worker.imaging.formats.decode import DecodeLimits, decode

ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"}


def slice_files(folder: Path) -> list[Path]:
    """Return the files below `folder` that are slices by their names, sorted.

    Raises:
        UsageError: there is none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise UsageError(f"there is no slice in {folder}; name a folder of PNG, JPEG, TIFF, BMP or DICOM files")
    return files


def read_slices(folder: Path, most: int) -> NDArray[np.uint8]:
    """Read at most `most` slices, spread over the folder, as the recipe prepares them: uint8[n, 224, 224].

    Raises UsageError as `slice_files` does.
    """
    files = slice_files(folder)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
    return np.stack([decode(file.read_bytes(), DecodeLimits())[0].pixels for file in chosen])


def pack_files(archive: Path, folder: Path, most: int) -> int:
    """Write a ZIP of at most `most` slices of the folder, and return their number."""
    files = slice_files(folder)[:most]
    with zipfile.ZipFile(archive, "w") as packed:
        for file in files:
            packed.write(file, str(file.relative_to(folder)))
    return len(files)


def write_phantoms(archive: Path, slices: int, seed: int) -> None:
    """Write a ZIP of synthetic slices of 420 × 320 pixels, no two alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (slices, 12, 12), dtype=np.uint8)
    with zipfile.ZipFile(archive, "w") as packed:
        for number, pixels in enumerate(coarse):
            image = Image.fromarray(pixels).resize((420, 320), Image.Resampling.BICUBIC)
            packed.writestr(f"series {number // 50}/{number}.png", _png(image))


def write_tiny(archive: Path, slices: int) -> None:
    """Write a ZIP of synthetic slices of 16 × 16 pixels, no two alike."""
    rng = np.random.default_rng(3)
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(slices):
            image = Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))
            packed.writestr(f"{number // 500}/{number}.png", _png(image))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
