"""Exports a model version as one file: a TAR of `package.json` and the files that it names.

The TAR is plain (POSIX.1-1988 ustar), with regular files, plain names, no owner and no time. So every export of a
version has the same bytes. Pictures of slices are included only on request, because other sites have no right to see
them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from db.models import ModelVersion
from db.registry.manifest import MANIFEST, OF_SLICES, parse_manifest
from db.registry.tar_stream import END, tar_member, tar_size
from db.storage import storage

PIECE = 1 << 20


def export_package(version: ModelVersion, *, with_slices: bool = False) -> Iterator[bytes]:
    """Yield the bytes of the version's export in pieces. Check the hash of each stored file before sending it.

    `with_slices`: include pictures of slices. Raises storage's FileMissing and FileDamaged.
    """
    manifest = shipped_manifest(version, with_slices=with_slices)
    yield from tar_member(MANIFEST, len(manifest), [manifest])
    for name in _names(version, with_slices=with_slices):
        path = storage().verified_path(version.files[name])
        yield from tar_member(name, path.stat().st_size, _pieces_of(path))
    yield END


def export_size(version: ModelVersion, *, with_slices: bool = False) -> int:
    """Return how many bytes `export_package` yields. Raises storage's FileMissing and FileDamaged."""
    members = [(MANIFEST, len(shipped_manifest(version, with_slices=with_slices)))]
    for name in _names(version, with_slices=with_slices):
        members.append((name, storage().local_path(version.files[name]).stat().st_size))
    return tar_size(members)


def shipped_manifest(version: ModelVersion, *, with_slices: bool = False) -> bytes:
    """Return the `package.json` of an export. It names exactly the files in the export.

    It has the present rule of findings of the version.

    Raises storage's FileMissing and FileDamaged.
    """
    stored = storage().read(version.files[MANIFEST])
    package = parse_manifest(stored)
    changed: dict[str, Any] = {}
    if version.finding_rule != package.finding_rule:
        changed["finding_rule"] = version.finding_rule
    sent = set(_names(version, with_slices=with_slices))
    if package.files.keys() != sent:
        changed["files"] = {name: sha256 for name, sha256 in package.files.items() if name in sent}
    return package.model_copy(update=changed).as_bytes() if changed else stored


def _names(version: ModelVersion, *, with_slices: bool) -> list[str]:
    left_out = {MANIFEST} if with_slices else {MANIFEST, *OF_SLICES}
    return sorted(name for name in version.files if name not in left_out)


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
