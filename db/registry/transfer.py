"""Export and import of a model version as one file: a TAR of `package.json`, then the files that it names.

The TAR is plain (POSIX.1-1988 ustar): regular files, plain names, no owner and no time, so the same version always
gives the same bytes. It may be compressed by gzip. An import trusts nothing in it: names, sizes and numbers are bounded
before anything is read, and every file is hashed while it is received. Only if all hashes match `package.json` do the
files go to storage and the version gets its row. Nothing is unpickled, and no network is loaded.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import lock_table
from db.models import ModelVersion
from db.models.documents import Facts, Origin
from db.registry.keras_safety import HarmfulModel, check_keras_archive
from db.registry.manifest import MANIFEST, BadManifest, Package, check_usable, parse_manifest
from db.registry.proof_file import PROOF_FILE, BadProof, read_proof_file
from db.registry.tar_stream import BLOCK, END, tar_member, tar_size
from db.registry.versions import StoredPackage, register_package
from db.storage import Receiver, storage

GZIP = b"\x1f\x8b"
PIECE = 1 << 20
MAX_FILES = 64
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30
MAX_BYTES = 4 << 30


class PackageRefused(Exception):
    """The file cannot be imported, and nothing of it was kept. The message says why, in one line."""


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


def import_package(path: Path, recipe: str) -> StoredPackage:
    """Receive a file that `export_package` made, for `register_received`. `recipe`: by which slices are prepared here.

    Raises PackageRefused, whose message names the file; OSError.
    """
    try:
        with _opened(path) as file, ExitStack() as stack:
            manifest = _manifest_bytes(file)
            package = parse_manifest(manifest)
            check_usable(package, recipe, MAX_FILES)
            receivers = _receive_files(file, package, stack)
            _check_hashes(package, receivers)
            _check_contents(receivers)
            for receiver in receivers.values():
                receiver.publish()
    except (PackageRefused, BadManifest, HarmfulModel, BadProof) as error:
        raise PackageRefused(f"{path.name}: {error}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PackageRefused(f"{path.name}: the file is damaged or cut off") from error
    return StoredPackage(package, {**package.files, MANIFEST: storage().put(manifest)})


def register_received(s: Session, received: StoredPackage) -> tuple[ModelVersion, bool]:
    """Return the version of a received package, and whether it is new: the same package gives the same version.

    Its origin (run, split, lineage) moves to `facts.imported`.
    """
    lock_table(s, ModelVersion)
    query = select(ModelVersion).where(ModelVersion.name == received.package.name).order_by(ModelVersion.id)
    for version in s.scalars(query):
        if version.files == received.files:
            return version, False
    facts = received.package.extra.as_json()
    origin = {name: facts.pop(name) for name in Origin.model_fields if name in facts}
    return register_package(s, received, Facts.of({**facts, "imported": origin})), True


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the TAR, which may be compressed by gzip; the limits on its members bound what is inflated."""
    with path.open("rb") as file:
        is_gzip = file.read(len(GZIP)) == GZIP
        file.seek(0)
        if not is_gzip:
            yield file
            return
        with gzip.open(file) as inflated:
            yield cast(IO[bytes], inflated)


def _manifest_bytes(file: IO[bytes]) -> bytes:
    name, size = _next(file) or ("", 0)
    if name != MANIFEST:
        raise PackageRefused(f"it is not an exported model version: it does not begin with {MANIFEST}")
    if size > MAX_MANIFEST_BYTES:
        raise PackageRefused(f"its {MANIFEST} is larger than the {MAX_MANIFEST_BYTES >> 20} MiB that are accepted")
    return b"".join(_pieces(file, size))


def _receive_files(file: IO[bytes], package: Package, stack: ExitStack) -> dict[str, Receiver]:
    """Receive every file into storage's incoming folder; files that are not published when `stack` ends are removed."""
    receivers: dict[str, Receiver] = {}
    total = 0
    while (member := _next(file)) is not None:
        name, size = member
        if name not in package.files or name in receivers:
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
    """Return name and size of the next regular file, or None at the end mark. Raises PackageRefused."""
    header = file.read(BLOCK)
    if header and not header.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise PackageRefused("the file is damaged, cut off, or not an exported model version") from error
    if not info.isreg() or info.size < 0:
        raise PackageRefused(f"{_shown(info.name)} is not a regular file")
    return info.name, info.size


def _pieces(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield a member's bytes, and skip its padding. Raises PackageRefused if the file ends too early."""
    left = size
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise PackageRefused("the file is cut off")
        left -= len(piece)
        yield piece
    if len(file.read(-size % BLOCK)) != -size % BLOCK:
        raise PackageRefused("the file is cut off")


def _check_hashes(package: Package, receivers: dict[str, Receiver]) -> None:
    for name, expected in package.files.items():
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
