"""Finds the names of the uploads that the slices of series, studies and patients came from."""

from collections import defaultdict

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.models import Job, Level, Series, Slice, Study, Upload

UploadNames = defaultdict[tuple[str, int], list[str]]
"""The file names of uploads by level and id of a patient, study or series. They are in the order of the submission."""


def upload_names(s: Session, job: Job, *conditions: ColumnElement[bool]) -> UploadNames:
    """Return the names of the uploads of series that match the conditions, and of their studies and patients.

    If the job has one upload, all its slices came from it, so do not read them.
    """
    of_job = s.scalars(select(Upload.filename).where(Upload.job_id == job.id).limit(2)).all()
    if len(of_job) == 1:
        return defaultdict(lambda: [*of_job])
    columns = (Study.patient_id, Series.study_id, Slice.series_id, Slice.upload_id)
    owned = select(*columns).join(Series, Series.id == Slice.series_id).join(Study, Study.id == Series.study_id)
    pairs = owned.where(*conditions).distinct().subquery()
    query = select(pairs, Upload.filename).join(Upload, Upload.id == pairs.c.upload_id).order_by(Upload.position)
    names: dict[tuple[str, int], dict[str, None]] = {}
    for *ids, _, name in s.execute(query):
        for unit in zip((Level.PATIENT, Level.STUDY, Level.SERIES), ids, strict=True):
            names.setdefault(unit, {})[name] = None
    return defaultdict(list, {unit: list(ordered) for unit, ordered in names.items()})
