"""Reads the header of a DICOM file with pydicom, and finds its pixels (PS3.5 7, PS3.10 7.1).

It runs in the sandbox, which limits what pydicom does not limit: memory, time, and the depth of the recursion. Real
files break rules that do not affect the pixels. These harmless faults are noted (`db.reasons.SLICE_NOTES`).
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from worker.imaging.formats.dicom_elements import LONG, PIXEL_DATA, UNDEFINED, Elements, is_vr
from worker.imaging.formats.dicom_values import MAX_UID, text_of
from worker.imaging.rejections import SliceRejected

_UNCOMPRESSED = (
    "",
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.")
ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_META_SOP_CLASS, _META_SYNTAX = 0x0002, 0x0010  # elements of group 0002


@dataclass(frozen=True)
class DicomFile:
    """The parts of a DICOM file.

    `syntax`: the transfer syntax that is stated, or that the first element suggests. `dataset`: the elements before the
    pixels. `pixels`: the value of the pixel element, or None if there is none. `is_cut`: the pixel element is longer
    than the file, so there is no value. `is_encapsulated`: the pixels consist of fragments. `has_big_endian_words`: the
    pixels consist of big-endian words of two bytes, even if a pixel has 8 bits (PS3.5 8.1.1). `notes`: what was odd.
    """

    syntax: str
    dataset: Dataset
    pixels: memoryview | None
    is_cut: bool
    is_encapsulated: bool
    has_big_endian_words: bool
    notes: frozenset[str]


def read_dicom(data: memoryview, max_inflated: int) -> DicomFile:
    """Read a file with or without preamble and file meta information.

    Some programs that remove names also empty the SOP class in the data set. The SOP class is then read from the file
    meta information.

    Raises SliceRejected: `unsupported` for a private transfer syntax, `malformed` for elements longer than the file and
    sequences nested deeper than `dicom_elements.MAX_DEPTH`, `too_large_unpacked` for a deflated data set of more than
    `max_inflated` bytes. Other errors are pydicom's.
    """
    has_preamble = bytes(data[128:132]) == b"DICM"
    start, syntax, sop_class = _read_meta(data, 132 if has_preamble else 0)
    notes = set() if has_preamble and syntax else {"no_preamble"}
    data = data[start:]
    if syntax not in _UNCOMPRESSED and not syntax.startswith(_ENCAPSULATED):
        raise SliceRejected("unsupported", f"DICOM transfer syntax {syntax[:64]} is not read.")
    if syntax == DeflatedExplicitVRLittleEndian:
        data, has_tail = _inflate(data, max_inflated)
        notes |= {"trailing_bytes"} if has_tail else set()
    is_big_endian = syntax == ExplicitVRBigEndian or (not syntax and bytes(data[:1]) == b"\0")
    is_implicit = _looks_implicit(data)
    if syntax and is_implicit != (syntax == ImplicitVRLittleEndian):
        notes.add("other_vr")
    elements = Elements(data, is_implicit=is_implicit, is_big_endian=is_big_endian)
    dataset = elements.dataset()
    notes |= elements.notes
    if sop_class and not text_of(dataset, "SOPClassUID"):
        dataset.SOPClassUID = sop_class
        notes.add("no_sop_class")
    pixels, is_encapsulated, end = _pixels(data, elements.end, "big" if is_big_endian else "little")
    is_cut = pixels is None and end > len(data)
    if pixels is not None and not _is_well_ended(data[end:], is_implicit, is_big_endian):
        notes.add("trailing_bytes")
    if is_encapsulated and syntax in _UNCOMPRESSED:
        notes.add("compressed")
    stated = syntax or (ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian)
    has_words = is_big_endian and bytes(data[elements.end + 4 : elements.end + 6]) != b"OB"
    return DicomFile(stated, dataset, pixels, is_cut, is_encapsulated, has_words, frozenset(notes))


def _looks_implicit(data: memoryview) -> bool:
    """Return whether the VR is implicit: neither the first nor the second element states a VR.

    One element is not enough, because in an explicit data set the first element may lack its VR.
    """
    second = 8 + int.from_bytes(data[4:8], "little")
    return not is_vr(data[4:6]) and not is_vr(data[second + 4 : second + 6])


def _pixels(data: memoryview, at: int, order: Literal["big", "little"]) -> tuple[memoryview | None, bool, int]:
    """Return the value of the element at `at`, whether the value is encapsulated, and where it ends.

    There is no value if the element is missing or would end after the data.
    """
    if at + 8 > len(data):
        return None, False, at
    start, length = _value(data, at, order)
    if length == UNDEFINED:
        end = _end_of_fragments(data, start)
        return data[start:end], True, end
    if start + length > len(data):
        return None, False, start + length
    return data[start : start + length], False, start + length


def _value(data: memoryview, at: int, order: Literal["big", "little"]) -> tuple[int, int]:
    """Return where the value of the element at `at` starts, and its length, with an explicit or an implicit VR."""
    vr = bytes(data[at + 4 : at + 6])
    if not is_vr(vr):
        return at + 8, int.from_bytes(data[at + 4 : at + 8], order)
    if vr in LONG:
        return at + 12, int.from_bytes(data[at + 8 : at + 12], order)
    return at + 8, int.from_bytes(data[at + 6 : at + 8], order)


def _end_of_fragments(data: memoryview, at: int) -> int:
    """Return where the fragments end (PS3.5 A.4). Without a delimiter, that is the end of the data."""
    while bytes(data[at : at + 4]) == ITEM:
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return at + 8 if bytes(data[at : at + 4]) == _SEQUENCE_END else len(data)


def _is_well_ended(rest: memoryview, is_implicit: bool, is_big_endian: bool) -> bool:
    """Return whether nothing follows the pixels, or only elements that may follow them, and nothing odd."""
    if not rest:
        return True
    try:
        elements = Elements(rest, is_implicit=is_implicit, is_big_endian=is_big_endian)
        dataset = elements.dataset()
    except Exception:  # pydicom raises errors of many kinds for bytes that are not elements
        return False
    return not elements.notes and all(tag > PIXEL_DATA for tag in dataset.keys())  # noqa: SIM118  tags, not elements


class _Meta(NamedTuple):
    end: int
    syntax: str
    sop_class: str


def _read_meta(data: memoryview, at: int) -> _Meta:
    """Return where the data set starts, and its transfer syntax and SOP class, or "" for what is not stated.

    Group 0002 should state its VRs. Files of the 1990s do not state them.
    """
    uids: dict[int, str] = {}
    while at + 8 <= len(data) and bytes(data[at : at + 2]) == b"\x02\x00":
        value, length = _value(data, at, "little")
        if value + length > len(data):
            raise SliceRejected("malformed", "An element of the file meta information is longer than the file.")
        element = int.from_bytes(data[at + 2 : at + 4], "little")
        if element in (_META_SOP_CLASS, _META_SYNTAX):
            text = bytes(data[value : value + min(length, MAX_UID)])
            uids[element] = text.decode("ascii", "replace").strip(" \x00")
        at = value + length
    return _Meta(at, uids.get(_META_SYNTAX, ""), uids.get(_META_SOP_CLASS, ""))


def _inflate(data: memoryview, limit: int) -> tuple[memoryview, bool]:
    """Return the inflated data set, and whether bytes follow it."""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise SliceRejected("malformed", "The deflated data set is damaged.") from None
    if len(inflated) > limit:
        raise SliceRejected("too_large_unpacked", f"Its data set inflates to more than {limit} bytes.")
    return memoryview(inflated), any(inflater.unused_data)
