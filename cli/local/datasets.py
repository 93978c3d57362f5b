"""Finds datasets in the database, follows them until they are built, and prints them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied, UsageError
from cli.local.follow import follow
from cli.local.session import reading
from cli.output import print_table, safe, say
from db import CLASSES, COVID, NON_COVID
from db.datasets import datasets
from db.datasets.datasets import DatasetView
from db.datasets.slices import REVIEWS, DatasetError
from db.ledger import leases
from db.models import Dataset, Evaluation, Work

MOST_VALUES = 5  # the most values that are shown of a property, such as the image size


@contextmanager
def refusals() -> Iterator[None]:
    """Turn an error about a dataset into a usage error."""
    try:
        yield
    except DatasetError as error:
        raise UsageError(str(error)) from error


def find_dataset(session: Session, label: str, *, even_deleted: bool = False) -> Dataset:
    """Return the dataset that `label` means: name/number, an id, or a name alone for the newest of that name.

    A deleted dataset is returned only with `even_deleted`, and only if no other dataset matches.

    Raises:
        NotFoundOrDenied: there is no such dataset.
    """
    dataset = datasets.find_dataset(session, label, even_deleted=even_deleted)
    if dataset is None:
        raise NotFoundOrDenied(f"there is no dataset {label}; `ctbatch datasets ls` lists them")
    return dataset


def named(label: str | None, is_deleted: bool) -> str | None:
    """Return the label of a dataset as tables show it. A deleted dataset is marked."""
    return f"{label} (deleted)" if is_deleted else label


def find_view(label: str) -> DatasetView:
    """Return the view of a dataset. Raises NotFoundOrDenied."""
    with reading() as session:
        return datasets.dataset_view(session, find_dataset(session, label))


def follow_dataset(label: str) -> DatasetView:
    """Show a dataset's progress until it is built.

    Raises:
        JobFailed: the dataset cannot be built.
        Unavailable: no worker builds the dataset.
    """
    return follow(
        f"dataset {label}",
        lambda _update: find_view(label),
        lambda view: view.state,
        is_busy=_is_builder_busy,
        nobody=f"no worker is building {label}, which stays queued; start one: `ctbatch worker evaluation`",
    )


def _is_builder_busy() -> bool:
    """Return whether an evaluation worker has other work, or a dataset has to wait for a while."""
    with reading() as session:
        busy = [select(table.id).where(table.state == Work.RUNNING) for table in (Dataset, Evaluation)]
        put_off = select(Dataset.id).where(Dataset.state == Work.READY, ~leases.due(Dataset))
        return any(session.scalar(query.limit(1)) is not None for query in (*busy, put_off))


def print_view(view: DatasetView) -> None:
    """Print the main points of a dataset, and its warnings on stderr."""
    print_table(("", view.name), _points(view))
    for warning in view.report.warnings:
        say(f"warning: {safe(warning)}")


def _points(view: DatasetView) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = [("state", view.state)]
    if view.error:
        lines.append(("error", view.error))
    if view.state == "ready":
        lines += _report_lines(view)
    lines += [(f"left out: {reason}", left.count) for reason, left in view.report.left_out.items()]
    return [*lines, ("sha256", view.sha256 or "")]


def _report_lines(view: DatasetView) -> Iterator[tuple[str, object]]:
    report = view.report
    yield "slices", view.size
    for name in CLASSES.values():
        yield f"  {name}", view.counts[name]
    yield "labels from", report.labels_from
    if report.labels_from == REVIEWS:
        yield "  blind", f"{report.blind_labels} labels"
    yield "groups", view.groups
    for origin, count in report.groups_from.items():
        yield f"  from {origin}", f"{count} slices"
    yield f"  of {COVID} alone", report.groups.covid
    yield f"  of {NON_COVID} alone", report.groups.non_covid
    for what in ("format", "mode", "size"):
        for value, counts in list(getattr(report, f"{what}s").items())[:MOST_VALUES]:
            yield f"{what} {value}", ", ".join(f"{counts[name]} {name}" for name in CLASSES.values())
    same, near = report.identical, report.near_identical
    yield "identical", f"{same.within} slices within a class, {same.across} across"
    yield "near-identical", f"{near.within} pairs within a class, {near.across} across"
    if largest := report.largest_cluster.groups:
        yield "largest cluster", f"{report.largest_cluster.slices} slices of {largest} groups stay in one part"
    if report.shortcuts:
        for fact, score in report.shortcuts.facts.items():
            yield f"shortcut: {fact}", f"AUC {score.auc:.3f}, balanced accuracy {score.balanced_accuracy:.3f}"
        yield "shortcuts", report.shortcuts.verdict
