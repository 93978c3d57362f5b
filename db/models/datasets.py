"""Labelled slices for training: datasets, their splits, and the labels that reviewers give."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base
from db.models.registry import ModelVersion
from db.models.slices import BigId
from db.models.work import LeaseMixin

ARRAY_SLICES = 1024  # in each array file of a dataset but the last, 51 MB
FRACTIONS = (0.7, 0.1, 0.2)
"""The usual shares of train, validation and test."""


class SplitRule(StrEnum):
    """How a split assigns slices to its parts.

    `groups`: drawn by group and class with a seed; groups that share near-identical slices stay together. `groups as
    given`: each group is drawn alone. `given`: by the CSV, slice by slice; a group that it puts into several parts has
    the list of them.
    """

    GROUPS = "groups"
    AS_GIVEN = "groups as given"
    GIVEN = "given"


class Dataset(LeaseMixin, Base):
    """An immutable list of labelled slices. An evaluation worker builds it from `sources`; a new list is a new number.

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
    sources: Mapped[list[dict[str, Any]]] = mapped_column(info=FILE)
    labels_sha256: Mapped[str | None] = mapped_column(info=FILE)
    sha256: Mapped[str | None] = mapped_column(info=NO_FILE)
    size: Mapped[int] = mapped_column(default=0)
    arrays: Mapped[list[str]] = mapped_column(default=list, info=FILE)
    report: Mapped[dict[str, Any]] = mapped_column(default=dict, info=NO_FILE)
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]

    user: Mapped[User | None] = relationship(lazy="joined")

    @property
    def label(self) -> str:
        """How people and the API name it: `name/number`."""
        return f"{self.name}/{self.number}"


class LabelledSlice(Base):
    """One slice of a dataset: its `row` among the dataset's arrays, its label (1: COVID) and its group.

    What could not be taken has a `reason`, no row and no part in the dataset. `group` is never empty for a slice that
    has a row. `perceptual_hash`: 64 bits, as 16 hexadecimal digits. `cluster`: slices of one cluster are identical or
    near-identical; it is the row of the first of them. `given_part`: the part that the
    CSV put it in; `source`: the hospital or scanner that it names, if any.
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
    given_part: Mapped[str | None]
    source: Mapped[str | None]
    sha256: Mapped[str | None] = mapped_column(index=True, info=FILE)
    pixels_sha256: Mapped[str | None] = mapped_column(info=NO_FILE)
    perceptual_hash: Mapped[str | None] = mapped_column(info=NO_FILE)
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

    `rule`: see SplitRule. `train_share`, `validation_share`, `test_share`: the fractions it was drawn for. `after`: the
    model version whose slices stay in the parts that they had for it. `leaks`: what connects two parts,
    `{name: {"count", "examples"}}`; empty is clean. No two splits of a dataset were drawn alike: whoever draws one
    locks the dataset first.
    """

    __tablename__ = "dataset_split"

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"), index=True)
    rule: Mapped[str]
    seed: Mapped[int]
    train_share: Mapped[float]
    validation_share: Mapped[float]
    test_share: Mapped[float]
    after_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    assignment: Mapped[dict[str, Any]] = mapped_column(info=NO_FILE)
    leaks: Mapped[dict[str, Any]] = mapped_column(info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    dataset: Mapped[Dataset] = relationship(lazy="joined")
    after: Mapped[ModelVersion | None] = relationship(lazy="joined")

    @property
    def fractions(self) -> tuple[float, float, float]:
        """The shares of train, validation and test that the split was drawn for."""
        return self.train_share, self.validation_share, self.test_share

    @property
    def description(self) -> str:
        """Return how the split was drawn, in words: `groups as given 0.7/0.1/0.2 after lungs/1`."""
        words = [str(self.rule)]
        if self.fractions != FRACTIONS and self.rule != SplitRule.GIVEN:
            words.append("/".join(f"{share:g}" for share in self.fractions))
        return " ".join([*words, *(["after", self.after.label] if self.after else [])])


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
