"""Deletes datasets. A request marks the dataset, the sweeper erases its slices and names, and the reaper its files.

The row of the dataset stays, because runs, evaluations and model versions refer to it. This module is above the
lineage, because a dataset cannot be deleted while an open run or a running evaluation reads its slices.
"""

import logging
from collections.abc import Sequence

from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.bulk import one_of
from db.clock import from_now
from db.database import after_commit, lock_table
from db.datasets.datasets import lock_kept
from db.datasets.deletion import ROWS, NotDeletable, release, release_column
from db.ledger import leases
from db.models import (
    OPEN_WORK,
    Dataset,
    Evaluation,
    LabelledSlice,
    ModelVersion,
    RequestKey,
    Split,
    TrainingRun,
    Work,
)
from db.models.documents import DatasetReport, Duplicates, LeftOut
from db.registry.manifest import OF_SLICES
from db.training.lineage import deleted_slices, trained_on

log = logging.getLogger(__name__)


def delete_dataset(s: Session, dataset: Dataset, who: str) -> None:
    """Mark a dataset as deleted by this person. From then on, nothing may use it, and its slices are erased.

    Model versions that were trained on it lose their pictures of slices at once, unless another dataset has the same
    slices. Evaluations on it that have not begun fail. An Idempotency-Key that made the dataset may be used again.

    Raises NotDeletable, DatasetGone.
    """
    lock_table(s, ModelVersion)  # for no import of such pictures, or deletion of the same slices, at the same time
    lock_kept(s, dataset.id)
    dataset = s.get_one(Dataset, dataset.id, populate_existing=True)
    if dataset.state in OPEN_WORK:
        raise NotDeletable(
            "dataset_building", f"{dataset.label} is being built: delete it when it is built, or when it has failed"
        )
    _check_runs(s, dataset)
    _end_waiting_evaluations(s, dataset)
    _check_evaluations(s, dataset)  # afterwards, because a worker may have claimed one until now
    s.execute(update(Dataset).where(Dataset.id == dataset.id).values(deleted_at=from_now()))
    s.execute(delete(RequestKey).where(RequestKey.kind == "dataset", RequestKey.made_id == dataset.id))
    for version in _versions_to_strip(s, dataset.sha256):
        release(s, [sha256 for name, sha256 in version.files.items() if name in OF_SLICES])
        version.files = {name: sha256 for name, sha256 in version.files.items() if name not in OF_SLICES}
    record(s, Action.DATASET_DELETE, f"dataset {dataset.label}")
    facts = {"dataset": dataset.id, "user": who}
    after_commit(s, lambda: log.info("dataset deleted", extra=facts))


def _check_runs(s: Session, dataset: Dataset) -> None:
    for run in s.scalars(select(TrainingRun).where(TrainingRun.state.in_(OPEN_WORK))):
        if run.dataset_id == dataset.id or (run.from_version and _is_source(s, dataset, run.from_version)):
            what_to_do = "cancel the run, or wait until it has ended"
            raise NotDeletable("run_open", f"the training run {run.id} reads {dataset.label}: {what_to_do}")


def _end_waiting_evaluations(s: Session, dataset: Dataset) -> None:
    why = f"the dataset {dataset.label} was deleted before the evaluation began"
    waiting = update(Evaluation).where(Evaluation.dataset_id == dataset.id, Evaluation.state == Work.READY)
    s.execute(waiting.values(state=Work.FAILED, error=why, lease_until=None, finished_at=from_now()))


def _check_evaluations(s: Session, dataset: Dataset) -> None:
    for evaluation in s.scalars(select(Evaluation).where(Evaluation.state == Work.RUNNING)):
        version = evaluation.model_version
        if evaluation.dataset_id == dataset.id or _is_source(s, dataset, version):
            raise NotDeletable(
                "evaluation_open",
                f"an evaluation of {version.label} on {evaluation.dataset.label} reads {dataset.label}: wait until the"
                " evaluation has ended",
            )


def _is_source(s: Session, dataset: Dataset, version: ModelVersion) -> bool:
    """Return whether work with the version compares slices with those of the dataset, because it was trained on it."""
    return any(other.id == dataset.id for other in trained_on(s, version))


def _versions_to_strip(s: Session, dataset_hash: str | None) -> Sequence[ModelVersion]:
    """Return the versions that were trained on slices that no dataset has any more, also those that were imported."""
    if deleted_slices(s, dataset_hash) is None:
        return []
    return s.scalars(select(ModelVersion).where(ModelVersion.dataset_hash == dataset_hash)).all()


def _unerased() -> Select[Dataset]:
    return select(Dataset).where(Dataset.deleted_at.is_not(None), Dataset.erased_at.is_(None))


def is_any_left(s: Session) -> bool:
    """Return whether a deleted dataset is not erased yet."""
    return s.scalar(_unerased().with_only_columns(Dataset.id).limit(1)) is not None


def remove_some(s: Session) -> bool:
    """Remove up to ROWS slices of a deleted dataset. If none is left, erase the names elsewhere, and end the deletion.

    The files are released. A dataset that another sweeper is erasing is skipped. Return False if there was nothing to
    do.
    """
    oldest = _unerased().order_by(Dataset.deleted_at).limit(1)
    dataset = s.scalar(leases.locked(oldest, s, of=Dataset))
    if dataset is None:
        return False
    ids = s.scalars(select(LabelledSlice.id).where(LabelledSlice.dataset_id == dataset.id).limit(ROWS)).all()
    if ids:
        rows = one_of(s, LabelledSlice.id, ids)
        release_column(s, LabelledSlice.sha256, rows)
        s.execute(delete(LabelledSlice).where(rows))
        return True
    _erase_splits(s, dataset)
    of_dataset = Evaluation.dataset_id == dataset.id
    release_column(s, Evaluation.scores_sha256, of_dataset)
    s.execute(update(Evaluation).where(of_dataset).values(scores_sha256=None))
    received = [source["sha256"] for source in dataset.sources if "sha256" in source]
    labels = [dataset.labels_sha256] if dataset.labels_sha256 else []
    release(s, [*received, *labels, *dataset.arrays])
    dataset.sources, dataset.labels_sha256, dataset.arrays = [], None, []
    dataset.error, dataset.report = None, _nameless(dataset.report)
    s.execute(update(Dataset).where(Dataset.id == dataset.id).values(erased_at=from_now()))
    dataset_id = dataset.id
    after_commit(s, lambda: log.info("slices of a deleted dataset were erased", extra={"dataset": dataset_id}))
    return True


def _erase_splits(s: Session, dataset: Dataset) -> None:
    """Erase the names of groups and slices in the splits. The numbers of leaks stay."""
    for split_id, leaks in s.execute(select(Split.id, Split.leaks).where(Split.dataset_id == dataset.id)).all():
        counted = {name: {"count": leak["count"], "examples": []} for name, leak in leaks.items()}
        s.execute(update(Split).where(Split.id == split_id).values(assignment={}, leaks=counted))


def _nameless(report: DatasetReport) -> DatasetReport:
    """Return the report's numbers, without names of files and groups."""
    same, near = report.identical, report.near_identical
    return DatasetReport(
        blind_labels=report.blind_labels,
        shared_labels=report.shared_labels,
        contested_labels=report.contested_labels,
        labelled_files=report.labelled_files,
        odd_hu=report.odd_hu,
        groups_from=report.groups_from,
        counts=report.counts,
        groups=report.groups.model_copy(update={"slices": {}}),
        identity=report.identity,
        sizes=report.sizes,
        modes=report.modes,
        formats=report.formats,
        splits=report.splits,
        identical=Duplicates(within=same.within, across=same.across),
        near_identical=Duplicates(within=near.within, across=near.across),
        largest_cluster=report.largest_cluster,
        left_out={reason: LeftOut(count=files.count) for reason, files in report.left_out.items()},
        shortcuts=report.shortcuts,
    )
