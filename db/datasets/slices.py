"""Reads the labelled slices of a dataset, as rows for training and for splits."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from db import PARTS
from db.models import Dataset, LabelledSlice, Split, SplitRule

BY_CSV, BY_FOLDERS = "CSV", "folders"  # origins of groups that have the same name in each dataset
BY_PIXELS = "near-identical slices"  # the origin of a group that only the pixels show
BY_JOB = "jobs, without a known patient"  # the origin of a group whose slices may be of patients of other groups too
BY_JOB_SERIES = "series of jobs"  # as BY_JOB, in datasets that were made before folders named the groups of jobs
EACH_SLICE = "each_slice_a_patient"  # a problem: by the DICOM headers, nearly each slice is a separate patient
REVIEWS = "reviews"  # the origin of labels that readers gave to slices of jobs
MOST_LEFT_OUT = 0.05  # of the files of a class; if more are left out, the report and the site check say so
MOST_ODD_HU = 0.01  # of the slices of a class; if more may not be in HU, the report and the site check say so

T = TypeVar("T", "LabelledRow", "SplitCandidate")


class DatasetError(Exception):
    """A dataset cannot be made or used like this. The message says why, in one line."""


class DatasetGone(DatasetError):
    """The dataset was deleted. Nothing may use it any more."""


@dataclass(frozen=True)
class LabelledRow:
    """One labelled slice: its `row` in the dataset's arrays, its label (1: COVID), and a hash for its `series`.

    `sha256`: the hash of its file. `frame`: its place in that file. `cluster`: a number that identical and
    near-identical slices share.
    """

    id: int
    row: int
    label: int
    group: str
    name: str
    format: str | None
    mode: str | None
    width: int | None
    height: int | None
    sha256: str | None
    source: str | None = None
    series: str | None = None
    frame: int = 0
    cluster: int | None = None


@dataclass(frozen=True)
class SplitCandidate:
    """The columns of a labelled slice that splits and leak checks need. `given_part`: the part that the CSV names."""

    row: int
    name: str
    label: int
    group: str
    cluster: int | None
    pixels_sha256: str | None
    given_part: str | None


def rows_of(s: Session, dataset_id: int, split: Split | None = None, part: str | None = None) -> list[LabelledRow]:
    """Return the labelled slices of a dataset, or of one part of a split of it, in the order of `row`.

    Raises DatasetError: only one of `split` and `part` is given, or one is not of this dataset.
    """
    if split is None and part is None:
        return _read(s, LabelledRow, dataset_id)
    if split is None or part not in PARTS or split.dataset_id != dataset_id:
        raise DatasetError(f"name a split of this dataset and one of its parts: {', '.join(PARTS)}")
    if split.rule == SplitRule.GIVEN:
        return _read(s, LabelledRow, dataset_id, LabelledSlice.given_part == part)
    return [row for row in _read(s, LabelledRow, dataset_id) if split.assignment[row.group] == part]


def without_patient(dataset: Dataset) -> int:
    """Count the slices without a known patient, series or folder. Several of their groups may be the same patient.

    If the headers make nearly each slice a separate patient, all slices that were grouped by headers count. If the
    headers state one patient ID for all patients, this does not count, because it separates no slices of one patient.
    """
    identity = dataset.report.identity
    by_header = identity.slices if identity.problem == EACH_SLICE else 0
    return count_unknown(dataset.report.groups_from) + by_header


def count_unknown(groups_from: Mapping[str, int]) -> int:
    """Return how many slices have a group whose origin names no patient, series or folder.

    `groups_from`: the number of slices by the origin of their group.
    """
    return sum(groups_from.get(origin, 0) for origin in (BY_PIXELS, BY_JOB, BY_JOB_SERIES))


def about_left_out(labelled_files: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line about the files that were left out, if they are more than 5 % of the files of a class.

    `labelled_files`: as in the report of a dataset.
    """
    counts = [(name, count["left_out"], count["files"]) for name, count in labelled_files.items()]
    if all(left_out <= MOST_LEFT_OUT * files for _, left_out, files in counts):
        return []
    by_class = " and ".join(f"{left_out:,} of {files:,} files of {name}" for name, left_out, files in counts)
    return [f"{by_class} were left out: the remaining files may not be typical of their class; look at the reasons"]


def about_odd_hu(odd: Mapping[str, int], counts: Mapping[str, int]) -> list[str]:
    """Return a line about slices with the note `odd_hu`, if they are more than 1 % of the slices of a class.

    Both arguments: slices by class.
    """
    if all(count <= MOST_ODD_HU * counts[name] for name, count in odd.items()):
        return []
    by_class = " and ".join(f"{count:,} of {counts[name]:,} slices of {name}" for name, count in odd.items())
    return [
        f"the values of {by_class} may not be HU: a model may learn this and not the disease; check the rescale"
        " intercept of the files"
    ]


def about_contested(contested: int, shared: int) -> str:
    """Return a line about readers who disagree on slices, or an empty text. `shared`: slices of several readers."""
    if not contested:
        return ""
    if shared < contested:  # an older report does not state it
        return f"readers disagree on {contested:,} slices"
    return f"readers disagree on {contested:,} of the {shared:,} slices that several of them labelled"


def doubts_about(dataset: Dataset) -> list[str]:
    """Return a line for each reason why the labels or the choice of the slices may make metrics untrue."""
    report = dataset.report
    doubts = []
    if report.labels_from == REVIEWS and (count := dataset.size - report.blind_labels):
        labels = "label is" if count == 1 else "labels are"
        doubts.append(f"{count:,} {labels} of readers who may have seen a model's answers: metrics may be too good")
    if line := about_contested(report.contested_labels, report.shared_labels):
        doubts.append(line)
    return doubts + about_left_out(report.labelled_files) + about_odd_hu(report.odd_hu, report.counts)


def names_patients(dataset: Dataset) -> bool:
    """Return whether the names of all groups come from a CSV or folders, so that other datasets may have them too."""
    return set(dataset.report.groups_from) <= {BY_CSV, BY_FOLDERS}


def lack_of_patient(dataset: Dataset) -> str:
    """Return what the slices of `without_patient` lack, as the end of a sentence."""
    why = " (DICOM headers name another one for nearly each slice)"
    return f"have no known patient{why if dataset.report.identity.problem == EACH_SLICE else ''}"


def split_candidates(s: Session, dataset_id: int) -> list[SplitCandidate]:
    """Return all labelled slices, in the order of `row`, with the columns that splits and leak checks need."""
    return _read(s, SplitCandidate, dataset_id)


def has_given_parts(s: Session, dataset_id: int) -> bool:
    """Return whether the CSV of a dataset names parts."""
    slices = (LabelledSlice.dataset_id == dataset_id, LabelledSlice.row.is_not(None))
    return bool(s.scalar(select(exists().where(*slices, LabelledSlice.given_part.is_not(None)))))


def count_parts(s: Session, split: Split) -> dict[str, int]:
    """Return how many slices each part of a split has."""
    by: Any = LabelledSlice.given_part if split.rule == SplitRule.GIVEN else LabelledSlice.group
    rows = (LabelledSlice.dataset_id == split.dataset_id, LabelledSlice.row.is_not(None))
    counts = dict.fromkeys(PARTS, 0)
    for key, count in s.execute(select(by, func.count()).where(*rows).group_by(by)):
        if (part := key if split.rule == SplitRule.GIVEN else split.assignment[key]) in counts:
            counts[part] += count
    return counts


def part_of(split: Split, slice_: SplitCandidate) -> str:
    """Return the part of the split that contains this slice of its dataset."""
    return (slice_.given_part or "") if split.rule == SplitRule.GIVEN else str(split.assignment[slice_.group])


def _read(s: Session, kind: type[T], dataset_id: int, *conditions: ColumnElement[bool]) -> list[T]:
    """Return the slices that have a row, sorted by row, as objects of `kind`. Its fields have the columns' names."""
    columns: list[Any] = [getattr(LabelledSlice, field.name) for field in fields(kind)]
    query = select(*columns).where(LabelledSlice.dataset_id == dataset_id, LabelledSlice.row.is_not(None), *conditions)
    return [kind(*values) for values in s.execute(query.order_by(LabelledSlice.row))]
