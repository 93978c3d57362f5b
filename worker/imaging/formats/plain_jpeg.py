"""Reads plain grey JPEG with libjpeg-turbo but without Pillow. The pixels are the same, in a fifth less time."""

from imagecodecs import jpeg8_decode
from PIL import Image

_FRAMES, _OTHER_FRAMES = (0xC0, 0xC1), (0xC2,)  # sequential; progressive. `bare_jpeg` lets no others pass
_RESTARTS, _SCAN = 0xDD, 0xDA
_END_MARK = b"\xff\xd9"


def read_plain_jpeg(bare: bytes) -> Image.Image | None:
    """Return the picture of a `pictures.bare_jpeg`, in mode L, or None if Pillow has to read it.

    Only sequential grey pictures without restart markers are read here. Their one scan ends at the first marker, and
    the picture must end with the end mark. So the decoder never runs out of bytes. If it did, it would invent pixels.
    """
    at, is_grey = 2, False
    while (marker := bare[at + 1]) != _SCAN:
        if marker == _RESTARTS or marker in _OTHER_FRAMES:
            return None
        is_grey |= marker in _FRAMES and bare[at + 9] == 1
        at = _end(bare, at)
    if not is_grey or not bare.endswith(_END_MARK, _end(bare, at)):
        return None
    try:
        return Image.fromarray(jpeg8_decode(bare))
    except Exception:  # Pillow then tries, and its errors get reason codes
        return None


def _end(data: bytes, at: int) -> int:
    """Return the end of the segment whose marker is at `at`."""
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
