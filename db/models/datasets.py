"""Labelled slices for training: datasets, their splits, and the labels that reviewers give."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.accounts import User
from db.models.base import Base
from db.models.slices import BigId
from db.models.work import LeaseMixin

ARRAY_SLICES = 1024  # in each array file of a dataset but the last, 51 MB


class Dataset(LeaseMixin, Base):
    """An immutable list of labelled slices. An ingest worker builds it from `sources`; a new list is a new number.

    `sources`: what it was made from: `{"filename", "sha256", "size"}` for each file received, in order, or `{"job"}`
    for the reviewed slices of a job. `labels_sha256`: the CSV of file, label, group, if one came. `sha256`: of its
    slices, labels and groups, in order, once it is built. `arrays`: the .npy files, uint8[ARRAY_SLICES, 224, 224], the
    last may be shorter, that hold its prepared slices, row after row.
    """

    __tablename__ = "dataset"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    sources: Mapped[list[dict[str, Any]]]
    labels_sha256: Mapped[str | None]
    sha256: Mapped[str | None]
    size: Mapped[int] = mapped_column(default=0)
    arrays: Mapped[list[str]] = mapped_column(default=list)
    report: Mapped[dict[str, Any]] = mapped_column(default=dict)
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]

    user: Mapped[User | None] = relationship(lazy="joined")

    @property
    def title(self) -> str:
        """How people and the API name it: `name/number`."""
        return f"{self.name}/{self.number}"


class LabelledSlice(Base):
    """One slice of a dataset: its `row` among the dataset's arrays, its label (1: COVID) and its group.

    What could not be taken has a `reason`, no row and no part in the dataset. `group` is never empty for a slice that
    has a row. `perceptual_hash`: 64 bits, as 16 hexadecimal digits. `cluster`: slices of one cluster are identical or
    near-identical; it is the row of the first of them. `split`: the part that the CSV put it in, `source`: the hospital
    or scanner that it names, if any.
    """

    __tablename__ = "labelled_slice"
    __table_args__ = (
        UniqueConstraint("dataset_id", "ordinal", "frame"),
        Index("ix_labelled_slice_row", "dataset_id", "row"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    ordinal: Mapped[int]
    frame: Mapped[int] = mapped_column(default=0)
    name: Mapped[str]
    row: Mapped[int | None]
    label: Mapped[int | None]
    group: Mapped[str] = mapped_column("slice_group", default="")
    split: Mapped[str | None]
    source: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(index=True)
    pixels_sha256: Mapped[str | None]
    perceptual_hash: Mapped[str | None]
    cluster: Mapped[int | None]
    format: Mapped[str | None]
    mode: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    reason: Mapped[str | None]
    detail: Mapped[str | None]


class Split(Base):
    """Which groups of a dataset train, validate and test: `{group: "train" | "validation" | "test"}`.

    `rule`: "groups" (drawn by group and class with `seed`, groups that share near-identical slices together), "groups
    as given" (each alone), or "given" (by the CSV, slice by slice; a group that it tears apart has the list of its
    parts). After the first two follow other fractions than the usual, and "after" a model version whose slices stay in
    the parts that they had. `leaks`: what connects two parts, `{name: {"count", "examples"}}`; empty is clean.
    """

    __tablename__ = "dataset_split"
    __table_args__ = (UniqueConstraint("dataset_id", "rule", "seed"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"))
    rule: Mapped[str]
    seed: Mapped[int]
    assignment: Mapped[dict[str, Any]]
    leaks: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    dataset: Mapped[Dataset] = relationship(lazy="joined")


class Review(Base):
    """What a reader says that a slice of a job shows (1: COVID); the newest word of a reader counts."""

    __tablename__ = "review"
    __table_args__ = (UniqueConstraint("slice_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    slice_id: Mapped[int] = mapped_column(ForeignKey("slice.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    label: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    user: Mapped[User] = relationship(lazy="joined")
