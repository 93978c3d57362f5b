"""Imports a model version from a file of `db.registry.export`, which may be compressed with gzip.

An import does not trust the file. Names, sizes and numbers are checked before anything is read, and every member is
hashed while it is received. The files go to storage, and the version gets its row, only if all hashes match
`package.json`. Nothing is unpickled, and no network is loaded.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.broker import Queue, wake_after_commit
from db.database import lock_table
from db.models import Dataset, ModelVersion
from db.models.documents import Facts, Origin
from db.registry.export import shipped_manifest
from db.registry.keras_safety import HarmfulModel, check_keras_archive
from db.registry.manifest import MANIFEST, OF_SLICES, BadManifest, Package, check_usable, parse_manifest
from db.registry.proof_file import PROOF_FILE, BadProof, read_proof_file
from db.registry.tar_stream import BLOCK
from db.registry.versions import StoredPackage, register_package
from db.storage import FileDamaged, FileMissing, Receiver, storage

GZIP = b"\x1f\x8b"
PIECE = 1 << 20
MAX_FILES = 64
MAX_MANIFEST_BYTES = 4 << 20
MAX_BYTES = 4 << 30
MIB = 1 << 20
LARGEST = {
    **dict.fromkeys(("keras", "bin"), 2048 * MIB),
    **dict.fromkeys(("xml", "npy", "npz"), 64 * MIB),
    "html": 32 * MIB,
    "png": 16 * MIB,
    **dict.fromkeys(("md", "txt", "json", "csv", "svg"), MIB),
}
"""The largest size of a file in bytes, by kind. Files that a page shows are read whole for each visitor."""


class PackageRefused(Exception):
    """The file cannot be imported, and nothing of it was kept. The message says why, in one line."""


def import_package(path: Path, recipe: str, check_weights: Callable[[Path], None]) -> StoredPackage:
    """Receive a file of `export_package`. Return the package, for `register_received`.

    `recipe`: the recipe that prepares slices here. `check_weights` raises HarmfulModel for a `.keras` file whose
    weights must not be read. It is a parameter because this module may not import it.

    Raises PackageRefused, whose message names the file. Raises OSError.
    """
    try:
        with _opened(path) as file, ExitStack() as stack:
            manifest = _manifest_bytes(file)
            package = parse_manifest(manifest)
            check_usable(package, recipe, MAX_FILES)
            receivers = _receive_files(file, package, stack)
            _check_hashes(package, receivers)
            _check_contents(receivers, check_weights)
            for receiver in receivers.values():
                receiver.publish()
    except (PackageRefused, BadManifest, HarmfulModel, BadProof) as error:
        raise PackageRefused(f"{path.name}: {error}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise PackageRefused(f"{path.name}: the file is damaged or cut off") from error
    return StoredPackage(package, {**package.files, MANIFEST: storage().put(manifest)})


def register_received(s: Session, received: StoredPackage) -> tuple[ModelVersion, bool]:
    """Register a received package. Return its version, and whether it is new. The same package gives the same version.

    The origin of the version (run, split, lineage) moves to `facts.imported`. Pictures of slices that were deleted here
    are left out.
    """
    lock_table(s, ModelVersion)
    if _are_slices_deleted(s, received.package):
        files = {name: sha256 for name, sha256 in received.files.items() if name not in OF_SLICES}
        received = replace(received, files=files)
    query = select(ModelVersion).where(ModelVersion.name == received.package.name).order_by(ModelVersion.id)
    for version in s.scalars(query):
        if _is_same(version, received):
            return version, False
    facts = received.package.extra.as_json()
    origin = {name: facts.pop(name) for name in Origin.model_fields if name in facts}
    wake_after_commit(s, Queue.INFERENCE)  # an idle worker tries it
    version = register_package(s, received, Facts.of({**facts, "imported": origin}))
    record(s, Action.MODEL_IMPORT, f"model {version.label}")
    return version, True


def _are_slices_deleted(s: Session, package: Package) -> bool:
    """Return whether the slices that trained the version were in datasets here, which are all deleted."""
    if package.dataset_hash is None:
        return False
    times = s.scalars(select(Dataset.deleted_at).where(Dataset.sha256 == package.dataset_hash)).all()
    return bool(times) and None not in times


def _is_same(version: ModelVersion, received: StoredPackage) -> bool:
    """Return whether the received package is the same as a version, or is the version's export without pictures."""
    if version.files == received.files:
        return True
    shared = [
        {name: sha256 for name, sha256 in files.items() if name != MANIFEST and name not in OF_SLICES}
        for files in (version.files, received.files)
    ]
    if shared[0] != shared[1]:
        return False
    try:
        return hashlib.sha256(shipped_manifest(version)).hexdigest() == received.files[MANIFEST]
    except (FileMissing, FileDamaged):
        return False


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the TAR, which may be compressed with gzip. The limits on its members also limit what is inflated."""
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
    """Receive every file into the incoming folder of storage. Files that are not published end with `stack`."""
    receivers: dict[str, Receiver] = {}
    total = 0
    while (member := _next(file)) is not None:
        name, size = member
        if name not in package.files or name in receivers:
            raise PackageRefused(f"it holds {_shown(name)}, which {MANIFEST} does not name, or holds it twice")
        if size > (largest := LARGEST[name.rpartition(".")[2]]):
            raise PackageRefused(f"its {name} is larger than the {largest >> 20} MiB that are accepted")
        total += size
        if total > MAX_BYTES:
            raise PackageRefused(f"it holds more than the {MAX_BYTES >> 30} GiB that are accepted")
        receivers[name] = receiver = storage().receive()
        stack.callback(receiver.abort)
        for piece in _pieces(file, size):
            receiver.write(piece)
    return receivers


def _next(file: IO[bytes]) -> tuple[str, int] | None:
    """Return the name and the size of the next regular file, or None at the end mark. Raises PackageRefused."""
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


def _check_contents(receivers: dict[str, Receiver], check_weights: Callable[[Path], None]) -> None:
    for name, receiver in receivers.items():
        if name.endswith(".keras"):
            try:
                check_keras_archive(receiver.path)
                check_weights(receiver.path)
            except HarmfulModel as error:
                raise PackageRefused(f"{name} {error}") from error
        if name == PROOF_FILE:
            read_proof_file(receiver.path)


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "…")
