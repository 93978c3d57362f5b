"""Keyset pages: some items, and a cursor that says where the next ones begin."""

import base64
import json
import math
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class BadCursor(ValueError):
    """A page's cursor that this server did not make."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and where the next ones begin (None: there are none)."""

    items: list[T]
    next_cursor: str | None


def encode(*key: Any) -> str:
    """A cursor of this key: numbers and text."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode(cursor: str, *types: type) -> list[Any]:
    """The key of a cursor, its parts of these types. Raises BadCursor."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise BadCursor("not a cursor of this server") from None
    if not isinstance(key, list) or len(key) != len(types):
        raise BadCursor("not a cursor of this server")
    if not all(_fits(value, type_) for value, type_ in zip(key, types, strict=True)):
        raise BadCursor("not a cursor of this server")
    return key


def _fits(value: Any, type_: type) -> bool:
    """Whether a database takes this part of a cursor: no NUL in text, no integer past 64 bits, no infinity."""
    if type(value) is str:
        return type_ is str and "\0" not in value
    if type(value) is int:
        return type_ in (int, float) and abs(value) < 2**63
    return type(value) is float and type_ is float and math.isfinite(value)
