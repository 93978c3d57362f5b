"""Patients, studies, series, slices and predictions of jobs."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now
from db.models.base import FILE, NO_FILE, Base

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows automatically only for INTEGER keys


class Outcome(StrEnum):
    """The outcome of a slice. It is `open` until the slice gets one of the other four."""

    OPEN = "open"
    PREDICTED = "predicted"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


def natural_key(name: str) -> str:
    """Return a sort key that sorts names as people expect: "2" before "10".

    In the key, each number has no leading zeros, and follows the count of its digits, which has two digits.
    """
    return re.sub(r"[0-9]+", lambda digits: _sortable(digits[0].lstrip("0") or "0"), name)


def _sortable(digits: str) -> str:
    return f"{min(len(digits), 99):02d}{digits}"


def slashed(name: str) -> str:
    """Return a display name with `/` between folders. Some tools on Windows write a backslash there.

    No backslash belongs to an escape, because the escapes of display names have none.
    """
    return name.replace("\\", "/")


def folder_of(name: str) -> str:
    """Return the folder of a file with this display name, with `/` between its parts, or "" for the outermost."""
    return slashed(name).rpartition("/")[0]


def _name_key(context: Any) -> str:
    return natural_key(context.get_current_parameters()["name"])


class Patient(Base):
    """A patient within one job. People see the `ordinal`, from 1.

    `key`: a keyed hash of the ID. If an issuer is stated, a keyed hash of the ID and the issuer follows.

    If the files of a study state no ID, or several, the study gets a separate patient, whose `is_known` is false.
    """

    __tablename__ = "patient"
    __table_args__ = (UniqueConstraint("job_id", "key"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    key: Mapped[str]
    ordinal: Mapped[int]
    is_known: Mapped[bool]


class Study(Base):
    """A study of a patient of a job. Each folder of pictures is a study.

    `conflict`: the reason code with which all its slices are rejected, or None. `birth_key`, `sex_key`: keyed hashes of
    the patient's ID with the birth date and with the sex that the files state, or None. If the files of the study state
    several, it is SEVERAL.
    """

    SEVERAL: ClassVar = "several"

    __tablename__ = "study"
    __table_args__ = (UniqueConstraint("job_id", "uid"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    patient_id: Mapped[int] = mapped_column(ForeignKey("patient.id"), index=True)
    uid: Mapped[str]
    conflict: Mapped[str | None]
    birth_key: Mapped[str | None]
    sex_key: Mapped[str | None]


class Series(Base):
    """The slices of one DICOM series, or of one folder of an archive. `uid` is unique within a study.

    `notes`: codes of `db.reasons.SERIES_NOTES` for oddities of the whole series, set when all uploads are read.
    """

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "uid"), Index("ix_series_job", "job_id", "id"))

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    uid: Mapped[str]
    label: Mapped[str]
    notes: Mapped[list[str]] = mapped_column(default=list, info=NO_FILE)


class Slice(Base):
    """A received image.

    `name`: chosen by the submitter; it is never used as a path, and never logged. `name_key`: the sort key of the name.
    `ordinal`: the number of the entry in the upload. `frame`: the page of that entry. `reason`: a code of `db.reasons`.
    `detail`: a sentence about this file. `notes`: codes of `db.reasons.SLICE_NOTES`. `sha256`: the hash of the file.
    `pixels_sha256`: the hash of the prepared pixels. `position`: mm along the slice's normal, towards the head.
    `location`: DICOM's SliceLocation in mm, of unknown direction; it counts if positions of a series are not usable.
    `orientation`: the six direction cosines of rows and columns, in DICOM's form. `series_rank`: the place in its
    series, from 0 and from the feet to the head, set when all uploads of the job are read. `lung_fraction`: the share
    of the prepared picture that is lung. `chunk_id` and `array_row`: the place of the prepared pixels.
    """

    __tablename__ = "slice"
    __table_args__ = (
        UniqueConstraint("upload_id", "ordinal", "frame"),
        Index("ix_slice_job", "job_id", "upload_id", "ordinal", "frame"),
        Index("ix_slice_job_state", "job_id", "state", "upload_id", "ordinal", "frame", "reason"),
        Index("ix_slice_job_name", "job_id", "name_key", "id"),
        Index("ix_slice_series", "series_id", "upload_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    upload_id: Mapped[int] = mapped_column(ForeignKey("upload.id"))
    ordinal: Mapped[int]
    frame: Mapped[int] = mapped_column(default=0)
    name: Mapped[str]
    name_key: Mapped[str] = mapped_column(default=_name_key, info=NO_FILE)
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"))
    state: Mapped[str] = mapped_column(default=Outcome.OPEN)
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(index=True, info=FILE)
    pixels_sha256: Mapped[str | None] = mapped_column(info=NO_FILE)
    format: Mapped[str | None]
    mode: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    notes: Mapped[list[str]] = mapped_column(default=list, info=NO_FILE)
    instance_number: Mapped[int | None]
    position: Mapped[float | None]
    location: Mapped[float | None]
    orientation: Mapped[str | None]
    sop_uid: Mapped[str | None]
    series_rank: Mapped[int | None]
    lung_fraction: Mapped[float | None]
    chunk_id: Mapped[int | None] = mapped_column(ForeignKey("chunk.id"), index=True)
    array_row: Mapped[int | None]


class Prediction(Base):
    """The scores of one slice by one model version under one recipe. `cam` is float16[7, 7], little-endian.

    `pixels_sha256`: the hash of the slice's prepared pixels. `distance`: how far the slice is from the training slices.
    `ood`: the distance is too large. Both are None if the model version gives no distance.
    """

    __tablename__ = "prediction"
    __table_args__ = (
        UniqueConstraint("slice_id", "model_version_id", "recipe"),
        Index("ix_prediction_pixels", "pixels_sha256", "model_version_id", "recipe"),
        Index("ix_prediction_job_positive", "job_id", "positive", "ood", "engine"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    slice_id: Mapped[int] = mapped_column(ForeignKey("slice.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    recipe: Mapped[str]
    pixels_sha256: Mapped[str | None] = mapped_column(info=NO_FILE)
    logit: Mapped[float]
    probability: Mapped[float]
    positive: Mapped[bool]
    distance: Mapped[float | None]
    ood: Mapped[bool | None]
    cam: Mapped[bytes] = mapped_column(LargeBinary)
    engine: Mapped[str]
    fence: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
