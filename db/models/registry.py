"""Model versions, the promotions that make one the champion, and the training runs they come from."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.base import Base, from_now
from db.models.accounts import User
from db.models.lease import LeaseMixin


class ModelVersion(Base):
    """A package in storage. `files` maps each of its file names to a SHA-256; nothing else is ever loaded."""

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    note: Mapped[str]
    recipe: Mapped[str]
    threshold: Mapped[float]
    temperature: Mapped[float]
    files: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    parity: Mapped[dict[str, Any]]
    dataset_hash: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    @property
    def label(self) -> str:
        """How people and the API name it: `name/number`."""
        return f"{self.name}/{self.number}"


class Promotion(Base):
    """Made one model version the champion; the newest row says which it is now."""

    __tablename__ = "promotion"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")


class TrainingRun(LeaseMixin, Base):
    """One training run: its preset, seed and progress, and the model version it made."""

    __tablename__ = "training_run"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    preset: Mapped[str]
    seed: Mapped[int]
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(default="")
    error: Mapped[str | None]
    model_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    finished_at: Mapped[datetime | None]

    model_version: Mapped[ModelVersion | None] = relationship(lazy="joined")
