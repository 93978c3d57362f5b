"""A model version as one file, for sites without a network: a TAR with `package.json` first, then the files it names.

The TAR is plain (POSIX.1-1988 ustar): regular files, plain names, no owner and no time, so that the same version always
gives the same bytes. It may be compressed by gzip. An import believes nothing of it: names, sizes and numbers are
bounded before anything is read, every file is hashed while it is received, and only when all hashes are those of
`package.json` do the files get their place in storage and the version its row. Nothing is unpickled, no network is
loaded.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import one_at_a_time
from db.models import ModelVersion
from db.registry.keras_safety import HarmfulModel, check_keras_archive
from db.registry.manifest import BadManifest, Manifest, read_manifest
from db.registry.proof_file import PROOF_FILE, BadProof, read_proof_file
from db.registry.versions import MANIFEST, add_version
from db.storage import Receiver, storage
from db.tar_stream import BLOCK, END, tar_member, tar_size

GZIP = b"\x1f\x8b"
PIECE = 1 << 20
MAX_FILES = 64
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30
MAX_BYTES = 4 << 30


class PackageRefused(Exception):
    """This file is no package that can be imported; one line for people says why. Nothing of it was kept."""


def export_package(version: ModelVersion) -> Iterator[bytes]:
    """The bytes of the version's file, a piece at a time; each stored file's hash is checked before it is sent.

    Raises storage's FileMissing and FileDamaged.
    """
    names = [MANIFEST, *sorted(name for name in version.files if name != MANIFEST)]
    for name in names:
        path = storage().verified_path(version.files[name])
        yield from tar_member(name, path.stat().st_size, _pieces_of(path))
    yield END


def _pieces_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def export_size(version: ModelVersion) -> int:
    """How many bytes `export_package` gives. Raises storage's FileMissing."""
    return tar_size((name, storage().local_path(sha256).stat().st_size) for name, sha256 in version.files.items())


@dataclass(frozen=True)
class ReceivedPackage:
    """A package whose files are verified and in storage."""

    manifest: Manifest
    files: dict[str, str]


def import_package(path: Path, recipe: str) -> ReceivedPackage:
    """Receive a file that `export_package` made, for `register_received`; `recipe` is the one slices are prepared by.

    Raises PackageRefused, naming the file; OSError.
    """
    try:
        with _opened(path) as file, ExitStack() as stack:
            manifest = _manifest(file, recipe)
            receivers = _receive_files(file, manifest, stack)
            _check_hashes(manifest, receivers)
            _check_contents(receivers)
            for receiver in receivers.values():
                receiver.publish()
    except (PackageRefused, BadManifest, HarmfulModel, BadProof) as error:
        raise PackageRefused(f"{path.name}: {error}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PackageRefused(f"{path.name}: the file is damaged or cut off") from error
    return ReceivedPackage(manifest, {**manifest.files, MANIFEST: storage().put(manifest.source)})


def register_received(s: Session, received: ReceivedPackage) -> tuple[ModelVersion, bool]:
    """The version of a received package, and whether it is new: a package that is here already gives the same version.

    What its maker's database knew (run, split, lineage) is kept under `facts["imported"]`: those ids and names mean
    nothing here, or something else.
    """
    one_at_a_time(s, ModelVersion.__tablename__)
    query = select(ModelVersion).where(ModelVersion.name == received.manifest.name).order_by(ModelVersion.id)
    for version in s.scalars(query):
        if version.files == received.files:
            return version, False
    values = dict(received.manifest.values)
    extra: dict[str, Any] = values.get("extra", {})
    foreign = {key: extra[key] for key in ("run", "split", "lineage") if key in extra}
    values["extra"] = {**{k: v for k, v in extra.items() if k not in foreign}, "imported": foreign}
    return add_version(s, values, received.files), True


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the TAR, which may be compressed by gzip; no more of it is inflated than the caps on its members allow."""
    with path.open("rb") as file:
        is_gzip = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not is_gzip:
            yield file
            return
        with gzip.open(file) as inflated:
            yield cast(IO[bytes], inflated)


def _manifest(file: IO[bytes], recipe: str) -> Manifest:
    name, size = _next(file) or ("", 0)
    if name != MANIFEST:
        raise PackageRefused(f"it is no exported model version: it does not begin with {MANIFEST}")
    if size > MAX_MANIFEST_BYTES:
        raise PackageRefused(f"its {MANIFEST} is larger than the {MAX_MANIFEST_BYTES >> 20} MiB that are accepted")
    return read_manifest(b"".join(_pieces(file, size)), recipe, MAX_FILES)


def _receive_files(file: IO[bytes], manifest: Manifest, stack: ExitStack) -> dict[str, Receiver]:
    """Receive every file into storage's incoming folder; what is not published when `stack` ends is removed."""
    receivers: dict[str, Receiver] = {}
    total = 0
    while (member := _next(file)) is not None:
        name, size = member
        if name not in manifest.files or name in receivers:
            raise PackageRefused(f"it holds {_shown(name)}, which {MANIFEST} does not name, or holds it twice")
        total += size
        if size > MAX_FILE_BYTES or total > MAX_BYTES:
            raise PackageRefused(f"it holds more than the {MAX_BYTES >> 30} GiB that are accepted")
        receivers[name] = receiver = storage().receive()
        stack.callback(receiver.abort)
        for piece in _pieces(file, size):
            receiver.write(piece)
    return receivers


def _next(file: IO[bytes]) -> tuple[str, int] | None:
    """Name and size of the next regular file; None at the end mark. Raises PackageRefused."""
    header = file.read(BLOCK)
    if header and not header.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise PackageRefused("the file is damaged, cut off, or no exported model version") from error
    if not info.isreg() or info.size < 0:
        raise PackageRefused(f"{_shown(info.name)} is no regular file")
    return info.name, info.size


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """A member's bytes, and the source moved behind its padding. Raises PackageRefused where the file ends before."""
    left = size
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise PackageRefused("the file is cut off")
        left -= len(piece)
        yield piece
    if len(file.read(-size % BLOCK)) != -size % BLOCK:
        raise PackageRefused("the file is cut off")


def _check_hashes(manifest: Manifest, receivers: dict[str, Receiver]) -> None:
    for name, expected in manifest.files.items():
        if name not in receivers:
            raise PackageRefused(f"{name} is missing")
        if receivers[name].finish().sha256 != expected:
            raise PackageRefused(f"{name} holds other bytes than the package was made with")


def _check_contents(receivers: dict[str, Receiver]) -> None:
    for name, receiver in receivers.items():
        if name.endswith(".keras"):
            try:
                check_keras_archive(receiver.path)
            except HarmfulModel as error:
                raise PackageRefused(f"{name} {error}") from error
        if name == PROOF_FILE:
            read_proof_file(receiver.path)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "…")
