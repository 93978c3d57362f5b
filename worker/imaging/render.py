"""Renders a prepared slice as PNG, alone or with its heat map."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MAX_OPACITY = 0.6
_COMPRESSION = 3  # of 9; a page has many small pictures, so speed matters more than size


def slice_png(pixels: NDArray[np.uint8], size: int, aspect: float = 1.0) -> bytes:
    """Return uint8[h, w] as a grey PNG, scaled bicubically. Its longer side is `size`; width / height is `aspect`."""
    return _png(_scaled(pixels, _sides(size, aspect)))


def overlay_png(pixels: NDArray[np.uint8], cam: NDArray[np.float32], size: int, aspect: float = 1.0) -> bytes:
    """Return the slice with its heat map as an RGB PNG, in the size of `slice_png`. Without heat, return `slice_png`.

    `cam`: float32[7, 7], which is divided by its maximum. Negative values and values that are not numbers are cold. The
    map is scaled up bilinearly, and coloured by `heat_colours`. Warmer colours are more opaque, up to `_MAX_OPACITY`.
    """
    sides = _sides(size, aspect)
    heat = _heat(cam, sides)
    if heat is None:
        return slice_png(pixels, size, aspect)
    grey = np.asarray(_scaled(pixels, sides), np.float32)[..., None]
    opacity = (_MAX_OPACITY * heat)[..., None]
    blend = grey * (1 - opacity) + heat_colours(heat).astype(np.float32) * opacity
    return _png(Image.fromarray(np.rint(blend).astype(np.uint8)))


def heat_colours(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the colours, uint8[..., 3], of heat in [0, 1]: from dark violet over red and orange to light yellow.

    The colours are part of a cubehelix (Green 2011, Bull. Astr. Soc. India 39, 289). The perceived brightness grows
    linearly, so the order of the colours is also visible in grey print and to colour-blind people.
    """
    brightness = np.asarray(0.15 + 0.75 * heat, np.float64)
    angle = 2 * np.pi * (0.1 + 0.45 * brightness)
    amplitude = 1.6 * brightness * (1 - brightness) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    channels = [
        brightness + amplitude * (a * cos + b * sin)
        for a, b in ((-0.14861, 1.78277), (-0.29227, -0.90649), (1.97294, 0.0))
    ]
    colours: NDArray[np.uint8] = np.rint(255 * np.clip(np.stack(channels, -1), 0, 1)).astype(np.uint8)
    return colours


def _heat(cam: NDArray[np.float32], sides: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the heat as float32[height, width] in [0, 1], or None if no value is above 0."""
    warm = np.clip(np.nan_to_num(cam.astype(np.float32), nan=0, posinf=0, neginf=0), 0, None)
    if warm.size == 0 or warm.max() <= 0:
        return None
    scaled = Image.fromarray(warm / warm.max()).resize(sides, Image.Resampling.BILINEAR)
    heat: NDArray[np.float32] = np.clip(np.asarray(scaled), 0, 1)
    return heat


def _sides(size: int, aspect: float) -> tuple[int, int]:
    """Return width and height of a picture whose longer side is `size`."""
    return max(1, round(size * min(1, aspect))), max(1, round(size / max(1, aspect)))


def _scaled(pixels: NDArray[np.uint8], sides: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(sides, Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=_COMPRESSION)
    return file.getvalue()
