"""Decides what the 16-bit values of a picture file mean: HU, or grey levels and colours over the full range."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.hounsfield import HIGHEST_TISSUE, LOWEST_AIR
from worker.imaging.recipe import lung_window
from worker.imaging.rejections import SliceRejected

MODES = ("I;16", "I;16L", "I;16B")
"""The modes in which Pillow keeps all 16 bits. They are grey."""

_FROM_16_BITS = ((np.arange(65536) + 128) // 257).astype(np.uint8)
_FROM_8_BITS = np.uint16(257)
_HIGHEST_HU = 7168  # HU of metal, with a margin; scanners store at most 13 bits
_HU_OFFSETS = (1024, 32768)  # offsets of HU in the TIFF files of COVID-CTset, and in the PNG files of DeepLesion
_WRAPPED = 8192  # values of int16 that were stored as uint16 are less than this away from 0 or from 65,536
_BRIGHT = 40960  # a picture of the full range has at least one pixel this bright
_BAND = 64  # rows that are looked at together, because a comparison of all would take much memory

Values = NDArray[np.uint16]


class SixteenBits:
    """The 16-bit values of a file. All grey pages are judged together, and all colour pages are judged together.

    So a page without air or tissue, or a dark page, is read like the other pages. `notes`: the note on grey slices, if
    the values so far are HU.
    """

    def __init__(self) -> None:
        self._greys, self._colours = _Range(), _Range()

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"hu_{offset}",) if (offset := self._greys.hu_offset) else ()

    def to_grey(self, image: Image.Image) -> tuple[Image.Image, str]:
        """Add the values of a page in one of `MODES`. Return the page in mode L, and the name of its mode.

        Both depend on all values so far.
        """
        values = np.asarray(image)
        self._greys.add(values[top : top + _BAND] for top in range(0, len(values), _BAND))
        if offset := self._greys.hu_offset:
            return Image.fromarray(lung_window(values.astype(np.int32) - offset)), f"{image.mode} HU+{offset}"
        return Image.fromarray(_FROM_16_BITS[values]), image.mode

    def add_colours(self, image: Image.Image) -> None:
        """Add the values of a page of colours, or of grey with alpha. Pillow has kept only their high bytes."""
        self._colours.add(_bands_of_colours(image))

    def check(self) -> None:
        """Raise SliceRejected(`unsupported`) if the values have no known meaning.

        Grey values must be HU or of the full range. Colours must be of the full range.
        """
        # if all grey values are 0, the pages are black in any case
        if self._greys.brightest and not self._greys.hu_offset:
            self._greys.check_full_range()
        if self._colours.is_used:  # only the high bytes of colours are known, so 0 to 255 look like black
            self._colours.check_full_range()


class _Range:
    """The range of the values of several pages.

    `brightest`: the highest value. `_low`, `_high`: the lowest and highest value, without pages of only black and
    white. A page of only black and white looks the same in any range. `_has_middle`: not all values are near 0 or near
    65,536.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.brightest = 0
        self._low, self._high = 65535, 0
        self._has_middle = False

    def add(self, page: Iterable[Values]) -> None:
        """Add the values of a page, in bands. Stop as soon as the values are certainly of the full range."""
        if self._has_middle and self._high >= _BRIGHT:
            return
        self.is_used = True
        low, high, is_blank, has_middle = 65535, 0, True, False
        for band in page:
            ends = int(band.min()), int(band.max())
            low, high = min(low, ends[0]), max(high, ends[1])
            is_blank = is_blank and not _has(band, ends, 1, 65534)
            has_middle = has_middle or _has(band, ends, _WRAPPED, 65535 - _WRAPPED)
            if has_middle and high >= _BRIGHT:
                break
        self.brightest = max(self.brightest, high)
        if not is_blank:
            self._low, self._high = min(self._low, low), max(self._high, high)
            self._has_middle |= has_middle

    @property
    def hu_offset(self) -> int | None:
        """Return the offset of the values if they are HU, else None."""
        for offset in _HU_OFFSETS:
            has_air = offset - 1024 <= self._low <= offset + LOWEST_AIR
            if has_air and offset + HIGHEST_TISSUE <= self._high < offset + _HIGHEST_HU:
                return offset
        return None

    def check_full_range(self) -> None:
        """Raise SliceRejected(`unsupported`) unless the values are grey levels or colours over the full 16 bits.

        If all values are near 0 or near 65,536, negative HU were stored as unsigned numbers. Their offset is not known.
        """
        high = self._high or self.brightest
        is_wrapped = self._high >= 65536 - _WRAPPED and not self._has_middle
        if is_wrapped or high < _BRIGHT:
            detail = f"16-bit values up to {high}: neither HU in grey nor grey levels over the full 16 bits."
            if is_wrapped:
                detail = "16-bit values that look like negative numbers stored as unsigned ones; store HU + 1024."
            raise SliceRejected("unsupported", detail)


def _has(band: Values, ends: tuple[int, int], first: int, last: int) -> bool:
    """Return whether a value lies from `first` to `last`. `ends`: the lowest and the highest value."""
    if any(first <= end <= last for end in ends):
        return True
    return ends[0] < first and last < ends[1] and bool(((band >= first) & (band <= last)).any())


def _bands_of_colours(image: Image.Image) -> Iterator[Values]:
    colours = len(image.getbands()) - image.mode.endswith(("A", "X"))
    for top in range(0, image.height, _BAND):
        band = image.crop((0, top, image.width, min(top + _BAND, image.height)))
        yield np.asarray(band)[..., :colours] * _FROM_8_BITS
