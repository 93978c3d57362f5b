"""Datasets: create them, claim and build them as a worker, find and show them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import groupby, islice
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import CLASSES, NAME, broker
from db.access.audit import Action, record
from db.broker import Queue
from db.clock import from_now
from db.database import lock_row
from db.datasets.slices import DatasetError, DatasetGone
from db.ledger import leases
from db.ledger.completion import JobGone, lock_job
from db.ledger.jobs import ReceivedFile
from db.ledger.leases import Claim
from db.models import Chunk, Dataset, Job, LabelledSlice, Review, Slice, Upload, User, Work
from db.models.documents import DatasetReport
from db.series.rows import LOOSE

ROWS_A_STATEMENT = 5_000
STATES = {Work.READY: "queued", Work.RUNNING: "building", Work.DONE: "ready"}


@dataclass(frozen=True)
class DatasetView:
    """A dataset for people and the API. `name`: its label, `name/number`. `progress`: from 0 to 1."""

    id: int
    name: str
    state: str
    progress: float
    size: int
    counts: dict[str, int]
    groups: int
    sha256: str | None
    report: DatasetReport
    error: str | None
    created_at: datetime
    created_by: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON, with times as RFC 3339."""
        return asdict(self) | {"report": self.report.as_json(), "created_at": self.created_at.isoformat()}


def is_name(name: str) -> bool:
    """Return whether a dataset may have this name."""
    return NAME.fullmatch(name) is not None and not name.isdigit()


def check_name(name: str) -> None:
    """Raise DatasetError unless a dataset may have this name."""
    if not is_name(name):
        raise DatasetError(
            "a dataset's name has 1 to 64 letters, digits, dots, hyphens and underscores, and not digits alone"
        )


def create_dataset(
    s: Session,
    *,
    name: str,
    user: User | None,
    files: list[ReceivedFile],
    given: Sequence[int | None] | None = None,
    labels: ReceivedFile | None = None,
    folders_first: bool = False,
) -> Dataset:
    """Create a dataset, which a worker will build from files in storage. `labels`: the CSV of labels.

    `given`: for each file, the number of the given folder that holds it, or None if the file itself was given.
    `folders_first`: folders name the groups of DICOM slices. Headers name a group only if no folder does.

    Raises DatasetError: the name is not allowed, or no file is given.
    """
    if not files:
        raise DatasetError("a dataset needs at least one archive or image")
    sources = [
        {"filename": file.filename, "sha256": file.sha256, "size": file.size, "given": number}
        for file, number in zip(files, given or [None] * len(files), strict=True)
    ]
    return _create(s, name, user, sources, labels.sha256 if labels else None, folders_first)


def create_from_reviews(
    s: Session, *, name: str, user: User | None, job_ids: Sequence[str], folders_first: bool = False
) -> Dataset:
    """Create a dataset, which a worker will build from the labelled slices of jobs.

    `folders_first`: as for `create_dataset`. Raises DatasetError: no job is named, or a job does not exist or has no
    labelled slice.
    """
    if not job_ids:
        raise DatasetError("name at least one job whose slices were reviewed")
    for job_id in sorted(set(job_ids)):
        try:
            lock_job(s, job_id)  # so that the job is not deleted before the dataset is built
        except JobGone:
            raise DatasetError(f"there is no job {job_id}") from None
        reviewed = select(Review.id).join(Slice, Slice.id == Review.slice_id).where(Slice.job_id == job_id)
        if s.scalar(reviewed.where(Review.label.is_not(None)).limit(1)) is None:
            raise DatasetError(f"no slice of the job {job_id} is labelled yet: label some on its page first")
    return _create(s, name, user, [{"job": job_id} for job_id in dict.fromkeys(job_ids)], None, folders_first)


def _create(
    s: Session,
    name: str,
    user: User | None,
    sources: list[dict[str, Any]],
    labels_sha256: str | None,
    folders_first: bool,
) -> Dataset:
    check_name(name)
    for attempt in range(5):
        number = (s.scalar(select(func.max(Dataset.number)).where(Dataset.name == name)) or 0) + 1
        dataset = Dataset(
            name=name,
            number=number,
            user_id=user.id if user else None,
            sources=sources,
            labels_sha256=labels_sha256,
            folders_first=folders_first,
        )
        try:
            with s.begin_nested():
                s.add(dataset)
                s.flush()
        except IntegrityError:  # somebody created a dataset with this name and number at the same moment
            if attempt == 4:
                raise
            continue
        break
    record(s, Action.DATASET_ADD, f"dataset {dataset.label}")
    broker.wake_after_commit(s, Queue.DATASETS)
    return dataset


def find_dataset(s: Session, label: str, *, even_deleted: bool = False) -> Dataset | None:
    """Return a dataset by `name/number`, by id, or by name (the newest of that name).

    Return None if no dataset matches. A deleted dataset matches only with `even_deleted`, and only if no other does.
    """
    is_deleted = Dataset.deleted_at.is_not(None)
    query = select(Dataset).order_by(is_deleted, Dataset.number.desc()).limit(1)
    if not even_deleted:
        query = query.where(~is_deleted)
    if re.fullmatch(r"[0-9]{1,9}", label):
        return s.scalar(query.where(Dataset.id == int(label)))
    name, slash, number = label.partition("/")
    query = query.where(Dataset.name == name)
    if slash:
        if not re.fullmatch(r"[0-9]{1,9}", number):
            return None
        query = query.where(Dataset.number == int(number))
    return s.scalar(query)


def list_datasets(s: Session) -> list[Dataset]:
    """Return all datasets that were not deleted, newest first."""
    return list(s.scalars(select(Dataset).where(Dataset.deleted_at.is_(None)).order_by(Dataset.id.desc())))


def lock_kept(s: Session, dataset_id: int) -> None:
    """Lock a dataset, so that it is not deleted until the transaction ends. Raises DatasetGone."""
    lock_row(s, Dataset, dataset_id)
    check_kept(s, dataset_id)


def check_kept(s: Session, dataset_id: int) -> None:
    """Raise DatasetGone if the dataset was deleted. Rows that were read before are complete if this does not raise."""
    if s.scalar(select(Dataset.deleted_at).where(Dataset.id == dataset_id)) is not None:
        raise DatasetGone(f"the dataset {s.get_one(Dataset, dataset_id).label} is deleted: choose another one")


def dataset_view(s: Session, dataset: Dataset) -> DatasetView:
    """Return the view of a dataset for people and the API."""
    report = dataset.report
    return DatasetView(
        id=dataset.id,
        name=dataset.label,
        state=STATES.get(Work(dataset.state), dataset.state),
        progress=dataset.progress,
        size=dataset.size,
        counts=dict.fromkeys((*CLASSES.values(), "rejected"), 0) | report.counts,
        groups=report.groups.count,
        sha256=dataset.sha256,
        report=report,
        error=dataset.error,
        created_at=dataset.created_at,
        created_by=dataset.user.name if dataset.user else None,
    )


def claim_dataset(s: Session, worker: str) -> tuple[Dataset, Claim] | None:
    """Claim the oldest dataset that is due, or return None."""
    query = select(Dataset).where(leases.due(Dataset)).order_by(Dataset.id).limit(1)
    dataset = s.scalar(leases.locked(query, s, of=Dataset))
    if dataset is None or (claim := leases.take(s, Dataset, dataset.id, worker)) is None:
        return None
    s.refresh(dataset)
    return dataset, claim


def report_progress(s: Session, claim: Claim, progress: float) -> None:
    """Record the progress of a build, and renew its lease. Raises StaleClaim."""
    if not leases.keep(s, Dataset, claim):
        raise leases.StaleClaim(f"dataset {claim.id}")
    s.execute(update(Dataset).where(Dataset.id == claim.id).values(progress=progress, error=None))


def finish_dataset(
    s: Session,
    claim: Claim,
    slices: Iterable[dict[str, Any]],
    *,
    size: int,
    sha256: str,
    arrays: list[str],
    report: dict[str, Any],
) -> None:
    """Record a built dataset and its slices in one transaction. `slices`: the columns of LabelledSlice.

    Slices of an earlier attempt are replaced. Raises StaleClaim.
    """
    built = {"size": size, "sha256": sha256, "arrays": arrays, "report": report, "progress": 1.0, "error": None}
    leases.close(s, Dataset, claim, Work.DONE, closed_at=from_now(), **built)
    s.execute(delete(LabelledSlice).where(LabelledSlice.dataset_id == claim.id))
    rest = iter(slices)
    while batch := [{**row, "dataset_id": claim.id} for row in islice(rest, ROWS_A_STATEMENT)]:
        s.execute(insert(LabelledSlice), batch)


def fail_dataset(s: Session, claim: Claim, error: str, report: dict[str, Any] | None = None) -> None:
    """Record why the dataset cannot be built, and the report so far. Raises StaleClaim."""
    leases.close(s, Dataset, claim, Work.FAILED, error=error, report=report or {}, closed_at=from_now())


def twin_of(s: Session, dataset: Dataset, sha256: str) -> str | None:
    """Return the label of the newest other dataset of this name with the same slices, labels and groups, or None."""
    query = select(Dataset).where(Dataset.name == dataset.name, Dataset.id != dataset.id, Dataset.sha256 == sha256)
    twin = s.scalar(query.where(Dataset.deleted_at.is_(None)).order_by(Dataset.number.desc()).limit(1))
    return twin.label if twin else None


@dataclass(frozen=True)
class ReviewedSlice:
    """A slice of a job, and the label that counts: the newest by an admin, or the owner's if no admin gave one.

    `blind`: the label that counts is blind. `is_shared`: several of the admins and the owner gave a label.
    `is_contested`: one of them gave the other label.
    """

    slice: Slice
    owner_id: int
    label: int
    array_sha256: str
    blind: bool
    is_shared: bool
    is_contested: bool


def reviewed_slices(s: Session, job_ids: Sequence[str]) -> Iterator[ReviewedSlice]:
    """Yield the prepared slices that an admin or the job's owner has labelled, in the order of their ids."""
    query = (
        select(Slice, Job.owner_id, Review.label, Chunk.array_sha256, Review.blind)
        .join(Review, Review.slice_id == Slice.id)
        .join(User, User.id == Review.user_id)
        .join(Job, Job.id == Slice.job_id)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .where(Slice.job_id.in_(job_ids), Slice.array_row.is_not(None), Review.label.is_not(None))
        .where(User.is_admin.is_(True) | (User.id == Job.owner_id))
        .order_by(Slice.id, User.is_admin.desc(), Review.created_at.desc(), Review.id.desc())
    )
    for _, rows in groupby(s.execute(query), lambda row: row.Slice.id):
        (slice_, owner_id, label, array_sha256, blind), *others = rows
        is_contested = any(other.label != label for other in others)
        yield ReviewedSlice(slice_, owner_id, label or 0, array_sha256, blind, bool(others), is_contested)


def prepared_files(s: Session, job_ids: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Return a key of the archive and the name of each prepared slice of the jobs, by the slice's id.

    The loose files of a job have one key.
    """
    query = select(Slice.id, Slice.job_id, Slice.upload_id, Upload.kind, Slice.name)
    query = query.join(Upload, Upload.id == Slice.upload_id).where(Slice.job_id.in_(job_ids))
    rows = s.execute(query.where(Slice.array_row.is_not(None)).order_by(Slice.id))
    return {
        id_: (job_id if kind == LOOSE else f"{job_id} {upload_id}", name) for id_, job_id, upload_id, kind, name in rows
    }


def files_with_pages(s: Session, job_ids: Sequence[str]) -> set[str]:
    """Return the SHA-256 of the files of these jobs that have several pages, whether these are labelled or not."""
    query = select(Slice.sha256).where(Slice.job_id.in_(job_ids), Slice.frame > 0).distinct()
    return {sha256 for sha256 in s.scalars(query) if sha256}
