"""Model versions without a network, for the fake engine: its scores are a function of the pixels' hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from db.database import session_scope
from db.installation import claim_storage
from db.models import ModelVersion
from db.registry import champions, versions


def fake_package(folder: Path, name: str = "fake", files: Mapping[str, bytes] | None = None, **values: object) -> Path:
    """Write a package of these files. `values` are members of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in (files or {}).items():
        (folder / file).write_bytes(data)
    manifest = {
        "name": name,
        "note": "fake engine: for tests only",
        "recipe": "lung-224-v1",
        "threshold": 0.5,
        "temperature": 1.0,
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in (files or {}).items()},
        "metrics": {"accuracy": 0.5},
        "parity": {},
        "dataset_hash": None,
        "created_at": "2026-01-01T00:00:00+00:00",
        "extra": {},
    }
    (folder / "package.json").write_text(json.dumps(manifest | values))
    return folder


def add_version(
    folder: Path, name: str = "fake", files: Mapping[str, bytes] | None = None, **columns: object
) -> ModelVersion:
    """Register a fake package in the database in use. `columns` are set on its row."""
    stored = versions.store_package(fake_package(folder / f"package-{name}", name, files))
    with session_scope() as s:
        version = versions.register_package(s, stored)
        for column, value in columns.items():
            setattr(version, column, value)
    return version


def add_champion(folder: Path, name: str = "fake") -> ModelVersion:
    """Register a fake package in the database in use, and promote it."""
    version = add_version(folder, name)
    with session_scope() as s:
        champions.record_promotion(s, s.merge(version), None, "for the test")
        claim_storage(s)  # as the sweeper does soon after its start
    return version
