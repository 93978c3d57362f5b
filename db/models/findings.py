"""Findings: the verdicts on the series, studies and patients of a job."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now
from db.models.base import NO_FILE, Base
from db.models.slices import BigId


class Level(StrEnum):
    """The thing that a finding is about: a series, a study or a patient."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"


class Finding(Base):
    """The verdict on one series, study or patient of a job that has ended.

    `ordinal`: its place in the job, from 0. A patient comes first, then each study of the patient with its series.
    `study_id` and `series_id` are None above their level. `rule`, `rule_version`, `k`, `threshold`: the rule of
    `db.findings.rules` that was used. `score` and `verdict` are None if the finding abstains, and `reason` says why.
    `low`, `high`: how often such a verdict was right when the rule was tuned (the 95 % interval of the share), or None.
    `used`: how many slices were used, of all its series. `ood`: how many of these are out of distribution, or None if
    this is not measured. `left_out`: the other slices, counted by reason.
    """

    __tablename__ = "finding"
    __table_args__ = (
        UniqueConstraint("job_id", "ordinal"),
        Index("ix_finding_job_level", "job_id", "level", "verdict", "ordinal"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    ordinal: Mapped[int]
    level: Mapped[str]
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"), index=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    rule: Mapped[str]
    rule_version: Mapped[int]
    k: Mapped[int | None]
    threshold: Mapped[float]
    score: Mapped[float | None]
    low: Mapped[float | None]
    high: Mapped[float | None]
    verdict: Mapped[str | None]
    reason: Mapped[str | None]
    used: Mapped[int]
    ood: Mapped[int | None]
    left_out: Mapped[dict[str, int]] = mapped_column(default=dict, info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())
