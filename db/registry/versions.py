"""Registers, finds and lists model versions, and copies their packages to this machine."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import func, null, select, update
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.database import current, lock_table
from db.models import Job, ModelVersion
from db.models.documents import Facts, FindingRule
from db.registry.manifest import FLOAT_FILE, INT8_FILE, KERAS_FILE, MANIFEST, OF_SLICES, Package, parse_manifest
from db.storage import storage

SAME_IN_BOTH = (
    "name", "note", "recipe", "threshold", "temperature", "metrics", "parity", "ood", "calibration", "dataset_hash",
    "finding_rule",
)  # fmt: skip
"""Members of a package that are columns of its version."""
NUMBER = re.compile(r"[0-9]{1,9}")
IN_USE_SECONDS = 3600.0
"""How long a worker may take from finding its copy of a package to having read it."""


@dataclass(frozen=True)
class StoredPackage:
    """A package whose files are in storage. `files`: SHA-256 by file name, also of `package.json`."""

    package: Package
    files: dict[str, str]


def store_package(folder: Path, package: Package | None = None) -> StoredPackage:
    """Put every file of a package's folder into storage. `package`: the manifest, or None to read it here.

    Raises BadManifest, OSError.
    """
    package = package or parse_manifest((folder / MANIFEST).read_bytes())
    return StoredPackage(package, {name: _store(folder / name) for name in (MANIFEST, *package.files)})


def _store(path: Path) -> str:
    with storage().receive() as receiver, path.open("rb") as file:
        shutil.copyfileobj(file, receiver, 1 << 20)
        return receiver.publish().sha256


def register_package(s: Session, stored: StoredPackage, facts: Facts | None = None) -> ModelVersion:
    """Register a stored package as the next version of its name. `facts` replace the facts in the package."""
    package = stored.package
    lock_table(s, ModelVersion)
    number = (s.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.name == package.name)) or 0) + 1
    version = ModelVersion(
        number=number,
        files=stored.files,
        facts=facts or package.extra,
        **{column: getattr(package, column) for column in SAME_IN_BOTH},
    )
    s.add(version)
    s.flush()
    return version


def keep_finding_rule(s: Session, version: ModelVersion, rule: FindingRule | None) -> None:
    """Set the rule of findings of this version, for its jobs that end from now on.

    None means the default rule. Existing findings do not change.
    """
    s.execute(update(ModelVersion).where(ModelVersion.id == version.id).values(finding_rule=rule or null()))
    record(s, Action.MODEL_TUNE, f"model {version.label}", rule.name if rule else "default rule")


def used_by(s: Session, version: ModelVersion) -> int:
    """Return how many jobs use or used this version. Deleted jobs do not count."""
    used = (Job.model_version_id == version.id) & Job.deleted_at.is_(None)
    return s.scalar(select(func.count()).select_from(Job).where(used)) or 0


def list_versions(s: Session) -> list[ModelVersion]:
    """Return all model versions, newest first."""
    return list(s.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def find_version(s: Session, label: str) -> ModelVersion | None:
    """Return the version with this `name/number` or id, or None."""
    name, slash, number = label.rpartition("/")
    if not NUMBER.fullmatch(number):
        return None
    if not slash:
        return s.get(ModelVersion, int(number))
    return s.scalar(select(ModelVersion).where(ModelVersion.name == name, ModelVersion.number == int(number)))


def shared_precision(versions: Sequence[ModelVersion]) -> str | None:
    """Return a precision in which all these versions can be measured, or None.

    float32 is preferred, because its answers are the same on every machine, and a version's own metrics are in float32.
    """
    for precision, files in (("f32", {KERAS_FILE, FLOAT_FILE}), ("int8", {INT8_FILE})):
        if all(files & version.files.keys() for version in versions):
            return precision
    return None


def package_folder(version: ModelVersion) -> Path:
    """Return a folder of this machine with the package. When it is copied, the hash of every file is checked.

    Files that show slices are left out.

    To make room for a new copy, the copies that were used longest ago are removed. Raises storage's FileMissing and
    FileDamaged.
    """
    folder = _copy_of(version)
    with suppress(FileNotFoundError):
        os.utime(folder)  # marks the copy as used now, so that it is not evicted
        return folder
    temporary = folder.with_name(f"{folder.name}.{uuid4().hex}")
    temporary.mkdir(mode=0o700, parents=True)
    try:
        for name, sha256 in _files_to_copy(version).items():
            shutil.copyfile(storage().verified_path(sha256), temporary / Path(name).name)
        with suppress(OSError):  # another process was quicker
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _evict(folder.parent)
    return folder


def _evict(copies: Path) -> None:
    """Remove the least recently used copies until the others fit into `cache_bytes`.

    Copies that were used in the last hour stay.
    """
    size = 0
    with suppress(FileNotFoundError):  # another process evicts too
        for used_at, copy in sorted(((path.stat().st_mtime, path) for path in copies.iterdir()), reverse=True):
            size += sum(file.stat().st_size for file in copy.iterdir())
            if size > current().cache_bytes and used_at < time.time() - IN_USE_SECONDS:
                shutil.rmtree(copy, ignore_errors=True)


def drop_package_folder(version: ModelVersion) -> None:
    """Remove this machine's damaged copy of the package, so that it is copied again."""
    shutil.rmtree(_copy_of(version), ignore_errors=True)


def _copy_of(version: ModelVersion) -> Path:
    key = hashlib.sha256(json.dumps(_files_to_copy(version), sort_keys=True).encode()).hexdigest()[:24]
    return current().home / "models" / key


def _files_to_copy(version: ModelVersion) -> dict[str, str]:
    return {name: sha256 for name, sha256 in version.files.items() if name not in OF_SLICES}
