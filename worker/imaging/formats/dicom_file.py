"""Reads the header of a DICOM file by pydicom, and finds where its pixels lie (PS3.5 7, PS3.10 7.1).

It runs in the sandbox, whose limits hold what pydicom does not bound: memory, time, and the depth of its recursion.
Real files break rules that do not concern pixels, and pydicom reads past most of them.
"""

import io
import zlib
from dataclasses import dataclass
from typing import Literal

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from worker.imaging.rejections import SliceRejected

MAX_DEPTH = 32
"""Sequences in sequences; CT slices need three or four."""

PIXEL_DATA = 0x7FE00010
_CHARACTER_SET = b"\x08\x00\x05\x00"
_UNCOMPRESSED = (
    "",
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.")
_UNDEFINED = 0xFFFFFFFF
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


@dataclass(frozen=True)
class DicomFile:
    """`syntax`: the transfer syntax as stated, or as the first element looks. `dataset`: the elements before the
    pixels. `pixels`: their value, or None if the file holds none; fragments up to the file's end if `is_encapsulated`.
    `has_big_endian_words`: of two bytes each, where pixels have 8 bits too (PS3.5 8.1.1).
    """

    syntax: str
    dataset: Dataset
    pixels: memoryview | None
    is_encapsulated: bool
    has_big_endian_words: bool


def read_dicom(data: memoryview, max_inflated: int) -> DicomFile:
    """Read a file with or without preamble and file meta information.

    Raises SliceRejected: `unsupported` for a private transfer syntax, `malformed` for elements longer than the file and
    sequences nested deeper than `MAX_DEPTH`, `too_large_unpacked` for a deflated data set of more than `max_inflated`
    bytes. Other errors are pydicom's.
    """
    start, syntax = _read_meta(data, 132 if bytes(data[128:132]) == b"DICM" else 0)
    data = data[start:]
    if syntax not in _UNCOMPRESSED and not syntax.startswith(_ENCAPSULATED):
        raise SliceRejected("unsupported", f"DICOM transfer syntax {syntax[:64]} is not read.")
    if syntax == DeflatedExplicitVRLittleEndian:
        data = _inflate(data, max_inflated)
    is_big_endian = syntax == ExplicitVRBigEndian
    is_implicit = _looks_implicit(data) if not syntax else syntax == ImplicitVRLittleEndian
    file = _View(data)
    try:
        dataset = _read_up_to_pixels(file, is_implicit, is_big_endian)
    except (LookupError, ValueError):  # the character set's name holds a NUL, which no codec can be asked for
        file = _View(_without_character_set(data))
        dataset = _read_up_to_pixels(file, is_implicit, is_big_endian)
    if file.is_cut or not all(map(_is_whole, dataset.values())):
        raise SliceRejected("malformed", "The file ends within an element.")
    _check_depth(dataset)
    rest = data[file.tell() :]
    pixels, is_encapsulated = _pixels(rest, "big" if is_big_endian else "little")
    stated = syntax or (ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian)
    return DicomFile(stated, dataset, pixels, is_encapsulated, is_big_endian and bytes(rest[4:6]) != b"OB")


class _View(io.RawIOBase):
    """A file over memory that is not copied. `is_cut`: a read met the end half-way."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0
        self.is_cut = False

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._at + size
        part = bytes(self._data[self._at : end])
        self._at += len(part)
        self.is_cut |= 0 < len(part) < size
        return part

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def has_more(self) -> bool:
        return self._at < len(self._data)


def _read_up_to_pixels(file: _View, is_implicit: bool, is_big_endian: bool) -> Dataset:
    """Return the elements before the pixels. The file then stands at the pixels, or at its end."""
    at_pixels = False

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal at_pixels
        at_pixels = bool(tag == PIXEL_DATA)
        return at_pixels

    dataset = read_dataset(file, is_implicit, not is_big_endian, stop_when=stop)
    while not at_pixels and file.has_more():  # pydicom ends at a delimiter that has no sequence
        for element in read_dataset(file, is_implicit, not is_big_endian, stop_when=stop).values():
            dataset[element.tag] = element
    return dataset


def _without_character_set(data: memoryview) -> memoryview:
    """Return the data with spaces for the character set's name. Text in it may look odd; pixels do not depend on it."""
    blank = bytearray(data)
    at = blank.find(_CHARACTER_SET)
    if at >= 0:
        length = int.from_bytes(blank[at + 6 : at + 8], "little") or int.from_bytes(blank[at + 4 : at + 6], "little")
        end = min(at + 8 + length, len(blank))
        blank[at + 8 : end] = b" " * (end - at - 8)
    return memoryview(blank)


def _is_whole(element: object) -> bool:
    if not isinstance(element, RawDataElement) or element.length == _UNDEFINED:
        return True
    return bool(element.length <= len(element.value or b""))


def _check_depth(dataset: Dataset, depth: int = 0) -> None:
    """Raise SliceRejected(`malformed`) if sequences are nested too deep. pydicom parses them only when it must."""
    if depth > MAX_DEPTH:
        raise SliceRejected("malformed", f"Sequences are nested deeper than {MAX_DEPTH}.")
    for tag in [element.tag for element in dataset.values() if _vr(element) == "SQ"]:
        for item in dataset[tag].value or ():
            _check_depth(item, depth + 1)


def _vr(element: DataElement | RawDataElement) -> str:
    try:
        return str(element.VR or dictionary_VR(element.tag))
    except KeyError:
        return "UN"


def _pixels(data: memoryview, order: Literal["big", "little"]) -> tuple[memoryview | None, bool]:
    """Return the value of the element that starts here, and whether it is encapsulated."""
    if len(data) < 8:
        return None, False
    vr = bytes(data[4:6])
    is_explicit = vr.isalpha() and vr.isupper()
    if is_explicit and vr in _LONG:
        header, length = 12, int.from_bytes(data[8:12], order)
    elif is_explicit:
        header, length = 8, int.from_bytes(data[6:8], order)
    else:
        header, length = 8, int.from_bytes(data[4:8], order)
    if length == _UNDEFINED:
        return data[header:], True
    if header + length > len(data):
        raise SliceRejected("malformed", "The pixels are longer than the file.")
    return data[header : header + length], False


def _read_meta(data: memoryview, at: int) -> tuple[int, str]:
    """Return where the data set starts, and its transfer syntax; group 0002 is explicit little endian in every file."""
    syntax = ""
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\x02\x00":
        is_long = bytes(data[at + 4 : at + 6]) in _LONG
        value = at + (12 if is_long else 8)
        length = int.from_bytes(data[at + 8 : at + 12] if is_long else data[at + 6 : at + 8], "little")
        if value + length > len(data):
            raise SliceRejected("malformed", "An element of the file meta information is longer than the file.")
        if bytes(data[at + 2 : at + 4]) == b"\x10\x00":
            syntax = bytes(data[value : value + min(length, 128)]).decode("ascii", "replace").strip(" \x00")
        at = value + length
    return at, syntax


def _looks_implicit(data: memoryview) -> bool:
    vr = bytes(data[4:6])
    return not (vr.isalpha() and vr.isupper())


def _inflate(data: memoryview, limit: int) -> memoryview:
    inflater = zlib.decompressobj(wbits=-15)
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise SliceRejected("malformed", "The deflated data set is damaged.") from None
    if len(inflated) > limit:
        raise SliceRejected("too_large_unpacked", f"Its data set inflates to more than {limit} bytes.")
    return memoryview(inflated)
