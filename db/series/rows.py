"""Finds or makes the rows of the series, studies and patients of slices.

The caller has locked the job. The result does not depend on the order of slices. If all files of a study state the same
patient, the study belongs to this patient. If they state none or several, the study gets a separate, unknown patient.
Within a study, a patient ID without an issuer agrees with the same ID of any issuer.
"""

import hmac
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.bulk import insert_rows
from db.models import Installation, Patient, Series, Study

LOOSE = "file"
"""The kind of an upload that is not an archive."""
PATIENT_CONFLICT = "patient_conflict"
STUDY = "study "
"""Prefix of the key of a patient whom no file states: the UID of the study follows."""
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
    """Return the id of the series of each owner. Make missing rows. Mark studies that belong to several patients.

    The number of statements does not grow with the number of owners.
    """
    patients = _Patients(s, job_id)
    study_uids = {owner: owner.study_uid or _own_study(owner, patients) for owner in owners}
    studies = _studies(s, job_id, study_uids, patients)
    keys = {owner: (studies[uid], owner.series_uid) for owner, uid in study_uids.items()}
    series = _series(s, keys.values())
    first: dict[tuple[int, str], Owner] = {}
    for owner, key in keys.items():
        first.setdefault(key, owner)
    new = [
        {"study_id": key[0], "uid": key[1], "label": owner.series_label}
        for key, owner in first.items()
        if key not in series
    ]
    if new:
        insert_rows(s, Series, new, job_id=job_id)
        series = _series(s, keys.values())
    return {owner: series[key] for owner, key in keys.items()}


def _series(s: Session, keys: Collection[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the ids of the series with these studies and UIDs, as far as they exist."""
    of_studies = Series.study_id.in_({study_id for study_id, _ in keys})
    query = select(Series.study_id, Series.uid, Series.id).where(of_studies, Series.uid.in_({uid for _, uid in keys}))
    return {(study_id, uid): id_ for study_id, uid, id_ in s.execute(query)}


def _own_study(owner: Owner, patients: "_Patients") -> str:
    patient = f" {patients.key_of(owner)}" if owner.patient else ""
    return f"{NO_STUDY}{owner.series_uid}{patient}"


def _studies(s: Session, job_id: str, study_uids: Mapping[Owner, str], patients: "_Patients") -> dict[str, int]:
    """Return the ids of the studies by UID. Make missing studies, and update existing studies."""
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
    keys: dict[str, str] = {}
    conflicts: dict[str, str | None] = {}
    for uid, of_study in stated.items():
        if uid in patient_of and patient_of[uid].is_known:
            of_study.add(patient_of[uid].key)
        fullest = max(of_study, key=len, default="")
        differ = not all(fullest.startswith(key) for key in of_study)  # a key with an issuer begins with the ID's key
        in_conflict = differ or (uid in studies and studies[uid].conflict is not None)
        conflicts[uid] = PATIENT_CONFLICT if in_conflict else None
        keys[uid] = fullest if fullest and not in_conflict else f"{STUDY}{uid}"
    with_key = patients.with_keys(keys.values())
    new: list[dict[str, Any]] = []
    for uid, key in keys.items():
        study = studies.get(uid)
        values = {
            "patient_id": with_key[key],
            "conflict": conflicts[uid],
            "birth_key": _only({study.birth_key if study else None, *births[uid]}),
            "sex_key": _only({study.sex_key if study else None, *sexes[uid]}),
        }
        if study is None:
            new.append({"uid": uid} | values)
        else:
            for name, value in values.items():
                setattr(study, name, value)
    s.flush()
    insert_rows(s, Study, new, job_id=job_id)
    ids = s.execute(select(Study.uid, Study.id).where(Study.job_id == job_id, Study.uid.in_(stated)))
    return dict(ids.all())


def _only(keys: set[str | None]) -> str | None:
    """Return the only key that is stated, None if none is, or SEVERAL."""
    stated = keys - {None, ""}
    return Study.SEVERAL if len(stated) > 1 else next(iter(stated), None)


class _Patients:
    """Finds the patients of a job by key, and makes missing patients."""

    def __init__(self, s: Session, job_id: str) -> None:
        self._session, self._job_id = s, job_id
        self._secret = s.scalars(select(Installation.patient_key)).one().encode()

    def key_of(self, owner: Owner) -> str:
        """Return the key of the patient that an owner states. The key is different in each job."""
        return " ".join(filter(None, (self.hash_of(owner.patient), self.hash_of(owner.issuer))))

    def hash_of(self, digest: str) -> str:
        """Return the keyed hash of a digest, or "" if the digest is empty. The hash is different in each job."""
        return hmac.digest(self._secret, f"{self._job_id} {digest}".encode(), "sha256").hex() if digest else ""

    def with_keys(self, keys: Collection[str]) -> dict[str, int]:
        """Return the ids of the patients with these keys."""
        patients = self._ids(keys)
        if missing := [key for key in dict.fromkeys(keys) if key not in patients]:
            last = self._session.scalar(select(func.max(Patient.ordinal)).where(Patient.job_id == self._job_id)) or 0
            new = [
                {"key": key, "ordinal": ordinal, "is_known": not key.startswith(STUDY)}
                for ordinal, key in enumerate(missing, last + 1)
            ]
            insert_rows(self._session, Patient, new, job_id=self._job_id)
            patients |= self._ids(missing)
        return patients

    def _ids(self, keys: Collection[str]) -> dict[str, int]:
        query = select(Patient.key, Patient.id).where(Patient.job_id == self._job_id, Patient.key.in_(keys))
        return dict(self._session.execute(query).all())
