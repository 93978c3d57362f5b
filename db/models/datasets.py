"""Datasets of labelled slices, their splits, and the labels that readers give to slices of jobs."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship, validates

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base, Json
from db.models.documents import DatasetReport, DocumentType
from db.models.registry import ModelVersion
from db.models.slices import BigId
from db.models.work import LeaseMixin

ARRAY_SLICES = 1024  # slices in each array file of a dataset except the last; 51 MB


class SplitRule(StrEnum):
    """How a split assigns slices to its parts.

    `groups`: by group and class, with a seed. Groups that share near-identical slices stay together. `groups as given`:
    like `groups`, but each group is drawn separately. `given`: as the CSV states for each slice.
    """

    GROUPS = "groups"
    AS_GIVEN = "groups as given"
    GIVEN = "given"


class Dataset(LeaseMixin, Base):
    """An immutable list of labelled slices. A worker builds it from `sources`. A changed list gets a new `number`.

    `sources`: `{"filename", "sha256", "size", "given"}` for each received file, in order (see `create_dataset`), or
    `{"job"}` for the reviewed slices of a job. `labels_sha256`: the CSV of labels, or None. `folders_first`: folders
    name the groups of DICOM slices, and headers only if no folder does. `sha256`: the hash of all slices, labels and
    groups, in order, once the dataset is built. `arrays`: the .npy files with the prepared slices in the order of rows,
    uint8[ARRAY_SLICES, 224, 224]. The last one may be shorter. `deleted_at`: when somebody deleted the dataset. From
    then on, nothing may use it, and the sweeper erases its slices and all names. Its row stays, because runs,
    evaluations and model versions refer to it. `erased_at`: when this was done.
    """

    __tablename__ = "dataset"
    __table_args__ = (UniqueConstraint("name", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    number: Mapped[int]
    user_id: Mapped[int | None] = mapped_column(ForeignKey("user_account.id"))
    sources: Mapped[list[Json]] = mapped_column(info=FILE)
    labels_sha256: Mapped[str | None] = mapped_column(info=FILE)
    folders_first: Mapped[bool] = mapped_column(default=False)
    sha256: Mapped[str | None] = mapped_column(info=NO_FILE)
    size: Mapped[int] = mapped_column(default=0)
    arrays: Mapped[list[str]] = mapped_column(default=list, info=FILE)
    report: Mapped[DatasetReport] = mapped_column(
        DocumentType(DatasetReport), default=lambda: DatasetReport(), info=NO_FILE
    )
    progress: Mapped[float] = mapped_column(default=0.0)
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]

    user: Mapped[User | None] = relationship(lazy="joined")

    @validates("report")
    def _check_report(self, _column: str, value: DatasetReport | Json) -> DatasetReport:
        return DatasetReport.of(value)

    @property
    def label(self) -> str:
        """Return `name/number`, the name of the dataset for people and the API."""
        return f"{self.name}/{self.number}"


class LabelledSlice(Base):
    """One slice of a dataset: its `row` in the dataset's arrays, its label (1: COVID) and its group.

    A file that was left out has no row, but a `reason` (a code of `db.reasons`). A slice with a row always has a group.
    `perceptual_hash`: 64 bits, as 16 hexadecimal digits. `cluster`: the first row among the slices that are identical
    or near-identical to this one. `given_part`: the part that the CSV names. `source`: the hospital or scanner that the
    CSV names. `series`: a hash that is equal for the slices of a series, or None if the file does not state its series.
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
    series: Mapped[str | None]
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
    """A split of a dataset, which assigns each group to a part.

    `assignment`: `{group: part}`. If the CSV puts a group into several parts, the value is a list. `rule`: see
    SplitRule. `after`: a model version. Its slices stay in the parts that they had in its training. `leaks`: what
    connects two parts, `{name: {"count", "examples"}}`, or {}. Two splits of a dataset never have the same rule, seed
    and `after`, because the dataset is locked before a split is added. If the dataset is deleted, `assignment` is {},
    and no leak has examples.
    """

    __tablename__ = "dataset_split"

    id: Mapped[int] = mapped_column(primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("dataset.id"), index=True)
    rule: Mapped[str]
    seed: Mapped[int]
    after_version_id: Mapped[int | None] = mapped_column(ForeignKey("model_version.id"))
    assignment: Mapped[dict[str, str | list[str]]] = mapped_column(info=NO_FILE)
    leaks: Mapped[Json] = mapped_column(info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    dataset: Mapped[Dataset] = relationship(lazy="joined")
    after: Mapped[ModelVersion | None] = relationship(lazy="joined")

    @property
    def description(self) -> str:
        """Return in words how the split was drawn, such as `groups as given after lungs/1`."""
        return f"{self.rule} after {self.after.label}" if self.after else str(self.rule)


class Review(Base):
    """The label that a reader gave to a slice of a job (1: COVID). A new label replaces the reader's earlier one.

    `label`: None if the reader removed the label. The row is kept, because the reader may have seen the model's answer.
    `blind`: the reader gave this label when the model's answer was hidden, and had not labelled the slice before.
    """

    __tablename__ = "review"
    __table_args__ = (UniqueConstraint("slice_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    slice_id: Mapped[int] = mapped_column(ForeignKey("slice.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    label: Mapped[int | None]
    blind: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=from_now())

    user: Mapped[User] = relationship(lazy="joined")
