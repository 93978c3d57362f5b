"""Finds or makes the rows of the series, studies and patients of slices.

The caller has locked the job. The result does not depend on the order of slices. If all files of a study state the same
patient, the study belongs to this patient. If they state none or several, the study gets a separate, unknown patient.
Within a study, a patient ID without an issuer agrees with the same ID of any issuer.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Installation, Patient, Series, Study

LOOSE = "file"
"""The kind of an upload that is not an archive."""
PATIENT_CONFLICT = "patient_conflict"
FOLDER, NO_STUDY = "folder:", "study of "
"""Prefixes of `uid`: of a series that is a folder, and of a study whose files state no StudyInstanceUID."""


def stated_uid(uid: str | None) -> str | None:
    """Return the `uid` of a study or series if the files state it, or None."""
    return None if uid is None or uid.startswith((FOLDER, NO_STUDY)) else uid


class Owner(NamedTuple):
    """The patient, the study and the series of a slice, as its file states them.

    `patient`: a digest of the patient's ID, or "" if no ID is stated. `issuer`: a digest of the ID and its issuer, or
    "" if no issuer is stated. `birth_date`, `sex`: digests of the ID with each of these, or "". `study_uid`: None if it
    is not stated. The slices of a patient in a series are then a separate study.
    """

    patient: str
    issuer: str
    birth_date: str
    sex: str
    study_uid: str | None
    series_uid: str
    series_label: str


def series_of(s: Session, job_id: str, owners: Iterable[Owner]) -> dict[Owner, int]:
    """Return the id of the series of each owner. Make missing rows. Mark studies that belong to several patients."""
    patients = _Patients(s, job_id)
    study_uids = {owner: owner.study_uid or _own_study(owner, patients) for owner in owners}
    studies = _studies(s, job_id, study_uids, patients)
    query = select(Series.study_id, Series.uid, Series).where(Series.study_id.in_([row.id for row in studies.values()]))
    query = query.where(Series.uid.in_({owner.series_uid for owner in study_uids}))
    series = {(study_id, uid): row for study_id, uid, row in s.execute(query)}
    keys = {owner: (studies[uid].id, owner.series_uid) for owner, uid in study_uids.items()}
    for owner, key in keys.items():
        if key not in series:
            series[key] = Series(job_id=job_id, study_id=key[0], uid=key[1], label=owner.series_label)
            s.add(series[key])
    s.flush()
    return {owner: series[key].id for owner, key in keys.items()}


def _own_study(owner: Owner, patients: "_Patients") -> str:
    patient = f" {patients.key_of(owner)}" if owner.patient else ""
    return f"{NO_STUDY}{owner.series_uid}{patient}"


def _studies(s: Session, job_id: str, study_uids: Mapping[Owner, str], patients: "_Patients") -> dict[str, Study]:
    stated: dict[str, set[str]] = {uid: set() for uid in study_uids.values()}
    births: dict[str, set[str]] = {uid: set() for uid in stated}
    sexes: dict[str, set[str]] = {uid: set() for uid in stated}
    for owner, uid in study_uids.items():
        if owner.patient:
            stated[uid].add(patients.key_of(owner))
        births[uid].add(patients.hash_of(owner.birth_date))
        sexes[uid].add(patients.hash_of(owner.sex))
    query = select(Study, Patient).join(Patient, Patient.id == Study.patient_id)
    rows = s.execute(query.where(Study.job_id == job_id, Study.uid.in_(stated))).all()
    studies = {study.uid: study for study, _ in rows}
    patient_of = {study.uid: patient for study, patient in rows}
    for uid, keys in stated.items():
        if uid in patient_of and patient_of[uid].is_known:
            keys.add(patient_of[uid].key)
        study, fullest = studies.get(uid), max(keys, key=len, default="")
        differ = not all(fullest.startswith(key) for key in keys)  # a key without an issuer begins those with one
        in_conflict = differ or (study is not None and study.conflict is not None)
        is_known = bool(keys) and not in_conflict
        patient = patients.get(fullest if is_known else f"study {uid}", is_known=is_known)
        if study is None:
            study = studies[uid] = Study(job_id=job_id, uid=uid)
            s.add(study)
        study.patient_id, study.conflict = patient.id, PATIENT_CONFLICT if in_conflict else None
        study.birth_key = _only({study.birth_key, *births[uid]})
        study.sex_key = _only({study.sex_key, *sexes[uid]})
    s.flush()
    return studies


def _only(keys: set[str | None]) -> str | None:
    """Return the only key that is stated, None if none is, or SEVERAL."""
    stated = keys - {None, ""}
    return Study.SEVERAL if len(stated) > 1 else next(iter(stated), None)


class _Patients:
    """Finds the patients of a job by key, and makes missing ones."""

    def __init__(self, s: Session, job_id: str) -> None:
        self._session, self._job_id = s, job_id
        self._secret = s.scalars(select(Installation.patient_key)).one().encode()

    def key_of(self, owner: Owner) -> str:
        """Return the key of the patient that an owner states. The key is different in each job."""
        return " ".join(filter(None, (self.hash_of(owner.patient), self.hash_of(owner.issuer))))

    def hash_of(self, digest: str) -> str:
        """Return the keyed hash of a digest, or "" if the digest is empty. The hash is different in each job."""
        return hmac.digest(self._secret, f"{self._job_id} {digest}".encode(), "sha256").hex() if digest else ""

    def get(self, key: str, *, is_known: bool) -> Patient:
        s, of_job = self._session, Patient.job_id == self._job_id
        patient = s.scalar(select(Patient).where(of_job, Patient.key == key))
        if patient is None:
            last = s.scalar(select(func.max(Patient.ordinal)).where(of_job)) or 0
            patient = Patient(job_id=self._job_id, key=key, ordinal=last + 1, is_known=is_known)
            s.add(patient)
            s.flush()
        return patient
