"""The identity of this database. Its storage has a mark with the same identity."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now
from db.models.base import NO_FILE, Base
from db.models.slices import BigId


class Installation(Base):
    """The single row that the first migration writes. A storage with another `id` belongs to another database.

    `patient_key`: the secret for hashing the IDs of patients, 64 hexadecimal digits. `reread_to`: the name of the
    stored file that was last read again, or "" at the beginning. `reread_at`: when all files had been read again.
    `has_storage`: this database's storage has a mark, so a storage without one is not this database's.
    `unexpected_files`: how many files the sweeper leaves because the database does not refer to so many, or 0.
    """

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(primary_key=True)
    patient_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    swept_at: Mapped[datetime | None]  # when a sweep last ended
    has_storage: Mapped[bool] = mapped_column(default=False)
    unexpected_files: Mapped[int] = mapped_column(default=0)
    reread_to: Mapped[str] = mapped_column(default="", info=NO_FILE)
    reread_at: Mapped[datetime | None]


class DamagedFile(Base):
    """A file that does not have its SHA-256 any more, cannot be read, or is missing though a row refers to it."""

    __tablename__ = "damaged_file"

    sha256: Mapped[str] = mapped_column(primary_key=True, info=NO_FILE)
    found_at: Mapped[datetime] = mapped_column(default=from_now())


class ReleasedFile(Base):
    """A stored file that rows of a deleted job referred to. The reaper expects that it may be unused.

    A file may have several such rows. They are removed when the reaper has had time to look at the file.
    """

    __tablename__ = "released_file"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    sha256: Mapped[str] = mapped_column(index=True, info=NO_FILE)
    released_at: Mapped[datetime] = mapped_column(default=from_now())
