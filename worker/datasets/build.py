"""Builds a dataset: collects its slices, compares them, makes the report, and records all in one transaction."""

import logging

from db import CLASSES
from db.background import wait_for_storage
from db.crash_points import crash_point
from db.database import in_transaction, read_scope, session_scope
from db.datasets import datasets
from db.datasets.slices import BY_JOB
from db.ledger import leases
from db.ledger.leases import Claim
from db.models import Dataset
from db.storage import FileDamaged, FileMissing, storage
from worker import claimed
from worker.datasets.collector import Collector
from worker.datasets.identity import warning_of
from worker.datasets.label_table import BadLabels
from worker.datasets.report import ONE_JOB, make_report
from worker.datasets.reviewed import read_reviews
from worker.datasets.sources import NotBuildable, Note, Source, label_files, list_files, read_files
from worker.heartbeat import Heartbeat
from worker.imaging.archives.region import BlockUnreadable

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # the most claims whose worker died; claims that an outage ended are not counted
READING = 0.9  # reading is this share of the progress; comparing and reporting are the rest


def build_next(worker: str) -> bool:
    """Claim the next dataset, and build it. Return False if no dataset waits."""
    if not claimed.may_claim():
        return False
    taken = in_transaction(lambda s: datasets.claim_dataset(s, worker))
    if taken is None:
        return False
    dataset, claim = taken
    log.info("building dataset", extra={"dataset": dataset.id, "fence": claim.fence})
    collector = Collector()

    def fail(error: Exception) -> None:
        with session_scope() as s:
            report = {"left_out": collector.left_out(), "identity": collector.headers.identity().as_json()}
            datasets.fail_dataset(s, claim, _message_for(error, dataset), report)

    def put_off(error: Exception, is_attempt: bool) -> None:
        with session_scope() as s:
            leases.put_off(s, Dataset, claim, is_attempt=is_attempt, error=claimed.reason_of(error))

    claimed.carry_out(
        Dataset,
        [claim],
        lambda heartbeat: _build(dataset, claim, heartbeat, collector),
        fail=fail,
        put_off=put_off,
        tries=MAX_ATTEMPTS,
        is_given_back=True,
    )
    return True


def _message_for(error: Exception, dataset: Dataset) -> str:
    """Return in one line, for people, why the dataset cannot be built."""
    if isinstance(error, NotBuildable | BadLabels):
        return str(error)
    if isinstance(error, FileMissing | FileDamaged | BlockUnreadable):
        return f"a file of it is gone or damaged ({error}): create it again from its sources"
    log.error("building failed", extra={"dataset": dataset.id}, exc_info=error)
    return f"{type(error).__name__}; see the evaluation worker's log"


def _build(dataset: Dataset, claim: Claim, heartbeat: Heartbeat, collector: Collector) -> None:
    """Collect the slices, compare them and record them. A single transaction records them all or none."""
    if dataset.attempts > MAX_ATTEMPTS:
        raise NotBuildable(f"{MAX_ATTEMPTS} workers died while building it; check that the machine has enough memory")
    note = _notes(claim, heartbeat)
    _collect(dataset, collector, note)
    _check(collector)
    similar = collector.compare(lambda: note(1.0))
    if len({item.group for item in collector.slices}) < 2:
        raise NotBuildable(
            f"all {collector.size} slices belong to one group ({collector.slices[0].group}): a model is measured on"
            f" groups that it has not seen, so there must be several (patients, series). {_advice(collector)}".rstrip()
        )
    sha256 = collector.sha256()
    report = make_report(collector, similar, claimed.patiently(heartbeat, lambda: _twin(dataset, sha256)))
    wait_for_storage(storage().sync, heartbeat.progress)
    crash_point("before-dataset-commit")

    def finish() -> None:
        with session_scope() as s:
            datasets.finish_dataset(
                s,
                claim,
                collector.columns(),
                size=collector.size,
                sha256=sha256,
                arrays=collector.arrays,
                report=report,
            )

    claimed.patiently(heartbeat, finish)


def _twin(dataset: Dataset, sha256: str) -> str | None:
    with read_scope() as s:
        return datasets.twin_of(s, dataset, sha256)


def _collect(dataset: Dataset, collector: Collector, note: Note) -> None:
    if jobs := [source["job"] for source in dataset.sources if "job" in source]:
        read_reviews(jobs, collector, note, folders_first=dataset.folders_first)
        return
    sources = [Source(source["sha256"], source["filename"], source.get("given")) for source in dataset.sources]
    files = list_files(sources, lambda: note(0.0))
    labels = label_files(files, dataset.labels_sha256)
    collector.labels_from, collector.label_warnings = labels.origin, labels.warnings
    read_files(sources, files, labels.of_files, collector, note, folders_first=dataset.folders_first)


def _notes(claim: Claim, heartbeat: Heartbeat) -> Note:
    """Return a function that notes how much of the reading is done."""
    notes = claimed.ProgressNotes(heartbeat)

    def note(fraction: float) -> None:
        def write() -> None:
            with session_scope() as s:
                datasets.report_progress(s, claim, READING * fraction)

        notes.alive(write)

    return note


def _advice(collector: Collector) -> str:
    if collector.groups_from[BY_JOB]:
        return f"To make the patients known, {ONE_JOB}"
    warning = warning_of(collector.headers.identity()) or ""
    return warning[:1].upper() + warning[1:]


def _check(collector: Collector) -> None:
    counts = collector.count()
    for name in CLASSES.values():
        if not counts[name]:
            why = ", ".join(f"{reason}: {files['count']}" for reason, files in collector.left_out().items())
            raise NotBuildable(f"the class {name} is empty: none of its files could be read ({why})")
