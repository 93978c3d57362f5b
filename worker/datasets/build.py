"""A dataset's building: claimed, its slices gathered, compared and reported on, and recorded in one transaction."""

import logging
import time

from sqlalchemy.exc import OperationalError

from db import CLASSES
from db.crash_points import crash_point
from db.database import read_scope, session_scope
from db.datasets import datasets
from db.ledger import leases
from db.ledger.leases import Claim, StaleClaim
from db.models import Dataset
from db.storage import FileMissing
from worker.datasets.collector import Gathered
from worker.datasets.label_table import BadLabels
from worker.datasets.report import make_report
from worker.datasets.sources import NotBuildable, Note, label_files, list_files, read_files, read_reviews
from worker.heartbeat import Heartbeat
from worker.imaging.rejections import DecoderUnavailable
from worker.jobs.ingest import unpack_next

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
READING = 0.9  # of the whole; comparing and reporting are the rest
NOTE_SECONDS = 1.0  # between two notes of the progress


def ingest_next(worker: str) -> bool:
    """Unpack the upload whose turn it is; if there is none, build the dataset whose turn it is; False if neither is.

    Whatever a message of the ingest queue is about, it makes a worker do the next thing there is.
    """
    return unpack_next(worker) or build_next(worker)


def build_next(worker: str) -> bool:
    """Claim the dataset whose turn it is and build it; False if there is none."""
    with session_scope() as s:
        claimed = datasets.claim_dataset(s, worker)
    if claimed is None:
        return False
    dataset, claim = claimed
    log.info("building dataset", extra={"dataset": dataset.id, "fence": claim.fence})
    gathered = Gathered()
    with Heartbeat(Dataset, [claim]) as heartbeat:
        try:
            _build(worker, dataset, claim, heartbeat, gathered)
        except StaleClaim:
            log.info("dataset is someone else's now", extra={"dataset": dataset.id})
        except (NotBuildable, BadLabels) as error:
            _fail(claim, str(error), gathered)
        except FileMissing as error:
            _fail(claim, f"a file of it is gone from storage ({error}): create it again from its sources", gathered)
        except (OSError, OperationalError, DecoderUnavailable) as error:
            log.warning("building put off", extra={"dataset": dataset.id, "error": type(error).__name__})
            with session_scope() as s:
                leases.put_off(s, Dataset, claim, error=_why(error))
        except Exception as error:
            log.exception("building failed", extra={"dataset": dataset.id})
            _fail(claim, f"{type(error).__name__}; the ingest worker's log tells more", gathered)
    return True


def _why(error: OSError | OperationalError | DecoderUnavailable) -> str:
    """What put the building off, in one line for people."""
    told = error.strerror if isinstance(error, OSError) else error.orig if isinstance(error, OperationalError) else None
    return (str(told or error).strip() or type(error).__name__).splitlines()[0]


def _fail(claim: Claim, error: str, gathered: Gathered) -> None:
    with session_scope() as s:
        datasets.fail_dataset(s, claim, error, {"left_out": gathered.left_out()})


def _build(worker: str, dataset: Dataset, claim: Claim, heartbeat: Heartbeat, gathered: Gathered) -> None:
    """Nothing is recorded before all is known: an attempt that was broken off leaves no row behind."""
    if dataset.attempts > MAX_ATTEMPTS:
        last = f"; the last error was: {dataset.error}" if dataset.error else ""
        raise NotBuildable(f"building was broken off {MAX_ATTEMPTS} times{last}")
    note = _notes(worker, claim, heartbeat)
    _gather(dataset, gathered, note)
    _check(gathered)
    similar = gathered.compare(lambda: note(1.0))
    if len({item.group for item in gathered.slices}) < 2:
        raise NotBuildable(
            f"all {gathered.size} slices are of one group ({gathered.slices[0].group}): a model is judged on groups"
            " that it has not seen, so there must be several (patients, series)"
        )
    sha256 = gathered.sha256()
    with read_scope() as s:
        twin = datasets.twin_of(s, dataset, sha256)
    report = make_report(gathered, similar, twin)
    heartbeat.progress()
    crash_point("before-dataset-commit")
    with session_scope() as s:
        datasets.finish_dataset(
            s, claim, gathered.columns(), size=gathered.size, sha256=sha256, arrays=gathered.arrays, report=report
        )


def _gather(dataset: Dataset, gathered: Gathered, note: Note) -> None:
    if jobs := [source["job"] for source in dataset.sources if "job" in source]:
        read_reviews(jobs, gathered, note)
        return
    files = list_files(dataset.sources, lambda: note(0.0))
    known, gathered.labels_from = label_files(files, dataset.labels_sha256)
    read_files(dataset.sources, files, known, gathered, note)


def _notes(worker: str, claim: Claim, heartbeat: Heartbeat) -> Note:
    """Writes how far the reading is, at most once a second, and lets the uploads that came meanwhile go first.

    Each note is a sign of life. Raises StaleClaim.
    """
    noted = 0.0

    def note(fraction: float) -> None:
        nonlocal noted
        heartbeat.progress()
        if (now := time.monotonic()) - noted >= NOTE_SECONDS:
            noted = now
            try:
                with session_scope() as s:
                    datasets.report_progress(s, claim, READING * fraction)
            except OperationalError as error:  # it costs no more than this note: the heartbeat keeps the lease
                log.warning("progress not noted", extra={"dataset": claim.id, "error": type(error).__name__})
            while _unpack(worker, heartbeat):
                heartbeat.progress()

    return note


def _unpack(worker: str, heartbeat: Heartbeat) -> bool:
    """Unpack an upload that came meanwhile; False if there is none, or it cannot be done: this dataset is no worse."""
    try:
        return unpack_next(worker, around=heartbeat)
    except Exception:
        log.exception("unpacking broke off")
        return False


def _check(gathered: Gathered) -> None:
    counts = gathered.count()
    for name in CLASSES.values():
        if not counts[name]:
            why = ", ".join(f"{reason}: {found['count']}" for reason, found in gathered.left_out().items())
            raise NotBuildable(f"the class {name} is empty: none of its files could be read ({why})")
