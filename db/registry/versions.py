"""Model versions: which packages exist, and where their files are."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.database import current, one_at_a_time
from db.models import Job, ModelVersion
from db.storage import storage

MANIFEST = "package.json"
NUMBER = re.compile(r"[0-9]{1,9}")


def store_package(folder: Path) -> dict[str, str]:
    """Put every file that the manifest in `folder` names into storage, as `store_files` does."""
    return store_files(folder, json.loads((folder / MANIFEST).read_text())["files"])


def store_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Put `package.json` and the files of these names into storage; return the SHA-256 of each by its name."""
    return {name: _store(folder / name) for name in (MANIFEST, *names)}


def _store(path: Path) -> str:
    receiver = storage().receive()
    with path.open("rb") as file:
        shutil.copyfileobj(file, receiver, 1 << 20)
    return receiver.close().sha256


def register_package(s: Session, folder: Path, files: dict[str, str]) -> ModelVersion:
    """Make a model version of a package whose files are in storage (`store_package`)."""
    return add_version(s, json.loads((folder / MANIFEST).read_text()), files)


def add_version(s: Session, manifest: dict[str, Any], files: dict[str, str]) -> ModelVersion:
    """The next version of the name that a manifest gives, of files that are in storage."""
    name = manifest["name"]
    one_at_a_time(s, ModelVersion.__tablename__)
    number = (s.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.name == name)) or 0) + 1
    version = ModelVersion(
        name=name,
        number=number,
        note=manifest["note"],
        recipe=manifest["recipe"],
        threshold=manifest["threshold"],
        temperature=manifest["temperature"],
        files=files,
        metrics=manifest["metrics"],
        parity=manifest["parity"],
        ood=manifest.get("ood", {}),
        calibration=manifest.get("calibration", {}),
        facts=manifest.get("extra", {}),
        dataset_hash=manifest.get("dataset_hash"),
    )
    s.add(version)
    s.flush()
    return version


def used_by(s: Session, version: ModelVersion) -> int:
    """How many jobs are, or were, predicted with this version."""
    return s.scalar(select(func.count()).select_from(Job).where(Job.model_version_id == version.id)) or 0


def list_versions(s: Session) -> list[ModelVersion]:
    """All model versions, newest first."""
    return list(s.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def find_version(s: Session, label: str) -> ModelVersion | None:
    """By `name/number`, or by id."""
    name, slash, number = label.rpartition("/")
    if not NUMBER.fullmatch(number):
        return None
    if not slash:
        return s.get(ModelVersion, int(number))
    return s.scalar(select(ModelVersion).where(ModelVersion.name == name, ModelVersion.number == int(number)))


def package_folder(version: ModelVersion) -> Path:
    """A folder of this machine that holds the package, every file's hash checked while copying.

    Raises storage's FileMissing and FileDamaged.
    """
    folder = _copy_of(version)
    if folder.exists():
        return folder
    temporary = folder.with_name(f"{folder.name}.{uuid4().hex}")
    temporary.mkdir(mode=0o700, parents=True)
    try:
        for name, sha256 in version.files.items():
            shutil.copyfile(storage().verified_path(sha256), temporary / Path(name).name)
        with suppress(OSError):  # another process was quicker
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def drop_package_folder(version: ModelVersion) -> None:
    """Remove this machine's copy of the package, which is damaged, so that it is copied again."""
    shutil.rmtree(_copy_of(version), ignore_errors=True)


def _copy_of(version: ModelVersion) -> Path:
    key = hashlib.sha256(json.dumps(version.files, sort_keys=True).encode()).hexdigest()[:24]
    return current().home / "models" / key
