"""Settles the patients, studies and series of a job when all its uploads are read.

The result depends only on the slices, and not on their order of arrival or on earlier predictions. So it can run again
after a retry, and each of its steps can be repeated. A retry that reads more files opens the bolus tracking slices
again, because with these files they may be a series over time. The caller has locked the job.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from sqlalchemy import BigInteger, case, delete, exists, func, literal, null, select, update
from sqlalchemy.orm import Session

from db.bulk import UNSEEN, one_of
from db.database import current
from db.models import Outcome, Patient, Prediction, Series, Slice, Study, Upload
from db.models.slices import folder_of
from db.reasons import DAMAGED
from db.series.batches import series_batches
from db.series.geometry import BOLUS_TRACKING, HAS_PLACE, SAME_PLACE, Place, notes_of, tracking_slices
from db.series.rows import FOLDER, LOOSE

Step = Callable[[Session], None]
HELD = (Outcome.OPEN, Outcome.PREDICTED, Outcome.QUARANTINED)
"""The outcomes that a rejection replaces."""

HELD_OR_CANCELLED = (*HELD, Outcome.CANCELLED)
"""The outcomes that bolus tracking replaces. A retry may have opened bolus tracking slices again before the job was
cancelled."""
MOVED = 1.0
"""Least span of locations in mm if the table moved. Locations of bolus tracking may differ by some hundredths."""

IDS_A_STATEMENT = 1_000  # SQLite accepts at most 32,766 values


def settle(s: Session, job_id: str) -> None:
    """Reject slices that are in conflict or are bolus tracking. Rank the slices of each series, and write the notes."""
    for step in settling(job_id, series_batches(s, job_id)):
        step(s)


def settling(job_id: str, batches: Iterable[Sequence[int]]) -> Iterator[Step]:
    """Yield the steps of `settle`. Each can be a transaction. `batches`: the ids of all series of the job."""
    yield partial(_number_patients, job_id=job_id)
    yield partial(_reject_conflicts, job_id=job_id)
    for series_ids in batches:
        yield partial(_settle_series, series_ids=series_ids)
    yield partial(_take_back, job_id=job_id)


def _settle_series(s: Session, series_ids: Sequence[int]) -> None:
    """Reject the bolus tracking slices of these series, rank their slices, and write the notes."""
    notes: dict[int, list[str]] = {}
    unplaced: list[int] = []
    of_folders = set(s.scalars(select(Series.id).where(Series.id.in_(series_ids), Series.uid.startswith(FOLDER))))
    for series_id, places, is_unplaced in _series(s, series_ids):
        if is_unplaced:
            unplaced.append(series_id)
        tracking = tracking_slices(places) if BOLUS_TRACKING in current().set_apart else []
        _reject_those(s, Slice.id, tracking, BOLUS_TRACKING, HELD_OR_CANCELLED)
        left_out = set(tracking)
        kept = [place for place in places if place.slice_id not in left_out]
        has_no_uid = series_id in of_folders and any(place.is_dicom for place in kept)
        notes[series_id] = [*(["no_uid"] if has_no_uid else []), *notes_of(kept)]
    _note(s, series_ids, notes)
    _rank(s, series_ids, unplaced)


def _number_patients(s: Session, job_id: str) -> None:
    """Remove patients without a study, and number the others by their first slices in the submission."""
    without_study = ~exists().where(Study.patient_id == Patient.id)
    s.execute(delete(Patient).where(Patient.job_id == job_id, without_study), execution_options=UNSEEN)
    place = Upload.position * literal(1 << 32, BigInteger) + Slice.ordinal
    query = (
        select(Patient.id, Patient.ordinal)
        .join(Study, Study.patient_id == Patient.id)
        .join(Series, Series.study_id == Study.id)
        .join(Slice, Slice.series_id == Series.id)
        .join(Upload, Upload.id == Slice.upload_id)
        .where(Patient.job_id == job_id)
        .group_by(Patient.id, Patient.ordinal)
        .order_by(func.min(place), Patient.key)
    )
    numbered = enumerate(s.execute(query).all(), 1)
    if changed := [{"id": id_, "ordinal": new} for new, (id_, old) in numbered if new != old]:
        s.execute(update(Patient), changed)


def _reject_conflicts(s: Session, job_id: str) -> None:
    """Reject the slices of studies that name two patients, and slices with the same UID as another file.

    A damaged copy of a slice is not in conflict with it.
    A separate query finds the conflicts. When it was a subquery of the update, PostgreSQL ran it again for each slice
    until it had analyzed the tables. That took 14 s for 2,560 slices, and four times as long for twice as many.
    """
    of_studies = select(Series.id).join(Study, Study.id == Series.study_id)
    of_studies = of_studies.where(Study.job_id == job_id, Study.conflict.is_not(None))
    _reject_those(s, Slice.series_id, s.scalars(of_studies).all(), "patient_conflict")
    is_damaged = (Slice.state == Outcome.REJECTED) & Slice.reason.in_(DAMAGED)
    twins = select(Slice.sop_uid).where(Slice.job_id == job_id, Slice.sop_uid.is_not(None), ~is_damaged)
    twins = twins.group_by(Slice.sop_uid).having(func.count(Slice.sha256.distinct()) > 1)
    if uids := set(s.scalars(twins)):
        stated = select(Slice.id, Slice.sop_uid).where(Slice.job_id == job_id, Slice.sop_uid.is_not(None))
        _reject_those(s, Slice.id, [id_ for id_, uid in s.execute(stated) if uid in uids], "uid_conflict")


def _reject_those(
    s: Session, column: Any, values: Sequence[int], reason: str, outcomes: Sequence[Outcome] = HELD
) -> None:
    """Reject the slices that have one of the `values` in the column, and one of the `outcomes`."""
    for start in range(0, len(values), IDS_A_STATEMENT):
        some = column.in_(values[start : start + IDS_A_STATEMENT])
        rejected = update(Slice).where(Slice.state.in_(outcomes), some)
        s.execute(rejected.values(state=Outcome.REJECTED, reason=reason, detail=None), execution_options=UNSEEN)


def _take_back(s: Session, job_id: str) -> None:
    """Remove the predictions of slices that were rejected after they were predicted."""
    rejected = select(Prediction.id).join(Slice, Slice.id == Prediction.slice_id)
    rejected = rejected.where(Prediction.job_id == job_id, Slice.job_id == job_id, Slice.state == Outcome.REJECTED)
    ids = s.scalars(rejected).all()
    for start in range(0, len(ids), IDS_A_STATEMENT):
        predictions = delete(Prediction).where(Prediction.id.in_(ids[start : start + IDS_A_STATEMENT]))
        s.execute(predictions, execution_options=UNSEEN)


def _series(s: Session, series_ids: Sequence[int]) -> Iterator[tuple[int, list[Place], bool]]:
    """Yield the slices of each series, and whether their positions do not order them.

    Leave out slices that were rejected for another reason than bolus tracking. Positions do not order the slices if all
    of them state one position, or if locations count in place of positions (`_are_located`).
    """
    is_dicom = func.coalesce(Slice.format, "") == "DICOM"
    stated = (Slice.series_id, Slice.id, Slice.position, Slice.orientation)
    upload = case((Upload.kind == LOOSE, 0), else_=Upload.id)  # ids begin at 1
    columns: Any = (Slice.location, *stated, Slice.pixels_sha256, Slice.lung_fraction, is_dicom, upload, Slice.name)
    query = (
        select(*columns).join(Upload, Upload.id == Slice.upload_id).where(Slice.series_id.in_(series_ids), HAS_PLACE)
    )
    for series_id, rows in groupby(s.execute(query.order_by(Slice.series_id)).all(), lambda row: row[1]):
        located = [(row[0], Place._make((*row[2:-2], (row[-2], folder_of(row[-1])), False))) for row in rows]
        places = [place for _, place in located]
        positions = [place.position for place in places]
        is_at_one_place = len(places) > 1 and _span(positions) < SAME_PLACE
        is_located = _are_located(positions, [location for location, _ in located])
        if is_located:
            places = [place._replace(position=location, is_located=True) for location, place in located]
        yield series_id, places, is_at_one_place or is_located


def _are_located(positions: Sequence[float | None], locations: Sequence[float | None]) -> bool:
    """Return whether the locations of a series count in place of its positions, because its positions are not usable.

    All slices state a location, and the locations span at least 1 mm. Some or all slices state no position, or all
    state one position. Positions and locations of a series are never mixed: their zeros and their directions may
    differ.
    """
    if len(positions) < 2 or None in locations:
        return False
    is_usable = SAME_PLACE <= _span(positions) < math.inf
    return not is_usable and _span(locations) >= MOVED


def _span(places: Sequence[float | None]) -> float:
    """Return the distance between the outermost places, in mm, or infinity if one is not stated."""
    stated = [place for place in places if place is not None]
    return max(stated) - min(stated) if len(stated) == len(places) else math.inf


def _note(s: Session, series_ids: Sequence[int], notes: dict[int, list[str]]) -> None:
    stored = s.execute(select(Series.id, Series.notes).where(Series.id.in_(series_ids))).all()
    changed = [{"id": id_, "notes": notes.get(id_, [])} for id_, old in stored if old != notes.get(id_, [])]
    if changed:
        s.execute(update(Series), changed)


def _rank(s: Session, series_ids: Sequence[int], unplaced: Sequence[int]) -> None:
    """Number the slices of each of these series from the feet to the head.

    They are sorted by position, then by SliceLocation, InstanceNumber, name (in natural order), frame, hash, and place
    in the submission. Slices without a position come last. In the series `unplaced`, positions do not count, because
    they differ only by rounding, or some slices have none.
    """
    order = (
        case((one_of(s, Slice.series_id, unplaced), null()), else_=Slice.position).nulls_last(),
        Slice.location.nulls_last(),
        Slice.instance_number.nulls_last(),
        Slice.name_key,
        Slice.frame,
        Slice.sha256,
        Upload.position,
        Slice.ordinal,
    )
    rank = func.row_number().over(partition_by=Slice.series_id, order_by=order) - 1
    ranked = select(Slice.id, rank.label("rank")).join(Upload, Upload.id == Slice.upload_id)
    ranks = ranked.where(Slice.series_id.in_(series_ids)).subquery()
    moved = update(Slice).where(Slice.id == ranks.c.id, Slice.series_rank.is_distinct_from(ranks.c.rank))
    s.execute(moved.values(series_rank=ranks.c.rank), execution_options=UNSEEN)
