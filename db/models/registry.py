"""Model versions, and the promotions that make one the champion."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base


class ModelVersion(Base):
    """A package in storage. `files` maps each of its file names to a SHA-256; nothing else is ever loaded.

    `ood`: the out-of-distribution parameters, `{"threshold"}`: a slice whose distance is above it is unlike what the
    model knows; empty where the network gives no distance. `calibration`: temperature and threshold of engines that
    have their own, by the engine's name. `facts`: what else the package tells of its making.
    """

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    note: Mapped[str]
    recipe: Mapped[str]
    threshold: Mapped[float]
    temperature: Mapped[float]
    files: Mapped[dict[str, Any]] = mapped_column(info=FILE)
    metrics: Mapped[dict[str, Any]] = mapped_column(info=NO_FILE)
    parity: Mapped[dict[str, Any]] = mapped_column(info=NO_FILE)
    ood: Mapped[dict[str, Any]] = mapped_column(default=dict, info=NO_FILE)
    calibration: Mapped[dict[str, Any]] = mapped_column(default=dict, info=NO_FILE)
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict, info=NO_FILE)
    dataset_hash: Mapped[str | None] = mapped_column(info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    @property
    def label(self) -> str:
        """How people and the API name it: `name/number`."""
        return f"{self.name}/{self.number}"


class PromotionKind(StrEnum):
    """Whether a version was promoted, or brought back."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"


class Promotion(Base):
    """Made one model version the champion; the newest row says which it is now.

    `kind`: a rollback undoes the promotions after the one that it returns to. `gate`: the result of the comparison with
    the champion of that moment, and whether `reason` overrode it.
    """

    __tablename__ = "promotion"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    kind: Mapped[str] = mapped_column(default=PromotionKind.PROMOTION)
    reason: Mapped[str]
    gate: Mapped[dict[str, Any]] = mapped_column(default=dict, info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")


class EngineProof(Base):
    """What the proof of a model version's engine found on one machine, the last time the version was loaded there.

    All rows of a host and a version are of one load (`db.registry.engine_proofs.record_load`), by id in the order of
    its tries. `passed` is False for an engine that gave other answers than where the package was made: the worker then
    took the next precision, or none. `largest_difference`: of a calibrated probability. `text` says it to people.
    """

    __tablename__ = "engine_proof"
    __table_args__ = (UniqueConstraint("host", "model_version_id", "engine"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    engine: Mapped[str]
    precision: Mapped[str]
    processor: Mapped[str]
    passed: Mapped[bool]
    largest_difference: Mapped[float | None]
    seconds: Mapped[float]
    text: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
