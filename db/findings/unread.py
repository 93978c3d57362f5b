"""Counts files that were rejected before their series was known. The folder of a file shows its series."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Job, Level, Outcome, Slice
from db.reasons import SET_APART

NO_SLICE = {"format", "not_ct", "nested", "not_regular", *SET_APART}
"""Reasons of files that are not slices of a scan: texts, reports, links. A scan is complete without such files."""

Folder = tuple[int, str]
"""An upload, and the path of a folder in it."""


class Place(NamedTuple):
    """A series, its study and its patient, and what the study states: see `db.models.Study`."""

    patient_id: int
    study_id: int
    series_id: int
    conflict: str | None
    birth_key: str | None
    sex_key: str | None

    def id_at(self, level: Level) -> int:
        """Return the id of the series, study or patient, depending on the level."""
        return {Level.PATIENT: self.patient_id, Level.STUDY: self.study_id, Level.SERIES: self.series_id}[level]


def folder_of(upload_id: int, name: str) -> Folder:
    """Return the folder of a file of an upload."""
    return upload_id, name.rpartition("/")[0]


def unread_files(
    s: Session, job: Job, places: Iterable[Place], folders: Mapping[int, set[Folder]]
) -> dict[tuple[Level, int], Counter[str]]:
    """Count the files without a series by reason, for each unit (series, study or patient; by level and id).

    A file counts for one unit. If its folder holds slices of only one series, it counts for this series. If all series
    in the folder are of one study, it counts for this study. If they are of one patient, it counts for the patient.
    Otherwise it is not counted. `folders`: the folders in which each series has slices.
    """
    lost: dict[Folder, Counter[str]] = defaultdict(Counter)
    columns = (Slice.upload_id, Slice.name, Slice.reason)
    unplaced = (Slice.series_id.is_(None), Slice.state.in_((Outcome.REJECTED, Outcome.QUARANTINED)))
    for upload_id, name, reason in s.execute(select(*columns).where(Slice.job_id == job.id, *unplaced)):
        if reason is not None and reason not in NO_SLICE:
            lost[folder_of(upload_id, name)][reason] += 1
    owners: dict[Folder, list[Place]] = defaultdict(list)
    for place in places if lost else ():
        for folder in folders.get(place.series_id, ()):
            owners[folder].append(place)
    found: dict[tuple[Level, int], Counter[str]] = defaultdict(Counter)
    for folder, reasons in lost.items():
        for level in (Level.SERIES, Level.STUDY, Level.PATIENT):
            if len(ids := {place.id_at(level) for place in owners[folder]}) == 1:
                found[level, ids.pop()].update(reasons)
                break
    return found
