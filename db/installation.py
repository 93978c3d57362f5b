"""Checks whether the storage in use belongs to the database in use.

Files are deleted when the database does not refer to them. So a storage that is used with the wrong database, or with
an empty one, would lose all its files. A marker in storage holds the id of its database.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import read_scope
from db.models import Installation
from db.storage import storage

ARE_LEFT = (
    "Check whether it is the right database, and not one restored from an old backup; if these files are unused, run"
    " `ctbatch files reap --yes`"
)
"""What to do if the database does not refer to very many files."""


class ForeignStorage(Exception):
    """The storage belongs, or may belong, to another database. The message says what to do."""


class StorageAway(ForeignStorage):
    """The storage lacks the mark that it once had. Its volume may not be mounted, or its files may be lost."""


def this_installation(s: Session) -> Installation:
    """Return the identity of the database."""
    return s.scalars(select(Installation)).one()


def check_storage(s: Session) -> None:
    """Check that the storage has no mark of another database, and has not lost the mark of this database.

    Raises ForeignStorage, StorageAway, OSError.
    """
    owner, installation = storage().owner(), this_installation(s)
    if owner is None and installation.has_storage:
        raise StorageAway(
            "the storage lacks the marker file of this database: see that its volume is mounted, or run `ctbatch files"
            " adopt` if it is to begin empty"
        )
    if owner not in (None, installation.id):
        raise ForeignStorage(
            "the storage belongs to another database; check DATABASE_URL and CTBATCH_STORAGE_URL, or run"
            " `ctbatch files adopt` if this database replaces the other"
        )


def is_storage_at_hand() -> bool:
    """Return whether the storage has the mark of this database.

    If not, a file that seems to be missing may still exist, because an unmounted volume looks like an empty folder.
    """
    try:
        owner = storage().owner()
    except OSError:
        return False
    with read_scope() as s:
        return owner == this_installation(s).id


def claim_storage(s: Session) -> None:
    """Mark a new storage as belonging to this database, or check its mark.

    Raises ForeignStorage: the storage belongs to another database, or it has no mark and has files that are older than
    this database. Raises OSError.
    """
    check_storage(s)
    installation = this_installation(s)
    if storage().owner() is not None:
        installation.has_storage = True
        return
    before = installation.created_at.timestamp()
    if next(storage().names(0.0, before), None) is not None:
        raise ForeignStorage(
            "the storage holds files that are older than this database; run `ctbatch files adopt` if they are its own"
        )
    storage().mark(installation.id)
    installation.has_storage = True


def adopt_storage(s: Session) -> None:
    """Mark the storage as belonging to this database, even if it has another mark."""
    storage().mark(this_installation(s).id)
    this_installation(s).has_storage = True
