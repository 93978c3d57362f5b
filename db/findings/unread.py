"""Finds what is missing because files were lost before their series was known. Their folders show their series."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import exists, func, select, true
from sqlalchemy.orm import Session

from db.findings.rules import COPY, UPLOAD_FAILED
from db.models import Job, Level, Outcome, Series, Slice, Upload, Work
from db.models.slices import folder_of, slashed
from db.reasons import OF_ARCHIVES, OF_UPLOADS, SET_APART
from db.series.rows import FOLDER, LOOSE

FORMAT, NO_IMAGES = "format", "no_images"
NO_SLICE = {"not_ct", "nested", "not_regular", *SET_APART}
"""Reasons of files that are not slices of a scan, such as reports and links. A scan is complete without these files. A
file of another format (`FORMAT`) is not a slice either, unless slices in its folder have the same suffix."""
NOT_READ = {Outcome.CANCELLED, "decoder_budget", UPLOAD_FAILED, *OF_UPLOADS}
"""Reasons of files that were not read. Often these are all remaining files of an archive."""

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)

_LOOSE_UPLOADS = 0  # stands for all loose uploads; ids of uploads begin at 1

Folder = tuple[int, str]
"""An upload, and the path of a folder in it."""
_ALL_LOOSE: Folder = (-1, "")
"""The folder that stands for all loose files of a job, whatever their real folders."""


class Place(NamedTuple):
    """A series, its study and its patient, and what the study states: see `db.models.Study`.

    `is_mixed`: no file states the patient's ID, and the series seems to hold several scans.
    """

    patient_id: int
    study_id: int
    series_id: int
    conflict: str | None
    birth_key: str | None
    sex_key: str | None
    is_mixed: bool

    def id_at(self, level: Level) -> int:
        """Return the id of the series, study or patient, depending on the level."""
        return {Level.PATIENT: self.patient_id, Level.STUDY: self.study_id, Level.SERIES: self.series_id}[level]


class Files(NamedTuple):
    """The files of a folder with one suffix, in lower case. A number is not a suffix, because names may be UIDs."""

    folder: Folder
    suffix: str


def files_of(upload_id: int, name: str) -> Files:
    """Return the group of files to which a file of an upload belongs."""
    folder, _, file = slashed(name).rpartition("/")
    suffix = file.rpartition(".")[2].lower() if "." in file else ""
    return Files((upload_id, folder), "" if suffix.isdigit() else suffix)


@dataclass(frozen=True)
class Unread:
    """What is missing. `counts`: files by reason, for each unit (series, study or patient; by level and id).

    `cut_off`: the series of which slices may be missing, and nobody knows how many.
    """

    counts: Mapping[tuple[Level, int], Counter[str]]
    cut_off: set[int]


def find_unread(s: Session, job: Job, places: Iterable[Place], files: Mapping[int, set[Files]]) -> Unread:
    """Return what is missing because of files without a series. `files`: the predicted files of each series.

    A file counts for one unit. If its folder holds slices of only one series, the file counts for this series. If all
    series in the folder are of one study, the file counts for this study. If they are of one patient, the file counts
    for this patient. In all other cases, the file is not counted. If the file was not read, it then cuts off the series
    in its folder. Copies have the same name and the same bytes, and count as `copy`. A failed upload that is not an
    archive is a file without a series, too. If the folder of a loose file holds no slices, all loose files are taken as
    its folder.

    An archive that failed cuts off the series that have slices from it. If not all its files were listed, it cuts off
    all series that its files could state. A damaged archive inside an upload cuts off the series that have slices from
    this archive. If no series has any, the archive cuts off the series that have slices in its folder or below, also in
    other archives there.
    """
    lost: defaultdict[Folder, list[_Lost]] = defaultdict(list)
    archives: defaultdict[Folder, list[_Lost]] = defaultdict(list)
    loose = set(s.scalars(select(Upload.id).where(Upload.job_id == job.id, Upload.kind == LOOSE)))
    read = {series_id: {_together(one, loose) for one in own} for series_id, own in files.items()}
    for of_series in read.values():
        of_series |= {one._replace(folder=_ALL_LOOSE) for one in of_series if one.folder[0] == _LOOSE_UPLOADS}
    of_slices = {one for own in read.values() for one in own if one.suffix}
    holding = {one.folder for own in read.values() for one in own}
    for one in chain(_lost_slices(s, job), _lost_uploads(s, job)):
        own = _together(files_of(one.upload_id, one.name), loose)
        if one.reason in OF_ARCHIVES or _ARCHIVE.search(one.name):
            archives[own.folder[0], slashed(one.name)].append(one)
            continue
        own = own._replace(folder=_home(own.folder, holding))
        if one.reason != FORMAT or own in of_slices:
            lost[own.folder].append(one)
    folders = {series_id: {one.folder for one in own} for series_id, own in read.items()} if lost or archives else {}
    cut_off, opened = _below(archives.keys(), folders)
    beside = set()
    for upload_id, path in archives.keys() - opened:
        folder = _home((upload_id, folder_of(path)), holding)
        if _ARCHIVE.search(path):
            beside.add(folder)
        else:  # one packed file, such as .dcm.gz
            lost[folder] += archives[upload_id, path]
    counts, unread = _counts(lost, places, folders)
    return Unread(counts, cut_off | _below(beside, folders)[0] | unread | _of_failed_uploads(s, job))


class _Lost(NamedTuple):
    """A file that may have held slices and has no series. `slice_id`: 0 if it has no row, because its upload failed."""

    slice_id: int
    upload_id: int
    name: str
    sha256: str | None
    reason: str

    @property
    def contents(self) -> tuple[str, str | int]:
        """Return what the file has in common with its copies: its name without its folder, and its bytes."""
        return slashed(self.name).rpartition("/")[2], self.sha256 or self.slice_id


def _lost_slices(s: Session, job: Job) -> Iterator[_Lost]:
    reason = func.coalesce(Slice.reason, Slice.state)
    columns: Any = (Slice.id, Slice.upload_id, Slice.name, Slice.sha256, reason.label("reason"))
    query = select(*columns).where(Slice.job_id == job.id, Slice.series_id.is_(None))
    lost = (Outcome.REJECTED, Outcome.QUARANTINED, Outcome.CANCELLED)
    for row in s.execute(query.where(Slice.state.in_(lost))):
        if row.reason not in NO_SLICE:
            yield _Lost(*row)


def _lost_uploads(s: Session, job: Job) -> Iterator[_Lost]:
    """Yield the loose files of which nothing was read, because their uploads failed."""
    query = select(Upload.id, Upload.filename, Upload.sha256, Upload.error).where(Upload.job_id == job.id)
    has_slices = exists().where(Slice.upload_id == Upload.id)
    for row in s.execute(query.where(Upload.state == Work.FAILED, Upload.kind == LOOSE, ~has_slices)):
        yield _Lost(0, row.id, row.filename, row.sha256, row.error if row.error in OF_UPLOADS else UPLOAD_FAILED)


def _of_failed_uploads(s: Session, job: Job) -> set[int]:
    """Return the series that may have slices in uploads that were not unpacked to their end.

    If not all files of an archive were listed, these are all series of the job that are not folders.
    """
    failed = (
        Upload.job_id == job.id,
        Upload.state == Work.FAILED,
        ~Upload.error.startswith(NO_IMAGES, autoescape=True),
    )
    of_series = select(Series.id).join(Slice, Slice.series_id == Series.id).join(Upload, Upload.id == Slice.upload_id)
    series = set(s.scalars(of_series.where(*failed).distinct()))
    listed = select(func.count(Slice.ordinal.distinct())).where(Slice.upload_id == Upload.id).scalar_subquery()
    unlisted = select(Upload.id).where(*failed, Upload.kind != LOOSE, func.coalesce(listed < Upload.entries, true()))
    if s.scalar(unlisted.limit(1)) is not None:
        stated = select(Series.id).where(Series.job_id == job.id, ~Series.uid.startswith(FOLDER))
        series.update(s.scalars(stated))
    return series


def _together(files: Files, loose: Set[int]) -> Files:
    """Return loose files as files of one upload. Return other files unchanged."""
    upload_id, path = files.folder
    return Files((_LOOSE_UPLOADS, path), files.suffix) if upload_id in loose else files


def _home(folder: Folder, holding: Set[Folder]) -> Folder:
    """Return the folder that decides on a lost file. `holding`: the folders that hold slices."""
    return _ALL_LOOSE if folder[0] == _LOOSE_UPLOADS and folder not in holding else folder


def _counts(
    lost: Mapping[Folder, list[_Lost]], places: Iterable[Place], folders: Mapping[int, set[Folder]]
) -> tuple[Mapping[tuple[Level, int], Counter[str]], set[int]]:
    """Return the lost files of each folder for the unit that they belong to.

    Also return the series in folders of several patients with files that were not read.
    """
    owners: dict[Folder, list[Place]] = defaultdict(list)
    for place in places if lost else ():
        for folder in folders.get(place.series_id, ()):
            owners[folder].append(place)
    counted: dict[tuple[Level, int], dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
    cut_off: set[int] = set()
    for folder, files in lost.items():
        for level in (Level.SERIES, Level.STUDY, Level.PATIENT):
            if len(ids := {place.id_at(level) for place in owners[folder]}) == 1:
                unit = counted[level, ids.pop()]
                for one in files:
                    unit[one.contents].append(one.reason)
                break
        else:
            if any(one.reason in NOT_READ for one in files):
                cut_off.update(place.series_id for place in owners[folder])
    return {unit: _counted(by_file.values()) for unit, by_file in counted.items()}, cut_off


def _counted(files: Iterable[list[str]]) -> Counter[str]:
    """Count each file once by reason, and its copies as copies. `files`: the reasons of each file and of its copies."""
    counts: Counter[str] = Counter()
    for reasons in files:
        counts[min(reasons)] += 1
        counts[COPY] += len(reasons) - 1
    return +counts


def _below(tops: Set[Folder], folders: Mapping[int, set[Folder]]) -> tuple[set[int], set[Folder]]:
    """Return the series with slices in one of the folders `tops` or below it, and the `tops` that hold slices."""
    series: set[int] = set()
    hit: set[Folder] = set()
    for series_id, own in folders.items() if tops else ():
        if above := {top for upload_id, path in own for top in _upwards(upload_id, path) if top in tops}:
            series.add(series_id)
            hit |= above
    return series, hit


def _upwards(upload_id: int, path: str) -> Iterator[Folder]:
    """Yield a folder and all folders above it. The outermost is ""."""
    while path:
        yield upload_id, path
        path = path.rpartition("/")[0]
    yield upload_id, path
