"""Makes, splits and deletes datasets by requests, for the API and the page."""

import re
from functools import partial

from flask import request
from werkzeug.datastructures import FileStorage

from db.database import read_scope, session_scope
from db.datasets.datasets import DatasetView, create_dataset, create_from_reviews, dataset_view, is_name
from db.datasets.deletion import NotDeletable
from db.datasets.slices import DatasetError, DatasetGone
from db.ledger.jobs import ReceivedFile
from db.models import Dataset, User
from db.training.dataset_deletion import delete_dataset
from db.training.splits import draw_split, keep_split, plan_split
from web.actions.keys import idempotency_key, once
from web.actions.lookup import row_of
from web.actions.uploads import (
    FIELD,
    check_multipart,
    check_names,
    check_parts,
    file_parts,
    inspect_parts,
    part_path,
    plain_part,
    publish,
)
from web.errors import Problem, not_found, sentence
from web.schemas.datasets import SplitIn
from web.security.auth import require_admin
from worker.datasets.label_table import MAX_BYTES, BadLabels, is_label_name, read_csv

LABELS_FIELD = "labels"
CHECKED_BYTES = 2 * 1024 * 1024
"""The largest CSV of labels that is read during the request. With short lines, this holds up other requests for 2 s."""
MAX_JOBS = 1000
GROUPS = ("headers", "folders")
"""Where to look first for the group of a DICOM slice if the CSV names no groups."""

_JOB_PAGE = re.compile(r"https?://[^/]+/jobs/([a-z2-7]{16})(?:[/?#].*)?")


def create(user: User) -> tuple[DatasetView, bool]:
    """Make a dataset from the files of this request, or from the jobs that it names. Return it, and whether it is new.

    Raises Problem 413, 415 and 422 (no files, a refused archive, labels that cannot be read, a bad value, a job without
    reviews), and OSError when the disk is full. In these cases nothing is kept.
    """
    check_multipart()
    idempotency_key()  # a malformed key is refused before the files are received
    check_parts("name", "groups", files=(FIELD, LABELS_FIELD), lists=("jobs",))
    name = request.form.get("name", "").strip()
    named = re.findall(r"[^\s,;]+", " ".join(request.form.getlist("jobs")))
    jobs = [_id_of(job) for job in named]
    if len(jobs) > MAX_JOBS:
        raise Problem(422, "invalid", f"{len(jobs):,} jobs are too many for a dataset. Name at most {MAX_JOBS:,}.")
    groups = request.form.get("groups", "headers")
    if groups not in GROUPS:
        raise Problem(422, "invalid", f"Groups come from {' or '.join(GROUPS)}.")
    parts = file_parts(FIELD)
    if bool(parts) == bool(jobs):
        raise Problem(422, "no-files", "A dataset is made of files or of reviewed jobs. Send one of the two.")
    try:
        dataset_id, new = _of_jobs(name, user, jobs, groups) if jobs else _of_files(name, user, groups)
    except DatasetError as error:
        raise Problem(422, "invalid", sentence(error)) from error
    with read_scope() as s:
        return dataset_view(s, s.get_one(Dataset, dataset_id)), new


def _id_of(job: str) -> str:
    """Return the id of a job. `job`: the id, or the address of the job's page."""
    page = _JOB_PAGE.fullmatch(job)
    return job if page is None else page[1]


def _of_jobs(name: str, user: User, jobs: list[str], groups: str) -> tuple[int, bool]:
    if any("\0" in job for job in jobs):
        raise DatasetError("a job's id has only letters and digits: check the ids")
    make = partial(create_from_reviews, name=name, user=user, job_ids=jobs, folders_first=groups == "folders")
    return once(user, "dataset", [name, jobs, groups], lambda s: make(s).id)


def _of_files(name: str, user: User, groups: str) -> tuple[int, bool]:
    parts, tables = file_parts(FIELD), file_parts(LABELS_FIELD)
    if len(tables) > 1:
        raise Problem(422, "invalid", "There is more than one CSV of labels. Send at most one.")
    files = inspect_parts(parts)
    check_names(files)
    labels = _labels(tables[0]) if tables else None
    if labels is None:
        for part in filter(lambda part: is_label_name(part.filename or ""), parts):
            _labels(part)
    if is_name(name):  # with a bad name, keep no files; create_dataset says what is wrong
        publish([*parts, *tables])
    first = groups == "folders"
    make = partial(create_dataset, name=name, user=user, files=files, labels=labels, folders_first=first)
    asked = [name, [[file.filename, file.sha256] for file in files], labels and labels.sha256, groups]
    return once(user, "dataset", asked, lambda s: make(s).id)


def _labels(part: FileStorage) -> ReceivedFile:
    """Return a CSV of labels. Raises Problem 413, and 422 if it cannot be read."""
    table = plain_part(part)
    if table.size > MAX_BYTES:
        raise Problem(413, "too-large", f"The CSV is too large. Send one of at most {MAX_BYTES >> 20} MiB.")
    if table.size <= CHECKED_BYTES:
        try:
            read_csv(part_path(part).read_bytes())
        except BadLabels as error:
            raise Problem(422, "invalid", sentence(error), file=table.filename) from error
    return table


def split(dataset_id: int, options: SplitIn) -> None:
    """Split a dataset, unless the same split exists already. Raises Problem 404, and 409: it cannot be split."""
    try:
        with read_scope() as s:
            dataset = row_of(s, Dataset, dataset_id)
            plan = plan_split(s, dataset, seed=options.seed, groups_as_given=options.groups_as_given)
        drawn = draw_split(plan)
        with session_scope() as s:
            keep_split(s, drawn)
    except DatasetError as error:
        raise Problem(409, "conflict", sentence(error)) from error


def delete(dataset_id: int) -> None:
    """Delete a dataset. Raises Problem 404, and 409 if it is being built, or if a run or an evaluation reads it."""
    try:
        with session_scope() as s:
            delete_dataset(s, row_of(s, Dataset, dataset_id), require_admin().name)
    except DatasetGone:  # somebody else deleted it at this moment
        raise not_found() from None
    except NotDeletable as error:
        raise Problem(409, "conflict", sentence(error), code=error.code) from error
