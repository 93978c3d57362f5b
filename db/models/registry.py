"""Model versions, their promotions, and the results of engine proofs on each machine."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base, Json
from db.models.documents import DocumentType, Facts, FindingRule


class ModelVersion(Base):
    """A model in storage. `files` maps each file name of its package to a SHA-256. Only these files are ever loaded.

    The columns are members of the package's manifest (`db.registry.manifest.Package`). `threshold`, `temperature`: of
    float32. `calibration`: the temperature and the threshold of other engines that have their own, by engine name.
    `ood`: the distance above which a slice is out of distribution. The key `threshold` is for float32, others are
    engine names. It is empty if the network gives no distance. `finding_rule`: the rule of findings, or None for the
    default rule. `facts`: how the version was made.
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
    files: Mapped[dict[str, str]] = mapped_column(info=FILE)
    metrics: Mapped[Json] = mapped_column(info=NO_FILE)
    parity: Mapped[Json] = mapped_column(info=NO_FILE)
    ood: Mapped[dict[str, float]] = mapped_column(default=dict, info=NO_FILE)
    calibration: Mapped[dict[str, dict[str, float]]] = mapped_column(default=dict, info=NO_FILE)
    finding_rule: Mapped[FindingRule | None] = mapped_column(DocumentType(FindingRule), info=NO_FILE)
    facts: Mapped[Facts] = mapped_column(DocumentType(Facts), default=lambda: Facts(), info=NO_FILE)
    dataset_hash: Mapped[str | None] = mapped_column(info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    @validates("facts")
    def _check_facts(self, _column: str, value: Facts | Json) -> Facts:
        return Facts.of(value)

    @property
    def label(self) -> str:
        """Return `name/number`, the name of the version for people and the API."""
        return f"{self.name}/{self.number}"


class PromotionKind(StrEnum):
    """How a version became the champion: by a promotion, or again by a rollback."""

    PROMOTION = "promotion"
    ROLLBACK = "rollback"


class Promotion(Base):
    """One change of the champion. The version in the newest row is the champion now.

    `kind`: a rollback undoes the promotions after the one that it returns to. `gate`: the comparison with the champion
    at that time, and whether it was overridden.
    """

    __tablename__ = "promotion"

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    kind: Mapped[str] = mapped_column(default=PromotionKind.PROMOTION)
    reason: Mapped[str]
    gate: Mapped[Json] = mapped_column(default=dict, info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")


class EngineProof(Base):
    """The result of an engine's proof on a machine, from the last time that the machine loaded a model version.

    All rows of a host and a version come from one load (`db.registry.engine_proofs.record_load`). Their ids are in the
    order in which the engines were tried. `passed`: the engine's answers agree with the known answers. If not, the
    worker tried the next precision. `largest_difference`: the largest difference of a calibrated probability. `text`:
    the result for people. `seen_at`: when an inference worker on the host last ran.
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
    seen_at: Mapped[datetime] = mapped_column(default=from_now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
