"""Reads plain PNG with the Rust crate `png`, through kornia-rs. The pixels are the same as with Pillow.

This takes a third of Pillow's time. Pillow spends most of it on the Paeth filter, which it computes pixel by pixel.
"""

from kornia_rs.io import decode_image_png_u8
from PIL import Image

_LAYOUTS = {0: "mono", 2: "rgb", 6: "rgba"}  # by colour type
_MOST_PIXELS = 4_000_000
"""Rust ends the process if memory runs out. A larger picture is left to Pillow, which raises MemoryError."""
_START_OF_HEADER = 16


def read_plain_png(bare: bytes) -> Image.Image | None:
    """Return the picture of a `pictures.bare_png`, in mode L, RGB or RGBA, or None if Pillow has to read it.

    Only complete pictures with 8 bits a sample, without palette and interlacing, are read here. The Adler-32 of the
    compressed stream is not checked, because `bare_png` has checked the CRC-32 of the same bytes.
    """
    width, height = (int.from_bytes(bare[at : at + 4], "big") for at in (_START_OF_HEADER, _START_OF_HEADER + 4))
    depth, colour_type, _, _, interlacing = bare[_START_OF_HEADER + 8 : _START_OF_HEADER + 13]
    if depth != 8 or interlacing or colour_type not in _LAYOUTS or width * height > _MOST_PIXELS:
        return None
    try:
        pixels = decode_image_png_u8(bare, (height, width), _LAYOUTS[colour_type])
    except Exception:  # Pillow then tries, and its errors get reason codes
        return None
    return Image.fromarray(pixels[:, :, 0] if colour_type == 0 else pixels)
