"""Model versions and promotions: which packages exist, and which one is the champion."""

import hashlib
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.base import current, one_at_a_time
from db.models import OPEN_JOB, Job, ModelVersion, Promotion, User
from db.storage import storage

MANIFEST = "package.json"
ROLLBACK = "rollback"  # the gate's verdict on a promotion that took one back
NUMBER = re.compile(r"[0-9]{1,9}")


class RollbackRefused(Exception):
    """There is no going back like this; one line for people says why."""


class NoEarlierChampion(RollbackRefused):
    """There is no champion before this one to go back to."""


def store_package(folder: Path) -> dict[str, str]:
    """Put every file of a package folder into storage; file name to SHA-256, `package.json` among them."""
    manifest = json.loads((folder / MANIFEST).read_text())
    names = [MANIFEST, *manifest["files"]]
    return {name: _store(folder / name) for name in names}


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


def champion(s: Session) -> ModelVersion | None:
    """The model version that new jobs get."""
    promotion = s.scalar(select(Promotion).order_by(Promotion.id.desc()).limit(1))
    return promotion.model_version if promotion else None


def promote(
    s: Session, version: ModelVersion, user: User | None, reason: str, gate: dict[str, Any] | None = None
) -> Promotion:
    """Make a model version the champion; jobs that exist keep theirs. `db.promotion` asks the gate first."""
    promotion = Promotion(
        model_version_id=version.id, user_id=user.id if user else None, reason=reason, gate=gate or {}
    )
    s.add(promotion)
    s.flush()
    return promotion


def promote_first(s: Session, version: ModelVersion, reason: str, user: User | None = None) -> ModelVersion:
    """Make a version the champion where there is none, without the gate; return the champion."""
    one_at_a_time(s, Promotion.__tablename__)  # an admin may promote another at this moment
    if (found := champion(s)) is not None:
        return found
    promote(s, version, user, reason)
    return version


def champion_before(s: Session) -> ModelVersion | None:
    """The champion that a rollback brings back; promotions that a rollback undid no longer count."""
    standing: list[ModelVersion] = []
    for each in reversed(promotions(s)):
        version = each.model_version
        if each.gate.get("verdict") == ROLLBACK and version in standing:
            while standing[-1] is not version:
                standing.pop()
        elif version not in standing[-1:]:
            standing.append(version)
    return standing[-2] if len(standing) > 1 else None


def rollback(
    s: Session, user: User | None, reason: str, who: str = "", champion_seen: str | None = None
) -> ModelVersion:
    """Promote the champion before the current one again, without the gate.

    `who` names one whom this database does not know; `champion_seen` is the label of the champion that is rolled back,
    where whoever asks was shown one: two who ask at once go back one step and not two.

    Raises RollbackRefused: a reason is missing, the champion is another one by now, or NoEarlierChampion.
    """
    one_at_a_time(s, Promotion.__tablename__)
    now, earlier = champion(s), champion_before(s)
    if champion_seen and now is not None and now.label != champion_seen:
        raise RollbackRefused(f"the champion changed meanwhile: it is {now.label} by now")
    if now is None:
        raise NoEarlierChampion("there is no champion yet")
    if earlier is None:
        raise NoEarlierChampion(f"there is no champion before {now.label} to go back to")
    if not reason.strip():
        raise RollbackRefused("a rollback needs a reason")
    kept = {"verdict": ROLLBACK, "champion": now.label, "who": who or (user.name if user else "")}
    promote(s, earlier, user, reason.strip(), kept)
    return earlier


def promotions(s: Session) -> list[Promotion]:
    """Every promotion, newest first."""
    return list(s.scalars(select(Promotion).order_by(Promotion.id.desc())))


def used_by(s: Session, version: ModelVersion) -> int:
    """How many jobs are, or were, predicted with this version."""
    return s.scalar(select(func.count()).select_from(Job).where(Job.model_version_id == version.id)) or 0


def versions_in_use(s: Session) -> set[int]:
    """Return the ids of the champion and of the versions that open jobs are predicted with."""
    now = champion(s)
    used = s.scalars(select(Job.model_version_id).where(Job.state.in_(OPEN_JOB)).distinct())
    return {*used, *([now.id] if now else [])}


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
