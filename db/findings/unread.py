"""Files that were rejected before their series was known. The folder of a file shows which series it belongs to."""

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
    """A series with the study and the patient that it belongs to, and the study's conflict."""

    patient_id: int
    study_id: int
    series_id: int
    conflict: str | None

    def id_at(self, level: Level) -> int:
        """Return the id of the series, study or patient."""
        return {Level.PATIENT: self.patient_id, Level.STUDY: self.study_id, Level.SERIES: self.series_id}[level]


def folder_of(upload_id: int, name: str) -> Folder:
    """Return the folder of a file of an upload."""
    return upload_id, name.rpartition("/")[0]


def unread_files(
    s: Session, job: Job, places: Iterable[Place], folders: Mapping[int, set[Folder]]
) -> dict[tuple[Level, int], Counter[str]]:
    """Count the files without a series, by level and id of the unit that they count for, and by reason.

    A file counts for one unit, which its folder shows: the series if the folder holds slices of only one, else the
    study if all series there belong to one, else the patient. A file is not counted if its folder holds no slice of a
    series, or series of several patients. `folders`: the folders in which each series has slices.
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
