"""Values of DICOM elements, as far as files state them."""

import hashlib
import math

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from worker.imaging.display_names import display_name
from worker.imaging.rejections import SliceRejected

MAX_UID = 128


def texts_of(dataset: Dataset, keyword: str) -> list[str]:
    """Return the values of a text element; none if it is missing."""
    value = dataset.get(keyword)
    if value is None or isinstance(value, str):
        return [value] if value else []
    return [str(part) for part in value]


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element, or ""."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \x00")


def label_of(dataset: Dataset, keyword: str) -> str:
    """Return the text as a display name of at most 64 characters, or ""."""
    try:
        return display_name(text_of(dataset, keyword))[:64]
    except (LookupError, ValueError):  # its character set is unknown; pixels do not depend on it
        return ""


def uid_of(dataset: Dataset, keyword: str) -> str:
    """Return a UID, or "". Where 64 characters are allowed, up to 128 are kept; a longer one ends with its hash."""
    try:
        text = text_of(dataset, keyword)
    except (LookupError, ValueError):
        return ""
    uid = display_name(text)
    if max(len(text), len(uid)) <= MAX_UID:
        return uid
    return f"{uid[:64]}…{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an element. Raises SliceRejected(`malformed`).

    Numbers in text may have a decimal comma, as some writers take it from the language of their system.
    """
    element = dataset.get_item(keyword)
    if element is None:
        return []
    parts: list[object]
    if isinstance(element.value, bytes) and (element.VR or dictionary_VR(element.tag)) in ("DS", "IS"):
        text = element.value.decode("ascii", "replace").replace(",", ".")
        parts = list(text.strip(" \x00").split("\\"))
    else:
        value = dataset.get(keyword)
        parts = [value] if isinstance(value, str | int | float) else list(value or ())
    try:
        numbers = [float(part) for part in parts if part != ""]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return a finite number, or None if it is missing. Raises SliceRejected(`malformed`)."""
    numbers = numbers_of(dataset, keyword)
    if len(numbers) > 1:
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers[0] if numbers else None


def integer_of(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Return a whole number. Raises SliceRejected(`malformed`), also if it is missing and has no default."""
    number = number_of(dataset, keyword)
    value = default if number is None else number
    if value is None:
        raise SliceRejected("malformed", f"{keyword} is missing.")
    return int(value)


def integer_or_none(dataset: Dataset, keyword: str) -> int | None:
    """Return a number that only sorts slices, or None if it does not fit 32 bits: the slice is not rejected for it."""
    try:
        number = number_of(dataset, keyword)
    except (SliceRejected, ValueError):
        return None
    return int(number) if number is not None and abs(number) < 1 << 31 else None
