"""Training runs with their epochs, and evaluations of model versions on datasets."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base, Json
from db.models.datasets import Dataset, Split
from db.models.registry import ModelVersion
from db.models.work import LeaseMixin


class TrainingRun(LeaseMixin, Base):
    """One training run: its settings, its progress, and the model version that it made.

    `demo`: the run makes the demo model, and has no dataset. `config`: all settings, with those of the preset.
    `estimate`: the seconds and the bytes of disk that were expected. `environment`: versions of code and libraries,
    backend, device. `live`: the present position: stage, epoch, step, steps, loss, rate (slices/s), eta_seconds.
    `checkpoint`: files in storage by name, and the stage and epoch after which they were written. `allowed_leaks`: the
    leaks of the split, each allowed by name at the launch. `seen-by-parent` may be among them until the worker has
    compared the slices. `stopped_early`: somebody stopped the training before its last epoch.
    """

    __tablename__ = "training_run"
    WHEN_QUEUED: ClassVar[Mapping[str, Any]] = {"message": "waiting for a worker"}

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    name: Mapped[str] = mapped_column(default="")
    demo: Mapped[bool] = mapped_column(default=False)
    preset: Mapped[str]
    seed: Mapped[int]
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("dataset.id"))
    split_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_split.id"))
    from_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    config: Mapped[Json] = mapped_column(default=dict, info=FILE)
    allowed_leaks: Mapped[list[str]] = mapped_column(default=list, info=NO_FILE)
    estimate: Mapped[dict[str, float]] = mapped_column(default=dict, info=NO_FILE)
    environment: Mapped[Json] = mapped_column(default=dict, info=NO_FILE)
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(default="")
    live: Mapped[Json] = mapped_column(default=dict, info=NO_FILE)
    checkpoint: Mapped[Json] = mapped_column(default=dict, info=FILE)
    error: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    stop_requested_at: Mapped[datetime | None]
    stopped_early: Mapped[bool] = mapped_column(default=False)
    model_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    user: Mapped[User | None] = relationship(lazy="joined")
    dataset: Mapped[Dataset | None] = relationship(lazy="joined")
    split: Mapped[Split | None] = relationship()  # large: 100,000 groups may be in it
    model_version: Mapped[ModelVersion | None] = relationship(foreign_keys=[model_version_id], lazy="joined")
    from_version: Mapped[ModelVersion | None] = relationship(foreign_keys=[from_version_id], lazy="joined")


class Epoch(Base):
    """One epoch of a run: its loss and metrics on training and validation slices, by name."""

    __tablename__ = "training_epoch"
    __table_args__ = (UniqueConstraint("run_id", "stage", "epoch"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("training_run.id"))
    stage: Mapped[int]
    epoch: Mapped[int]
    metrics: Mapped[dict[str, float]] = mapped_column(info=NO_FILE)
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=from_now())


class Evaluation(LeaseMixin, Base):
    """The scores of a model version on a dataset, or on one part of a split of it.

    An evaluation worker carries it out, or the command line that waits for it. There is one for each version, part and
    precision. `precision`: of the engine that must score, `f32` or `int8`, or None for the engine that serves on that
    machine. `scores_sha256`: a file in storage for `training.evaluation.stored_scores`, in the order of the rows.
    `result`: metrics with intervals, and for a site check (without a split) also the verdict.
    """

    __tablename__ = "evaluation"
    __table_args__ = (UniqueConstraint("model_version_id", "dataset_id", "split_id", "part", "precision"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    split_id: Mapped[int | None] = mapped_column(ForeignKey("dataset_split.id"))
    part: Mapped[str | None]
    precision: Mapped[str | None]
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    scores_sha256: Mapped[str | None] = mapped_column(info=FILE)
    result: Mapped[Json] = mapped_column(default=dict, info=NO_FILE)
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    finished_at: Mapped[datetime | None]

    model_version: Mapped[ModelVersion] = relationship(lazy="joined")
    dataset: Mapped[Dataset] = relationship(lazy="joined")
    split: Mapped[Split | None] = relationship()  # large: 100,000 groups may be in it
