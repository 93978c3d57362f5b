"""Provides the slices for benchmarks: files of a folder, or synthetic slices."""

import io
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.errors import UsageError
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import lung_window
from worker.phantoms.anatomy import make_patient
from worker.phantoms.slices import hounsfield

CUTS, NOISE = 8, 12.0  # cuts through the synthetic patient; standard deviation of the noise, in grey levels
ENDINGS = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"}


def slice_files(folder: Path) -> list[Path]:
    """Return the files below `folder` whose names end in one of `ENDINGS`, sorted.

    Raises:
        UsageError: there is no such file.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        raise UsageError(f"{folder} has no slice; name a folder of .png, .jpg, .jpeg, .tif, .tiff, .bmp or .dcm files")
    return files


def read_slices(folder: Path, most: int) -> NDArray[np.uint8]:
    """Read at most `most` slices, spread over the folder. Return them as prepared by the recipe: uint8[n, 224, 224].

    Raises UsageError as `slice_files` does.
    """
    files = slice_files(folder)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
    return np.stack([decode(file.read_bytes(), DecodeLimits())[0].pixels for file in chosen])


def pack_files(archive: Path, folder: Path, most: int) -> int:
    """Write a ZIP of at most `most` slices of the folder, and return their number."""
    files = slice_files(folder)[:most]
    pack(archive, folder, files)
    return len(files)


def pack(archive: Path, folder: Path, files: Sequence[Path]) -> None:
    """Write a ZIP of these files of a folder."""
    with zipfile.ZipFile(archive, "w") as packed:
        for file in files:
            packed.write(file, str(file.relative_to(folder)))


def deal(files: Sequence[Path], parts: int, most: int) -> list[Sequence[Path]]:
    """Divide the files into `parts` parts of equal size, with at most `most` files in each. No file is in two parts.

    Raises:
        UsageError: there are fewer files than parts.
    """
    each = min(most, len(files) // parts)
    if not each:
        raise UsageError(f"{parts} files are needed, there are {len(files)}; name a larger folder or fewer rounds")
    return [files[start : start + each] for start in range(0, parts * each, each)]


def write_phantoms(archive: Path, slices: int, seed: int) -> None:
    """Write a ZIP of synthetic slices of 420 × 320 pixels. No two are alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (slices, 12, 12), dtype=np.uint8)
    with zipfile.ZipFile(archive, "w") as packed:
        for number, pixels in enumerate(coarse):
            image = Image.fromarray(pixels).resize((420, 320), Image.Resampling.BICUBIC)
            packed.writestr(f"series {number // 50}/{number}.png", _png(image))


def write_tiny(archive: Path, slices: int) -> None:
    """Write a ZIP of synthetic slices of 16 × 16 pixels. No two are alike."""
    rng = np.random.default_rng(3)
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(slices):
            image = Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8))
            packed.writestr(f"{number // 500}/{number}.png", _png(image))


def write_scans(archive: Path, slices: int, kind: str, size: tuple[int, int], seed: int) -> None:
    """Write a ZIP of synthetic CT slices, of which no two are alike.

    `kind`: PNG, or JPEG of quality 90. `size`: width and height in pixels. Each grain of the added noise is two pixels
    wide. So the files are as large as slices of real patients: a PNG has one byte for every 1.7 pixels.
    """
    rng = np.random.default_rng(seed)
    scans = [np.asarray(cut.resize(size), np.float32) for cut in _cuts()]
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(slices):
            noise = Image.fromarray(rng.normal(0, NOISE, (size[1] // 2, size[0] // 2)).astype(np.float32))
            noisy = scans[number % CUTS] + np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
            image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
            packed.writestr(f"series {number // 50}/{number}.{kind.lower()}", _encoded(image, kind, quality=90))


@cache
def _cuts() -> list[Image.Image]:
    patient = make_patient(7, 0, positive=True)
    return [Image.fromarray(lung_window(hounsfield(patient, z, 256))) for z in np.linspace(0.2, 0.8, CUTS)]


def _png(image: Image.Image) -> bytes:
    return _encoded(image, "PNG")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
