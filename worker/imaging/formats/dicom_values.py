"""Reads the values of DICOM elements.

Most values are read from the bytes of the element. pydicom's conversion, which checks and keeps its results, would take
a third of the time of reading a slice.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag

from worker.imaging.display_names import display_name
from worker.imaging.rejections import SliceRejected

MAX_UID = 128
_ESCAPE = b"\x1b"  # changes the character set inside a text
_IN_TEXT = ("DS", "IS")
_IN_BYTES = {"US": (2, False), "SS": (2, True), "UL": (4, False), "SL": (4, True)}


def raw_of(dataset: Dataset, keyword: str) -> bytes | None:
    """Return the bytes of an element, or None if the element is missing, empty, or converted already."""
    element = dataset.get_item(_tag(keyword))
    return bytes(element.value) if isinstance(element, RawDataElement) and element.value else None


def texts_of(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of a text element, or [] if it is missing."""
    raw = raw_of(dataset, keyword)
    if raw is not None and raw.isascii() and _ESCAPE not in raw:
        return raw.decode("ascii").split("\\")
    value = dataset.get(keyword)
    if value is None or isinstance(value, str):
        return [value] if value else []
    return [str(part) for part in value] if isinstance(value, list) or hasattr(value, "__iter__") else [str(value)]


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element, or "". Several values are separated by a backslash."""
    return "\\".join(texts_of(dataset, keyword)).strip(" \x00")


def value_of(dataset: Dataset, keyword: str) -> Any:
    """Return the value of an element, or None if it is missing. Raises SliceRejected(`malformed`) if it is damaged."""
    try:
        return dataset.get(keyword)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises errors of many kinds
        raise SliceRejected("malformed", f"{keyword} is damaged.") from error


def items_of(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """Return the items of a sequence, or () if it is missing or not a sequence (for example text).

    Raises SliceRejected(`malformed`) if it is damaged.
    """
    value = value_of(dataset, keyword)
    return value if isinstance(value, Items) else ()


def is_damaged(dataset: Dataset, keyword: str) -> bool:
    """Return whether a sequence, or an element that should hold numbers, cannot be read."""
    read: Callable[[Dataset, str], Any] = items_of if _vr(keyword) == "SQ" else numbers_of
    try:
        read(dataset, keyword)
    except SliceRejected:
        return True
    return False


def label_of(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element as a display name of at most 64 characters, or ""."""
    try:
        return display_name(text_of(dataset, keyword))[:64]
    except (LookupError, ValueError):  # the character set is unknown; pixels do not depend on it
        return ""


def uid_of(dataset: Dataset, keyword: str) -> str:
    """Return a UID, or "" if it is missing or a text without digits, which an anonymiser wrote in place of the UID.

    The standard allows 64 characters, all of them digits and dots. This function keeps up to 128 characters. A longer
    UID is cut, and ends with its hash. A text with digits is kept, because it may be the hash of a UID.
    """
    try:
        text = text_of(dataset, keyword)
    except (LookupError, ValueError):
        return ""
    if not re.search("[0-9]", text):
        return ""
    uid = display_name(text)
    if max(len(text), len(uid)) <= MAX_UID:
        return uid
    return f"{uid[:64]}…{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an element. Raises SliceRejected(`malformed`).

    Numbers in text may have a decimal comma, because some programs follow the language of their system.
    """
    numbers: list[float]
    try:
        numbers = [float(part) for part in _parts(dataset, keyword) if part != ""]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers


def _parts(dataset: Dataset, keyword: str) -> list[Any]:
    """Return the values of an element in a form that `float` can accept."""
    element = dataset.get_item(_tag(keyword))
    if element is None:
        return []
    if isinstance(element, RawDataElement) and element.value:
        raw = bytes(element.value)
        vr = _vr(keyword) if element.VR in (None, "UN") else element.VR
        if vr in _IN_TEXT:
            return raw.decode("ascii", "replace").replace(",", ".").strip(" \x00").split("\\")
        size, signed = _IN_BYTES.get(vr, (0, False))
        if len(raw) == size:
            return [int.from_bytes(raw, "little" if element.is_little_endian else "big", signed=signed)]
    value = value_of(dataset, keyword)
    return [value] if isinstance(value, str | int | float) else list(value or ())


@cache
def _tag(keyword: str) -> BaseTag:
    return BaseTag(tag_for_keyword(keyword))


@cache
def _vr(keyword: str) -> str:
    return str(dictionary_VR(keyword))


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return a finite number, or None if the element is missing. Raises SliceRejected(`malformed`)."""
    numbers = numbers_of(dataset, keyword)
    if len(numbers) > 1:
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers[0] if numbers else None


def integer_of(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return a whole number, or else `default`. Raises SliceRejected(`malformed`), also if both are missing."""
    number = number_of(dataset, keyword)
    value = default if number is None else number
    if value is None:
        raise SliceRejected("malformed", f"{keyword} is missing.")
    return int(value)


def integer_or_none(dataset: Dataset, keyword: str) -> int | None:
    """Return a whole number for sorting slices, or None if it is missing, faulty or above 32 bits. Reject no slice."""
    try:
        number = number_of(dataset, keyword)
    except (SliceRejected, ValueError):
        return None
    return int(number) if number is not None and abs(number) < 1 << 31 else None
