"""The identity of this database, which its storage carries too."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now
from db.models.base import Base


class Installation(Base):
    """The one row that the first migration writes. Storage that carries another `id` belongs to another database.

    `patient_key`: the secret with which IDs of patients are hashed, 64 hexadecimal digits.
    """

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(primary_key=True)
    patient_key: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    swept_at: Mapped[datetime | None]  # when a sweep last ended
