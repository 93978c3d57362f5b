"""`ctbatch datasets`: labelled slices for training, made from folders, archives or reviewed jobs, and their splits."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import select

from cli.errors import JobFailed, NotFoundOrDenied, Unavailable, UsageError
from cli.files.parts import Part, gather
from cli.local.session import reading, writing
from cli.options import as_given_option, json_option, seed_option
from cli.output import print_json, print_table, progress_bar, safe, say
from cli.remote.find_server import settings_with_broker
from db import CLASSES, COVID, NON_COVID, PARTS
from db.clock import from_now
from db.datasets import datasets as store
from db.datasets.datasets import DatasetView
from db.datasets.slices import DatasetError, rows_of
from db.models import Dataset, Upload, Work
from db.training import splits

if TYPE_CHECKING:
    from db.ledger.jobs import ReceivedFile

POLL_SECONDS = 0.5
UNCLAIMED_SECONDS = 120  # a dataset that no worker takes in this time has no worker that is free

path_option = click.Path(exists=True, path_type=Path)


@click.group()
def datasets() -> None:
    """Make, list, show and split datasets. Acts on the database of this machine's settings."""


@datasets.command()
@click.argument("name")
@click.argument("more", nargs=-1, type=path_option, metavar="[PATH]...")
@click.option(
    "--from", "paths", multiple=True, type=path_option, help="A folder, an archive, an image, or a CSV; repeatable."
)
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A CSV of file, label, group."
)
@click.option("--job", "jobs", multiple=True, help="Take the reviewed slices of this job; repeatable.")
@click.option("--no-wait", is_flag=True, help="Do not wait until an ingest worker has built it.")
@json_option
def create(
    name: str,
    more: tuple[Path, ...],
    paths: tuple[Path, ...],
    labels: Path | None,
    jobs: tuple[str, ...],
    no_wait: bool,
    as_json: bool,
) -> None:
    """Make the next version of the dataset NAME.

    The labels come from --labels, else from a groups.csv or labels.csv among the files (columns file, label, and if
    wanted group, split and source), else from the folders: COVID, CT_COVID, positive or 1; non-COVID, CT_NonCOVID,
    normal, negative, healthy or 0. --from LABELS.csv alone takes the files beside it. Patients are told by the CSV, by
    DICOM headers, else by folders: COVID/patient1 or patient1/COVID. A source is a hospital or a scanner: a model's
    figures are told for each. Prints what there is to know before anything is trained on it.
    """
    sources, labels = _labels_among([*paths, *more], labels)
    if bool(sources) == bool(jobs):
        raise UsageError("say what to make it from: either --from PATH or --job JOB")
    if labels and jobs:
        raise UsageError("--labels goes with --from: reviewed slices have their labels")
    settings_with_broker()  # else the ingest worker hears of it from the sweeper only, a minute later
    title = _create_from_jobs(name, jobs) if jobs else _create_from_files(name, sources, labels)
    view = _view(title) if no_wait else _follow(title)
    if as_json:
        print_json(view.as_dict())
    elif no_wait:
        click.echo(view.name)
    else:
        _print_view(view)


@datasets.command("ls")
@json_option
def list_datasets(as_json: bool) -> None:
    """List all datasets, newest first."""
    with reading() as session:
        views = [store.dataset_view(session, dataset) for dataset in store.list_datasets(session)]
    if as_json:
        print_json([view.as_dict() for view in views])
        return
    columns = ("dataset", "state", *CLASSES.values(), "left out", "groups", "created at", "by")
    rows = [
        [view.name, view.state, *_counts(view), view.groups, f"{view.created_at:%Y-%m-%d %H:%M}", view.created_by or ""]
        for view in views
    ]
    print_table(columns, rows, empty="no dataset yet; `ctbatch datasets create NAME --from PATH` makes one")


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@json_option
def show(dataset: str, as_json: bool) -> None:
    """Show DATASET (name/number, a name for its newest, or an id) and its report."""
    view = _view(dataset)
    print_json(view.as_dict()) if as_json else _print_view(view)


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@json_option
def slices(dataset: str, as_json: bool) -> None:
    """List the slices of DATASET: row, label, group and name, as a report's numbers mean them."""
    with refusals(), reading() as session:
        rows = rows_of(session, _find(session, dataset).id)
    columns = ("row", "label", "group", "name")
    found = [(row.row, CLASSES[row.label], row.group, row.name) for row in rows]
    if as_json:
        print_json([dict(zip(columns, values, strict=True)) for values in found])
    else:
        print_table(columns, found, empty="no slice")


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@seed_option("Another seed draws other groups.")
@as_given_option
@json_option
def split(dataset: str, seed: int, as_given: bool, as_json: bool) -> None:
    """Split DATASET by group into train, validation and test, and check the split for leaks.

    The same seed gives the same split. Where its CSV has a column split, that is the split. A leak blocks training.
    """
    with refusals(), writing() as session:
        made = splits.split_of(session, _find(session, dataset), seed=seed, as_given=as_given)
        parts = {part: rows_of(session, made.dataset_id, made, part) for part in PARTS}
    shown = {
        part: {name: sum(row.label == label for row in rows) for label, name in CLASSES.items()}
        | {"groups": len({row.group for row in rows})}
        for part, rows in parts.items()
    }
    if as_json:
        print_json({"id": made.id, "rule": made.description, "seed": made.seed, "parts": shown, "leaks": made.leaks})
        return
    print_table(("part", *CLASSES.values(), "groups"), [[part, *found.values()] for part, found in shown.items()])
    for leak, found in made.leaks.items():
        say(f"leak {leak}: {found['count']}, as {safe(found['examples'][0])}")
    say("no leak was found" if not made.leaks else "a leak blocks training on this split, unless it is allowed by name")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what a dataset refuses into a usage error."""
    try:
        yield
    except DatasetError as error:
        raise UsageError(str(error)) from error


def _labels_among(paths: Sequence[Path], labels: Path | None) -> tuple[list[Path], Path | None]:
    """The sources, and the labels: a CSV named as a source holds them, and its folder is the source if there is no
    other."""
    tables = [path for path in paths if path.suffix.lower() == ".csv" and path.is_file()]
    if not tables:
        return list(paths), labels
    if labels or len(tables) > 1:
        raise UsageError("the labels come from one CSV; name one alone, or put them together")
    return [path for path in paths if path not in tables] or [tables[0].absolute().parent], tables[0]


def _create_from_jobs(name: str, jobs: Sequence[str]) -> str:
    with refusals(), writing() as session:
        return store.create_from_reviews(session, name=name, user=None, job_ids=jobs).label


def _create_from_files(name: str, paths: Sequence[Path], labels: Path | None) -> str:
    with reading() as session, refusals():  # what would fail at the end is known before gigabytes are copied
        store.check_name(name)
        store.find_dataset(session, name)
    table = _store_labels(labels) if labels else None
    parts, hidden = gather(paths, but=labels)
    if hidden:
        say(f"{hidden} hidden or unusable files were passed over")
    with progress_bar("copying", sum(part.size for part in parts), unit="bytes") as update:
        files, done = [], 0
        for part in parts:
            files.append(_store_part(part, lambda count, done=done: update(done + count, "")))
            done += part.size
    with refusals(), writing() as session:
        return store.create_dataset(session, name=name, user=None, files=files, labels=table).label


def _store_labels(path: Path) -> "ReceivedFile":
    from worker.datasets.label_table import BadLabels, read_csv

    content = path.read_bytes()
    try:
        read_csv(content)
    except BadLabels as error:
        raise UsageError(f"{path}: {error}") from error
    return _store_part(Part(path.name, len(content), [content], 1), lambda count: None)


def _store_part(part: Part, sent: Any) -> "ReceivedFile":
    """Stream one file into storage, refuse it where a submission of it would be, and say what it is."""
    from db.ledger.jobs import ReceivedFile
    from db.storage import storage
    from worker.decoding import archive_limits
    from worker.imaging.archives.archive import inspect_archive
    from worker.imaging.rejections import ArchiveRefused

    receiver = storage().receive()
    try:
        done = 0
        for piece in part.content:
            done += receiver.write(piece)
            sent(done)
        receiver.finish()
        found = inspect_archive(receiver.path, part.filename, archive_limits())
        received = receiver.publish()
    except ArchiveRefused as error:
        raise UsageError(f"{part.filename} is refused: {error}") from error
    finally:
        receiver.abort()
    return ReceivedFile(part.filename, received.sha256, received.size, found.kind, found.entries)


def _find(session: Any, label: str) -> Dataset:
    found = store.find_dataset(session, label)
    if found is None:
        raise NotFoundOrDenied(f"there is no dataset {label}; `ctbatch datasets ls` lists them")
    return found


def _view(label: str) -> DatasetView:
    with reading() as session:
        return store.dataset_view(session, _find(session, label))


def _follow(title: str) -> DatasetView:
    """Show a dataset's progress until it is built.

    Raises:
        JobFailed: it cannot be built.
        Unavailable: no ingest worker took it.
    """
    waiting_since = time.monotonic()
    with progress_bar(f"building {title}", 1.0) as update:
        while True:
            view = _view(title)
            update(view.progress, view.state)
            if view.state == "ready":
                return view
            if view.state == "failed":
                raise JobFailed(f"the dataset {title} was not built: {view.error}")
            if view.state != "queued" or _ingest_is_busy():
                waiting_since = time.monotonic()
            elif time.monotonic() - waiting_since > UNCLAIMED_SECONDS:
                raise Unavailable(
                    f"no ingest worker has taken {title}; does `ctbatch worker ingest` run somewhere? It stays queued"
                )
            time.sleep(POLL_SECONDS)


def _ingest_is_busy() -> bool:
    """Whether a worker reads something: then what waits has to be patient; so has what was put off for a while."""
    with reading() as session:
        busy = [select(each.id).where(each.state == Work.RUNNING) for each in (Upload, Dataset)]
        put_off = select(Dataset.id).where(Dataset.state == Work.READY, Dataset.lease_until > from_now())
        return any(session.scalar(query.limit(1)) is not None for query in (*busy, put_off))


def _counts(view: DatasetView) -> list[int]:
    return [*(view.counts[name] for name in CLASSES.values()), view.counts["rejected"]]


def _print_view(view: DatasetView) -> None:
    """Print the main points, with what to know first on stderr."""
    print_table(("", view.name), _points(view))
    for warning in view.report.warnings:
        say(f"warning: {safe(warning)}")


def _points(view: DatasetView) -> list[tuple[str, object]]:
    report = view.report
    lines: list[tuple[str, object]] = [("state", view.state)]
    if view.error:
        lines.append(("error", view.error))
    if view.state == "ready":
        lines += [("slices", view.size), *((f"  {name}", view.counts[name]) for name in CLASSES.values())]
        lines += [("labels from", report.labels_from), ("groups", view.groups)]
        lines += [(f"  from {origin}", f"{count} slices") for origin, count in report.groups_from.items()]
        groups = report.groups
        lines += [(f"  of {COVID} alone", groups.covid), (f"  of {NON_COVID} alone", groups.non_covid)]
        for what, unit in (("format", ""), ("mode", ""), ("size", "")):
            lines += [(f"{what} {value}{unit}", _classes(found)) for value, found in _most(getattr(report, f"{what}s"))]
        for kind, unit, found in (
            ("identical", "slices", report.identical),
            ("near-identical", "pairs", report.near_identical),
        ):
            lines.append((kind, f"{found.within} {unit} within a class, {found.across} across"))
    if report.shortcuts:
        lines += [
            (f"shortcut: {fact}", f"AUC {score.auc:.3f}, balanced accuracy {score.balanced_accuracy:.3f}")
            for fact, score in report.shortcuts.facts.items()
        ]
        lines.append(("shortcuts", report.shortcuts.verdict))
    lines += [(f"left out: {reason}", left.count) for reason, left in report.left_out.items()]
    return [*lines, ("sha256", view.sha256 or "")]


def _most(found: dict[str, Any], most: int = 5) -> list[tuple[str, dict[str, int]]]:
    return list(found.items())[:most]


def _classes(found: dict[str, int]) -> str:
    return ", ".join(f"{found[name]} {name}" for name in CLASSES.values())
