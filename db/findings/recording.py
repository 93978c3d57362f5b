"""Writes the findings of a job when it ends, and removes them when it is opened again."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from db import COVID, NON_COVID
from db.findings.rules import LEAST_LUNG, LITTLE_LUNG, PATIENT_UNCLEAR, Array, Evidence, conclude, rule_of
from db.findings.unread import Folder, Place, folder_of, unread_files
from db.models import Finding, Job, Level, Outcome, Patient, Prediction, Series, Slice, Study, Upload, Work
from db.models.documents import FindingRule


@dataclass
class _Slices:
    """What a series contributes to findings: the probabilities of slices with enough lung, and counts."""

    probabilities: Array = field(default_factory=lambda: np.zeros(0))
    ood: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    upload_failed: bool = False
    folders: set[Folder] = field(default_factory=set)


def write_findings(s: Session, job: Job) -> None:
    """Write the findings of a job that has no open work. The caller has locked the job.

    The findings do not depend on the order of arrival of slices. The number of statements does not grow with the job.
    """
    remove_findings(s, job)
    places = _places(s, job)
    if not places:
        return
    slices = _slices_by_series(s, job)
    unread = unread_files(s, job, places, {series_id: one.folders for series_id, one in slices.items()})
    rule = rule_of(job.model_version, _engine_of(s, job))
    rows = [_row(job, rule, level, own, _evidence(level, own, slices, unread)) for level, own in _units(places)]
    numbered = [row | {"ordinal": ordinal} for ordinal, row in enumerate(rows)]
    # Without render_nulls, SQLAlchemy sends a statement for each pattern of NULLs.
    s.execute(insert(Finding), numbered, execution_options={"render_nulls": True})


def remove_findings(s: Session, job: Job) -> None:
    """Remove the findings of a job that is opened again, because its slices may change."""
    s.execute(delete(Finding).where(Finding.job_id == job.id))


def _places(s: Session, job: Job) -> list[Place]:
    query = (
        select(Study.patient_id, Study.id, Series.id, Study.conflict, Study.birth_key, Study.sex_key)
        .join(Study, Study.id == Series.study_id)
        .join(Patient, Patient.id == Study.patient_id)
        .where(Series.job_id == job.id)
        .order_by(Patient.ordinal, Study.id, Series.id)
    )
    return [Place(*row) for row in s.execute(query)]


def _units(places: Iterable[Place]) -> Iterator[tuple[Level, list[Place]]]:
    """Yield each patient, then each study of the patient with its series."""
    for _, of_patient in groupby(places, lambda place: place.patient_id):
        own = list(of_patient)
        yield Level.PATIENT, own
        for _, of_study in groupby(own, lambda place: place.study_id):
            series = list(of_study)
            yield Level.STUDY, series
            yield from ((Level.SERIES, [place]) for place in series)


def _slices_by_series(s: Session, job: Job) -> Mapping[int, _Slices]:
    slices: defaultdict[Any, _Slices] = defaultdict(_Slices)
    columns = (
        Slice.series_id,
        Prediction.probability,
        Prediction.ood,
        Slice.lung_fraction,
        Slice.upload_id,
        Slice.name,
    )
    predicted = s.execute(
        select(*columns)
        .join(Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id))
        .where(Slice.job_id == job.id, Slice.series_id.is_not(None), Slice.state == Outcome.PREDICTED)
    ).all()
    if predicted:
        _add_predicted(slices, predicted)
    where = (Slice.job_id == job.id, Slice.series_id.is_not(None), Slice.state != Outcome.PREDICTED)
    others = select(Slice.series_id, Slice.state, Slice.reason, func.count()).where(*where)
    for series_id, state, reason, count in s.execute(others.group_by(Slice.series_id, Slice.state, Slice.reason)):
        slices[series_id].left_out[reason or state] += count
    cut_off = select(Slice.series_id).join(Upload, Upload.id == Slice.upload_id)
    cut_off = cut_off.where(Upload.job_id == job.id, Upload.state == Work.FAILED, Slice.series_id.is_not(None))
    for series_id in s.scalars(cut_off.distinct()):
        slices[series_id].upload_failed = True
    return slices


def _add_predicted(slices: dict[Any, _Slices], rows: Any) -> None:
    """Add the predicted slices. `rows`: series, probability, ood or None, share of lung or None, upload, name."""
    ids, chances, ood, lung, uploads, names = zip(*rows, strict=True)
    series = np.array(ids, np.int64)
    probability = np.array(chances, np.float64)
    measured = np.array([flag is not None for flag in ood])
    outside = np.array(ood, np.bool_)
    with_lung = np.array([share is None or share >= LEAST_LUNG for share in lung])
    order = np.argsort(series, kind="stable")
    unique, starts = np.unique(series[order], return_index=True)
    for series_id, members in zip(unique, np.split(order, starts[1:]), strict=True):
        used = members[with_lung[members]]
        one = _Slices(probability[used], int(outside[used].sum()) if measured[used].any() else None)
        one.folders = {folder_of(uploads[i], names[i]) for i in members}
        if little := len(members) - len(used):
            one.left_out[LITTLE_LUNG] = little
        slices[int(series_id)] = one


def _engine_of(s: Session, job: Job) -> str | None:
    """Return the engine that made most predictions of a job, or the first by name of several. None if there are none.

    A picture that an earlier job predicted keeps its engine, so a job may have predictions of several.
    """
    by_engine = select(Prediction.engine).where(Prediction.job_id == job.id).group_by(Prediction.engine)
    return s.scalars(by_engine.order_by(func.count().desc(), Prediction.engine).limit(1)).first()


def _row(job: Job, rule: FindingRule, level: Level, places: list[Place], evidence: Evidence) -> dict[str, Any]:
    conclusion = conclude(rule, evidence)
    right = _right_share(rule, conclusion.verdict)
    first = places[0]
    return {
        "job_id": job.id,
        "level": level,
        "patient_id": first.patient_id,
        "study_id": None if level == Level.PATIENT else first.study_id,
        "series_id": first.series_id if level == Level.SERIES else None,
        "model_version_id": job.model_version_id,
        "rule": rule.rule,
        "rule_version": rule.version,
        "k": rule.k,
        "threshold": rule.threshold,
        "low": right[0],
        "high": right[1],
        **vars(conclusion),
        "used": len(evidence.probabilities),
        "ood": evidence.ood,
        "left_out": dict(sorted(evidence.left_out.items())),
    }


def _evidence(
    level: Level,
    places: list[Place],
    slices: Mapping[int, _Slices],
    unread: Mapping[tuple[Level, int], Counter[str]],
) -> Evidence:
    """Combine the slices of the series in `places`, and the files that were rejected before their series was known.

    `level`: whether the finding is on a patient, a study or a series. `unread`: those files, by the unit that they
    belong to. Files that belong to a study or series inside of the finding's unit count too.
    """
    parts = [slices[place.series_id] for place in places if place.series_id in slices]
    ood = [part.ood for part in parts if part.ood is not None]
    within = list(Level)[list(Level).index(level) :]
    units = {(inner, place.id_at(inner)) for place in places for inner in within}
    left_out: Counter[str] = Counter()
    for counted in (*(part.left_out for part in parts), *(unread[unit] for unit in units if unit in unread)):
        left_out.update(counted)
    return Evidence(
        probabilities=np.concatenate([part.probabilities for part in parts]) if parts else np.zeros(0),
        ood=sum(ood) if ood else None,
        left_out=left_out,
        conflict=_conflict(level, places),
        upload_failed=any(part.upload_failed for part in parts),
    )


def _conflict(level: Level, places: list[Place]) -> str | None:
    """Return the code of the conflict of a unit, or None.

    A patient is unclear if the files state several birth dates or sexes, and so is a study. A series keeps its verdict.
    """
    of_study = next((place.conflict for place in places if place.conflict is not None), None)
    keys: tuple[set[str | None], ...] = ({place.birth_key for place in places}, {place.sex_key for place in places})
    differ = any(Study.SEVERAL in stated or len(stated - {None}) > 1 for stated in keys)
    return of_study or (PATIENT_UNCLEAR if differ and level != Level.SERIES else None)


def _right_share(rule: FindingRule, verdict: str | None) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the share of such verdicts that were right when the rule was tuned.

    Both ends are None if there is no verdict, or the rule was not tuned.
    """
    name = {COVID: "precision", NON_COVID: "negative_precision"}.get(verdict or "")
    rate = rule.tuned.held_out.get(name) if rule.tuned and name else None
    return (rate.low, rate.high) if rate else (None, None)
