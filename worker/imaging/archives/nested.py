"""Reads archives inside an archive, one level deep. Their files become entries of the outer archive."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

from worker.imaging.archives.entries import Content, Entries, Entry
from worker.imaging.archives.region import Region
from worker.imaging.display_names import display_name
from worker.imaging.file_types import is_archive_name
from worker.imaging.rejections import ArchiveRefused, SliceRejected

Opener = Callable[[Region, str], tuple[str, Entries]]
"""Takes a file and its name. Returns its kind and its entries. If it is not an archive, its kind is `file`, and
it is itself the only entry."""

_OF_ALL = ("too_many_entries", "too_large_unpacked")
"""If the inner archive is refused with one of these codes, so is the outer one: these limits count both together."""


def flat(entries: Entries, open_: Opener) -> Entries:
    """Yield entries, numbered from 0. If an entry is an archive, yield its entries in its place.

    The name only suggests an archive. The bytes decide. Raises ArchiveRefused, OSError.
    """
    ordinal = count()
    for entry in entries:
        if entry.open is None or not is_archive_name(entry.name[-5:].encode()):
            places = iter((entry,))
        else:
            places = _inside(entry, entry.open, open_)
        for place in places:
            number = next(ordinal)
            yield place if place.ordinal == number else replace(place, ordinal=number)


def _inside(entry: Entry, take_out: Callable[[], Region], open_: Opener) -> Entries:
    """Yield the entries of an inner archive. If the archive is refused, end with a rejected entry."""
    damage: list[ArchiveRefused] = []

    def read(inner: Entry) -> Content:
        try:
            return inner.read()
        except ArchiveRefused as refusal:
            if refusal.code in _OF_ALL:
                raise
            damage.append(refusal)
            return SliceRejected(refusal.code, refusal.detail)

    try:
        file = take_out()
    except SliceRejected as rejection:
        yield _rejected(entry, rejection)
        return
    try:
        kind, entries = open_(file, entry.name)
        folder = "" if kind == "file" else f"{entry.name}/"
        for inner in entries:
            yield Entry(inner.ordinal, display_name(folder + inner.name), inner.size, partial(read, inner))
            if damage:
                raise damage[0]
    except ArchiveRefused as refusal:
        if refusal.code in _OF_ALL:
            raise
        yield _rejected(entry, SliceRejected(refusal.code, refusal.detail))


def _rejected(entry: Entry, rejection: SliceRejected) -> Entry:
    return Entry(entry.ordinal, entry.name, entry.size, lambda: rejection)
