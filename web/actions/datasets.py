"""Making datasets from requests, for the API and the page."""

import re

from flask import request

from db.database import read_scope, session_scope
from db.datasets.datasets import DatasetView, create_dataset, create_from_reviews, dataset_view, is_name
from db.datasets.slices import DatasetError
from db.ledger.jobs import ReceivedFile
from db.models import Dataset, User
from web.actions.uploads import FIELD, check_multipart, file_parts, inspect_parts, plain_part, publish
from web.errors import Problem, sentence

LABELS_FIELD = "labels"
MAX_LABEL_BYTES = 64 * 1024 * 1024
MAX_JOBS = 1000


def create(user: User) -> DatasetView:
    """Receive this request's files, or the jobs it names, and ask for a dataset of them.

    Raises Problem 413, 415 and 422 (no files, a refused archive, a bad name, a job without reviews), and OSError when
    the disk is full. Then nothing is kept.
    """
    check_multipart()
    name = request.form.get("name", "").strip()
    jobs = re.findall(r"[^\s,;]+", " ".join(request.form.getlist("jobs")))
    if len(jobs) > MAX_JOBS:
        raise Problem(422, "invalid", f"{len(jobs):,} jobs are too many for a dataset. Name at most {MAX_JOBS:,}.")
    parts = file_parts(FIELD)
    if bool(parts) == bool(jobs):
        raise Problem(422, "no-files", "A dataset is made of files or of reviewed jobs. Send one of the two.")
    try:
        dataset = _of_jobs(name, user, jobs) if jobs else _of_files(name, user)
    except DatasetError as error:
        raise Problem(422, "invalid", sentence(error)) from error
    with read_scope() as s:
        return dataset_view(s, s.get_one(Dataset, dataset.id))


def _of_jobs(name: str, user: User, jobs: list[str]) -> Dataset:
    if any("\0" in job for job in jobs):
        raise DatasetError("a job's id has only letters and digits: check the ids")
    with session_scope() as s:
        return create_from_reviews(s, name=name, user=user, job_ids=jobs)


def _of_files(name: str, user: User) -> Dataset:
    parts, tables = file_parts(FIELD), file_parts(LABELS_FIELD)
    if len(tables) > 1:
        raise Problem(422, "invalid", "There is more than one CSV of labels. Send one at most.")
    files = inspect_parts(parts)
    labels = _labels(plain_part(tables[0])) if tables else None
    if is_name(name):  # otherwise nothing is kept, and create_dataset says why
        publish([*parts, *tables])
    with session_scope() as s:
        return create_dataset(s, name=name, user=user, files=files, labels=labels)


def _labels(table: ReceivedFile) -> ReceivedFile:
    if table.size > MAX_LABEL_BYTES:
        raise Problem(413, "too-large", f"The CSV is too large. Send one of at most {MAX_LABEL_BYTES >> 20} MiB.")
    return table
