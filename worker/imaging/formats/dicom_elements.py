"""Reads the elements of a DICOM data set up to its pixels, with pydicom.

Ignores faults that do not affect the pixels.
"""

from typing import Literal

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag
from pydicom.valuerep import TEXT_VR_DELIMS

from worker.imaging.formats.memory_file import MemoryFile
from worker.imaging.rejections import SliceRejected

MAX_DEPTH = 32
"""Sequences in sequences; CT slices need three or four."""

PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
"""Value representations whose length has four bytes, after two zero bytes."""

_CHARACTER_SET = BaseTag(0x00080005)
_TEXTS = (BaseTag(0x00100020), BaseTag(0x00100021), BaseTag(0x0008103E))
"""The texts that are used: the patient ID, its issuer, and the description of the series."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DELIMITERS = 0xFFFE
_LEAST_NESTED = 16 * MAX_DEPTH
"""The least size, in bytes, of sequences that are nested too deep: each level has two headers (element and item)."""


def is_vr(two: bytes | memoryview) -> bool:
    """Return whether these two bytes are a value representation."""
    text = bytes(two)
    return text.isalpha() and text.isupper()


class Elements:
    """The elements of a data set up to its pixels.

    After `dataset()`, `end` is the place of the pixels or the end of the data. `notes` say what was odd.
    """

    def __init__(self, data: memoryview, *, is_implicit: bool, is_big_endian: bool) -> None:
        self._data, self._file = data, MemoryFile(data)
        self._is_implicit, self._is_big_endian = is_implicit, is_big_endian
        self._order: Literal["big", "little"] = "big" if is_big_endian else "little"
        self._elements: dict[BaseTag, RawDataElement | DataElement] = {}
        self._stopped_at: BaseTag | None = None
        self.end = 0
        self.notes: set[str] = set()

    def dataset(self) -> Dataset:
        """Read the elements. Raises SliceRejected(`malformed`), and pydicom's errors."""
        try:
            encodings = self._read()
        except (LookupError, ValueError):  # the character set's name has a NUL, so there is no codec
            self._blank_character_set()
            encodings = self._read()
        if self._file.is_cut or not all(map(_is_whole, self._elements.values())):
            raise SliceRejected("malformed", "The file ends within an element.")
        self.end = self._file.tell()
        self._decode_misfits(encodings)
        dataset = Dataset(self._elements)
        dataset.set_original_encoding(self._is_implicit, not self._is_big_endian, encodings)
        _check_depth(dataset)
        return dataset

    def _read(self) -> list[str]:
        """Read the elements, and return the encodings of their texts."""
        while self._stopped_at != PIXEL_DATA and self._file.has_more():
            self._stopped_at = None
            elements = data_element_generator(self._file, self._is_implicit, not self._is_big_endian, self._stop)
            try:
                for element in elements:
                    self._elements[element.tag] = element
            except EOFError:
                raise SliceRejected("malformed", "The file ends within an element.") from None
            self._step_over()
        return self._encodings()

    def _stop(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Return whether to stop before this element's value: the value is the pixels, or pydicom would misread it."""
        is_odd = False
        if tag >> 16 == _DELIMITERS:
            self.notes.add("stray_delimiter")
            is_odd = length == UNDEFINED
        elif vr is None and not self._is_implicit:
            self.notes.add("no_vr")
            is_odd = length != UNDEFINED and not self._is_landing(tag, self._file.tell() + length)
        if is_odd or tag == PIXEL_DATA:
            self._stopped_at = tag
        return self._stopped_at is not None

    def _step_over(self) -> None:
        """Go on after a stop. Skip the header of a delimiter or an item, or read an element whose VR is blank."""
        tag, at = self._stopped_at, self._file.tell()
        if tag is None:
            if self._file.has_more():  # pydicom stops at the end of an item
                self.notes.add("stray_delimiter")
        elif tag >> 16 == _DELIMITERS:
            self._file.seek(at + 8)
        elif tag != PIXEL_DATA:
            self._read_blank(tag, at)

    def _read_blank(self, tag: BaseTag, at: int) -> None:
        """Read an element whose VR is blank. Try the short and the long form of an explicit length."""
        short = at + 8, int.from_bytes(self._data[at + 6 : at + 8], self._order)
        long = at + 12, int.from_bytes(self._data[at + 8 : at + 12], self._order)
        for start, length in (short, long):
            if self._is_landing(tag, start + length):
                value = bytes(self._data[start : start + length])
                vr = _known_vr(tag)
                raw = RawDataElement(tag, vr, length, value, start, False, not self._is_big_endian)
                self._elements[tag] = raw
                self._file.seek(start + length)
                return
        raise SliceRejected("malformed", "An element states neither its type nor a length that fits.")

    def _is_landing(self, tag: BaseTag, at: int) -> bool:
        """Return whether the data end at `at`, or an element starts there that may follow the element `tag`."""
        if at + 8 > len(self._data):
            return at == len(self._data)
        following = (int.from_bytes(self._data[at + i : at + i + 2], self._order) for i in (0, 2))
        group, number = following
        is_known = is_vr(self._data[at + 4 : at + 6]) or group == _DELIMITERS
        return (group << 16 | number) > tag and is_known

    def _encodings(self) -> list[str]:
        element = self._elements.get(_CHARACTER_SET)
        if not isinstance(element, RawDataElement) or not element.value:
            return [default_encoding]
        names = [name.strip() for name in bytes(element.value).decode("ascii", "replace").strip(" \x00").split("\\")]
        if not all(name in python_encoding for name in names):
            self.notes.add("bad_charset")
        return list(convert_encodings(names))

    def _decode_misfits(self, encodings: list[str]) -> None:
        """Decode texts that do not fit the character set as Latin-1.

        pydicom would put the same replacement character for each byte that does not fit. IDs of two patients could then
        become equal. In Latin-1, each byte is another character.
        """
        for tag in _TEXTS:
            raw = self._elements.get(tag)
            value = raw.value if isinstance(raw, RawDataElement) else None
            if value and _REPLACEMENT in decode_bytes(value, encodings, TEXT_VR_DELIMS):
                self._elements[tag] = DataElement(tag, "LO", value.decode("latin-1"))
                self.notes.add("bad_charset")

    def _blank_character_set(self) -> None:
        """Replace the name of the character set with spaces. Text may then look odd, but pixels do not change."""
        blank = bytearray(self._data)
        at = blank.find(b"\x00\x08\x00\x05" if self._is_big_endian else b"\x08\x00\x05\x00")
        if at >= 0:
            field = slice(at + 4, at + 8) if self._is_implicit else slice(at + 6, at + 8)
            end = min(at + 8 + int.from_bytes(blank[field], self._order), len(blank))
            blank[at + 8 : end] = b" " * (end - at - 8)
        self._data, self._file = memoryview(blank), MemoryFile(memoryview(blank))
        self._elements, self._stopped_at = {}, None
        self.notes = {"bad_charset"}


def _check_depth(dataset: Dataset, depth: int = 0) -> None:
    """Raise SliceRejected(`malformed`) if sequences are nested too deep. pydicom parses them only when needed."""
    if depth > MAX_DEPTH:
        raise SliceRejected("malformed", f"Sequences are nested deeper than {MAX_DEPTH}.")
    for tag in [element.tag for element in dataset.values() if _may_be_deep(element)]:
        for item in dataset[tag].value or ():
            _check_depth(item, depth + 1)


def _may_be_deep(element: DataElement | RawDataElement) -> bool:
    if isinstance(element, RawDataElement):
        return element.length >= _LEAST_NESTED and (element.VR or _known_vr(element.tag)) == "SQ"
    return bool(element.VR == "SQ")


def _is_whole(element: object) -> bool:
    if not isinstance(element, RawDataElement) or element.length == UNDEFINED:
        return True
    return bool(element.length <= len(element.value or b""))


def _known_vr(tag: BaseTag) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
