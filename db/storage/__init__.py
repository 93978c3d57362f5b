"""Stores files under their SHA-256, in a folder or (through fsspec) in an object store such as S3."""

from functools import lru_cache
from pathlib import Path

from db.database import current
from db.storage.errors import FileDamaged, FileMissing, FileUnreadable
from db.storage.receiver import Receiver, StoredFile
from db.storage.store import Storage

__all__ = ["FileDamaged", "FileMissing", "FileUnreadable", "Receiver", "Storage", "StoredFile", "storage"]


@lru_cache(maxsize=4)
def _storage(url: str, cache: Path) -> Storage:
    return Storage(url, cache)


def storage() -> Storage:
    """Return the storage that the settings in use name."""
    settings = current()
    return _storage(settings.storage, settings.home / "cache")
