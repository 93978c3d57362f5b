"""Writes the findings of a job when it ends, and removes them when it is opened again."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from db import COVID, NON_COVID
from db.findings.rules import (
    COPY,
    LEAST_LUNG,
    LITTLE_LUNG,
    ODD_HU,
    PATIENT_UNCLEAR,
    Conclusion,
    Evidence,
    conclude,
    rule_of,
)
from db.findings.unread import Files, Place, files_of, find_unread
from db.models import Finding, Job, Level, Outcome, Patient, Prediction, Series, Slice, Study
from db.models.documents import FindingRule
from db.series.batches import series_batches
from db.series.geometry import SEVERAL_SCANS


@dataclass
class _Slices:
    """What a series contributes to findings: the probabilities of slices with enough lung, and counts."""

    probabilities: list[float] = field(default_factory=list)
    ood: int | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    odd_hu: int = 0
    upload_failed: bool = False
    files: set[Files] = field(default_factory=set)


def read_findings(s: Session, job: Job) -> list[dict[str, Any]]:
    """Return the rows of the findings of a job that has no open work and is settled.

    The findings do not depend on the order of arrival of slices.
    """
    places = _places(s, job)
    if not places:
        return []
    slices = _slices_by_series(s, job)
    unread = find_unread(s, job, places, {series_id: one.files for series_id, one in slices.items()})
    for series_id in unread.cut_off:
        slices[series_id].upload_failed = True
    rule = rule_of(job.model_version, _engine_of(s, job))
    units = list(_units(places))
    concluded: dict[tuple[Level, int], Conclusion] = {}
    for level, own in reversed(units):  # series before their study, and studies before their patient
        concluded[level, own[0].id_at(level)] = _concluded(rule, level, own, slices, unread.counts, concluded)
    rows = [
        _row(job, rule, level, own, _evidence(level, own, slices, unread.counts), concluded[level, own[0].id_at(level)])
        for level, own in units
    ]
    return [row | {"ordinal": ordinal} for ordinal, row in enumerate(rows)]


def write_findings(s: Session, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows that `read_findings` has returned. The caller has locked the job."""
    remove_findings(s, job)
    if rows:  # Without render_nulls, SQLAlchemy sends a statement for each pattern of NULLs.
        s.execute(insert(Finding), rows, execution_options={"render_nulls": True})


def remove_findings(s: Session, job: Job) -> None:
    """Remove the findings of a job that is opened again, because its slices may change."""
    s.execute(delete(Finding).where(Finding.job_id == job.id))


def _places(s: Session, job: Job) -> list[Place]:
    query = (
        select(Patient.is_known, Series.notes, Study.patient_id, Study.id, Series.id)
        .add_columns(Study.conflict, Study.birth_key, Study.sex_key)
        .join(Study, Study.id == Series.study_id)
        .join(Patient, Patient.id == Study.patient_id)
        .where(Series.job_id == job.id)
        .order_by(Patient.ordinal, Study.id, Series.id)
    )
    return [Place._make((*row, SEVERAL_SCANS in notes and not is_known)) for is_known, notes, *row in s.execute(query)]


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
    different = (_without_copies(_read_slices(s, job, ids), slices) for ids in series_batches(s, job.id))
    for row in chain.from_iterable(different):
        one = slices[row.series_id]
        one.odd_hu += row.probability is not None and ODD_HU in row.notes
        if row.probability is None:
            one.left_out[row.reason or row.state] += 1
        elif row.lung_fraction is not None and row.lung_fraction < LEAST_LUNG:
            one.left_out[LITTLE_LUNG] += 1
        else:
            one.probabilities.append(row.probability)
            one.ood = one.ood if row.ood is None else (one.ood or 0) + row.ood
    return slices


class _Row(NamedTuple):
    """The columns of a slice of a series that findings need. `probability` is None if the slice is not predicted."""

    series_id: int
    slice_id: int
    sha256: str | None
    frame: int
    probability: float | None
    ood: bool | None
    lung_fraction: float | None
    notes: list[str]
    state: str
    reason: str | None
    upload_id: int
    name: str


def _read_slices(s: Session, job: Job, series_ids: Sequence[int]) -> Iterator[_Row]:
    columns: Any = (Slice.series_id, Slice.id, Slice.sha256, Slice.frame, Prediction.probability, Prediction.ood)
    columns += (Slice.lung_fraction, Slice.notes, Slice.state, Slice.reason, Slice.upload_id, Slice.name)
    by_its_version = (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
    query = select(*columns).outerjoin(Prediction, by_its_version & (Slice.state == Outcome.PREDICTED))
    rows = s.execute(query.where(Slice.series_id.in_(series_ids)))
    return (_Row(*row) for row in rows)


def _without_copies(rows: Iterable[_Row], slices: defaultdict[Any, _Slices]) -> Iterable[_Row]:
    """Return each slice of a series once. Note the copies and the files of predicted slices in `slices`.

    Copies have the same bytes and the same frame. If the copies differ in their outcome, prefer one that was predicted.
    """
    chosen: dict[tuple[int, str | int, int], _Row] = {}
    for row in rows:
        if row.state == Outcome.PREDICTED:
            slices[row.series_id].files.add(files_of(row.upload_id, row.name))
        key = (row.series_id, row.sha256 or row.slice_id, row.frame)
        if (other := chosen.setdefault(key, row)) is not row:
            slices[row.series_id].left_out[COPY] += 1
            chosen[key] = max(other, row, key=_preferred)
    return chosen.values()


def _preferred(row: _Row) -> tuple[bool, float, str]:
    """Return a sort key of copies. It does not depend on which copy arrived first."""
    return row.probability is not None, row.probability or 0.0, row.reason or row.state


def _engine_of(s: Session, job: Job) -> str | None:
    """Return the engine that made most predictions of a job, or None without predictions. Break ties by name.

    A prediction that was copied from an earlier job keeps its engine, so a job may have predictions of several engines.
    """
    by_engine = select(Prediction.engine).where(Prediction.job_id == job.id).group_by(Prediction.engine)
    return s.scalars(by_engine.order_by(func.count().desc(), Prediction.engine).limit(1)).first()


def _concluded(
    rule: FindingRule,
    level: Level,
    places: list[Place],
    slices: Mapping[int, _Slices],
    unread: Mapping[tuple[Level, int], Counter[str]],
    concluded: Mapping[tuple[Level, int], Conclusion],
) -> Conclusion:
    """Return the conclusion on the unit of these series. `concluded`: the conclusions on the units inside this unit."""
    inner = _within(level)[1:]
    deciding = [p for p in places if all(concluded[one, p.id_at(one)].verdict is not None for one in inner)]
    evidence = replace(_evidence(level, deciding, slices, unread), conflict=_conflict(level, places))
    parts = {(one, place.id_at(one)) for one in inner[:1] for place in places}
    return conclude(rule, evidence, [concluded[part] for part in parts])


def _row(
    job: Job, rule: FindingRule, level: Level, places: list[Place], evidence: Evidence, conclusion: Conclusion
) -> dict[str, Any]:
    """Return the row of a finding. `evidence`: all slices of the series in `places`."""
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
    """Combine the slices of the series in `places`, and the files that were lost before their series was known.

    `level`: whether the finding is on a patient, a study or a series. `unread`: the lost files, by the unit that they
    belong to. Files of a study or series inside the finding's unit count too.
    """
    parts = [slices[place.series_id] for place in places if place.series_id in slices]
    ood = [part.ood for part in parts if part.ood is not None]
    units = {(inner, place.id_at(inner)) for place in places for inner in _within(level)}
    left_out: Counter[str] = Counter()
    for counted in (*(part.left_out for part in parts), *(unread[unit] for unit in units if unit in unread)):
        left_out.update(counted)
    return Evidence(
        probabilities=np.array([chance for part in parts for chance in part.probabilities], np.float64),
        ood=sum(ood) if ood else None,
        left_out=left_out,
        odd_hu=sum(part.odd_hu for part in parts),
        upload_failed=any(part.upload_failed for part in parts),
    )


def _within(level: Level) -> list[Level]:
    """Return a level and the levels inside it: a patient has studies, and a study has series."""
    return list(Level)[list(Level).index(level) :]


def _conflict(level: Level, places: list[Place]) -> str | None:
    """Return the code of the conflict of a unit, or None.

    A patient or a study is unclear if its files state several birth dates or sexes. A series keeps its verdict, unless
    it seems to hold scans of several people itself.
    """
    of_study = next((place.conflict for place in places if place.conflict is not None), None)
    keys: tuple[set[str | None], ...] = ({place.birth_key for place in places}, {place.sex_key for place in places})
    differ = any(Study.SEVERAL in stated or len(stated - {None}) > 1 for stated in keys)
    is_unclear = (differ and level != Level.SERIES) or any(place.is_mixed for place in places)
    return of_study or (PATIENT_UNCLEAR if is_unclear else None)


def _right_share(rule: FindingRule, verdict: str | None) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the share of verdicts with this label that were right when the rule was tuned.

    Both ends are None if there is no verdict, or the rule was not tuned.
    """
    name = {COVID: "precision", NON_COVID: "negative_precision"}.get(verdict or "")
    rate = rule.tuned.held_out.get(name) if rule.tuned and name else None
    return (rate.low, rate.high) if rate else (None, None)
