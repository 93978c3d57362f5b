"""The structure of a DICOM file, walked once without recursion before a value is believed (PS3.5 7, PS3.10 7.1).

pydicom alone is not enough. It reads an element that is longer than the file as far as it goes, inflates a deflated
dataset without a bound, and recurses into sequences. So it gets single values only, which are cut out here.
"""

import struct
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR

from worker.imaging.rejections import SliceRejected

MAX_DEPTH = 32
"""Sequences in sequences; CT slices need three or four."""

PIXEL_DATA = 0x7FE00010
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")

_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
_TAG = struct.Struct("<2H")
_U32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Element:
    """A top-level element: `vr` is empty in implicit VR; `length` None where undefined."""

    vr: str
    start: int
    length: int | None


@dataclass(frozen=True)
class Structure:
    """`transfer_syntax` by the file meta group, or if that is missing by the look of the first element."""

    transfer_syntax: str
    implicit: bool
    elements: dict[int, Element]


@dataclass(slots=True)
class _Open:
    """A sequence or item that is not closed yet. `end` is None if a delimiter closes it; `limit` is its latest end."""

    is_sequence: bool
    end: int | None
    limit: int
    implicit: bool
    is_opaque: bool = False  # fragments of encapsulated pixels: items that hold bytes, not elements


def read_structure(data: memoryview) -> Structure:
    """Find all top-level elements.

    Raises SliceRejected: `malformed` for an element longer than what holds it, for sequences nested deeper than
    `MAX_DEPTH` and whatever else breaks the encoding; `unsupported` for deflated, big-endian and private syntaxes.
    """
    start = 132 if bytes(data[128:132]) == b"DICM" else 0
    start, syntax = _read_meta(data, start)
    if not syntax:
        syntax = IMPLICIT if _looks_implicit(data, start) else EXPLICIT
    if syntax not in (IMPLICIT, EXPLICIT) and not syntax.startswith(_ENCAPSULATED):
        raise SliceRejected("unsupported", f"DICOM transfer syntax {syntax[:64]} (deflated, big-endian, private).")
    return Structure(syntax, syntax == IMPLICIT, _Walk(data, start, syntax == IMPLICIT).run())


def _read_meta(data: memoryview, at: int) -> tuple[int, str]:
    """Return where the dataset starts, and its transfer syntax; group 0002 is explicit little endian in every file."""
    syntax = ""
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\x02\x00":
        _, element = _TAG.unpack_from(data, at)
        _, header, length = _explicit_header(data, at)
        if length == _UNDEFINED or at + header + length > len(data):
            raise _malformed("An element of the file meta information is longer than the file.")
        at += header
        if element == 0x0010:
            syntax = bytes(data[at : at + min(length, 128)]).decode("ascii", "replace").strip(" \x00")
        at += length
    return at, syntax


def _looks_implicit(data: memoryview, at: int) -> bool:
    vr = bytes(data[at + 4 : at + 6])
    return not (vr.isalpha() and vr.isupper())


def _explicit_header(data: memoryview, at: int) -> tuple[bytes, int, int]:
    """Return the VR, the bytes of the header, and the length of the value."""
    vr = bytes(data[at + 4 : at + 6])
    if not (vr.isalpha() and vr.isupper()):
        raise _malformed("An element has no value representation.")
    if vr not in _LONG_VRS:
        return vr, 8, int.from_bytes(data[at + 6 : at + 8], "little")
    if at + 12 > len(data):
        raise _malformed("The file ends within an element.")
    return vr, 12, int(_U32.unpack_from(data, at + 8)[0])


class _Walk:
    """One pass over a dataset, with the open sequences and items on a stack of its own."""

    def __init__(self, data: memoryview, start: int, implicit: bool) -> None:
        self._data = data
        self._at = start
        self._open: list[_Open] = []
        self._implicit = implicit
        self._elements: dict[int, Element] = {}

    def run(self) -> dict[int, Element]:
        while True:
            while self._open and self._open[-1].end == self._at:
                self._open.pop()
            if not self._open and (self._at == len(self._data) or self._only_zeros_left()):
                return self._elements
            if self._at + 8 > self._limit:
                raise _malformed("The file ends within an element.")
            group, element = _TAG.unpack_from(self._data, self._at)
            if group == 0xFFFE:
                self._delimiter(element)
            else:
                self._element(group << 16 | element)

    @property
    def _limit(self) -> int:
        return self._open[-1].limit if self._open else len(self._data)

    def _only_zeros_left(self) -> bool:
        """Some archives pad files to even blocks."""
        return not any(self._data[self._at : self._at + 8]) and not any(self._data[self._at :])

    def _delimiter(self, element: int) -> None:
        length = int(_U32.unpack_from(self._data, self._at + 4)[0])
        self._at += 8
        inner = self._open[-1] if self._open else None
        if element == _ITEM and inner and inner.is_sequence:
            if inner.is_opaque:
                self._pass_over(length)
            else:
                self._push(False, length, inner.implicit)
        elif inner and inner.end is None and element == (_SEQUENCE_END if inner.is_sequence else _ITEM_END):
            self._open.pop()
        else:
            raise _malformed("A delimiter stands in a wrong place.")

    def _element(self, tag: int) -> None:
        inner = self._open[-1] if self._open else None
        if inner and inner.is_sequence:
            raise _malformed("A sequence holds something that is not an item.")
        implicit = inner.implicit if inner else self._implicit
        if implicit:
            vr, header, length = b"", 8, int(_U32.unpack_from(self._data, self._at + 4)[0])
        else:
            vr, header, length = _explicit_header(self._data, self._at)
        self._at += header
        if not inner:
            undefined = length == _UNDEFINED
            self._elements[tag] = Element(vr.decode("ascii"), self._at, None if undefined else length)
        self._value(tag, vr, length, implicit)

    def _value(self, tag: int, vr: bytes, length: int, implicit: bool) -> None:
        if length == _UNDEFINED:
            if tag == PIXEL_DATA:
                self._push(True, length, implicit, is_opaque=True)
            elif implicit or vr in (b"SQ", b"UN"):
                self._push(True, length, implicit or vr == b"UN")  # PS3.5 6.2.2: UN holds implicit VR
            else:
                raise _malformed("An element that is not a sequence has no length.")
        elif vr == b"SQ" or (implicit and _is_sequence(tag)):
            self._push(True, length, implicit)
        else:
            self._pass_over(length)

    def _push(self, is_sequence: bool, length: int, implicit: bool, *, is_opaque: bool = False) -> None:
        end = None if length == _UNDEFINED else self._at + length
        if end is not None and end > self._limit:
            raise _malformed("A sequence is longer than what holds it.")
        if len(self._open) >= 2 * MAX_DEPTH:
            raise _malformed(f"Sequences are nested deeper than {MAX_DEPTH}.")
        self._open.append(_Open(is_sequence, end, self._limit if end is None else end, implicit, is_opaque))

    def _pass_over(self, length: int) -> None:
        self._at += length
        if self._at > self._limit:
            raise _malformed("An element is longer than what holds it.")


def _is_sequence(tag: int) -> bool:
    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:
        return False


def _malformed(detail: str) -> SliceRejected:
    return SliceRejected("malformed", detail)
