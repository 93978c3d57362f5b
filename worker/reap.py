"""Removes stored files that no row names, a day after they were stored."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import current, read_scope
from db.models import Chunk, Dataset, Evaluation, LabelledSlice, ModelVersion, Slice, TrainingRun, Upload
from db.storage import storage

NAMES_A_QUERY = 500
_SHA256: tuple[Any, ...] = (
    Upload.sha256,
    Slice.sha256,
    Chunk.array_sha256,
    Dataset.labels_sha256,
    LabelledSlice.sha256,
    Evaluation.scores_sha256,
)  # the columns that name a file


def reap() -> int:
    """Delete files that are old and that no row names; how many."""
    age = current().orphan_seconds
    reaped = storage().reap_incoming(age)
    batch: list[str] = []
    for name in storage().names(age):
        batch.append(name)
        if len(batch) == NAMES_A_QUERY:
            reaped += _reap(batch)
            batch = []
    return reaped + _reap(batch)


def _reap(names: list[str]) -> int:
    with read_scope() as s:
        named = _named_in_lists(s)
        for column in _SHA256:
            named.update(sha256 for sha256 in s.scalars(select(column).where(column.in_(names))) if sha256)
    orphans = [name for name in names if name not in named]
    for name in orphans:
        storage().delete(name)
    return len(orphans)


def _named_in_lists(s: Session) -> set[str]:
    """The files that packages, datasets and checkpoints list: few rows, each with several."""
    named = {sha256 for files in s.scalars(select(ModelVersion.files)) for sha256 in files.values()}
    for sources, arrays in s.execute(select(Dataset.sources, Dataset.arrays)):
        named.update(arrays, (source["sha256"] for source in sources if "sha256" in source))
    for checkpoint, config in s.execute(select(TrainingRun.checkpoint, TrainingRun.config)):
        named.update(checkpoint.get("files", {}).values())
        named.add(str(config.get("initial", "")).removeprefix("file:"))
    return named
