"""`ctbatch datasets`: makes, splits and deletes datasets of labelled slices from folders, archives or reviewed jobs."""

from collections.abc import Sequence
from pathlib import Path

import click

from cli.errors import Refused, UsageError
from cli.local.datasets import find_dataset, find_view, follow_dataset, print_view, refusals
from cli.local.session import operator_name, reading, writing
from cli.options import FILE, PATH, json_option
from cli.output import print_json, print_table, safe, say
from cli.remote.find_server import settings_with_broker
from cli.removal import confirm_removal, remove_each
from cli.training_options import as_given_option, seed_option
from db import CLASSES, PARTS
from db.datasets import datasets as store
from db.datasets.deletion import NotDeletable
from db.datasets.slices import rows_of
from db.training import splits
from db.training.dataset_deletion import delete_dataset
from db.training.leaks import CONFLICTING, about_conflicts
from worker.datasets.identity import warning_of


@click.group()
def datasets() -> None:
    """Make, list, show, split and delete datasets.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@datasets.command()
@click.argument("name")
@click.argument("more", nargs=-1, type=PATH, metavar="[PATH]...")
@click.option("--from", "paths", multiple=True, type=PATH, help="Take slices from this path. Can be repeated.")
@click.option("--labels", type=FILE, help="Take the labels from this CSV  [default: see above]")
@click.option(
    "--job", "jobs", multiple=True, help="Take the slices of this job that people have labelled. Can be repeated."
)
@click.option(
    "--groups",
    type=click.Choice(["headers", "folders"]),
    default="headers",
    show_default=True,
    help="Where to look first for the patient of a DICOM slice: in its header, or in the folder names.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the dataset  [default: wait until it is built]")
@json_option
def create(
    name: str,
    more: tuple[Path, ...],
    paths: tuple[Path, ...],
    labels: Path | None,
    jobs: tuple[str, ...],
    groups: str,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Make a dataset, and print a report about it.

    The dataset is called NAME/number, with the next free number. PATH is a folder, an archive or an image.

    \b
    Labels come from the first of these that exists:
      --labels: a CSV with the columns `file` and `label`. The columns
        `group` (the patient), `split` (train, validation or test) and
        `source` (the hospital or scanner) are optional.
      groups.csv or labels.csv among the files, with the same columns
      folder names: COVID, CT_COVID, positive or 1; and non-COVID,
        CT_NonCOVID, normal, negative, healthy or 0

    A CSV may also be given as PATH or with --from. If the CSV is the only path, it labels the images in its own folder.

    The patient of a slice comes from the CSV, or else from the DICOM header, or else from the folder: COVID/patient1 or
    patient1/COVID. The report warns if the headers do not distinguish the patients. In that case use --groups folders,
    which looks at folders before headers.
    """
    sources, labels = _labels_among([*paths, *more], labels)
    if bool(sources) == bool(jobs):
        raise UsageError("name the slices: either --from PATH or --job JOB")
    if labels and jobs:
        raise UsageError("--labels goes with --from: the slices of --job have labels already")
    settings_with_broker()  # without a broker, a worker hears of the dataset only from the sweeper, a minute later
    first = groups == "folders"
    label = _create_from_jobs(name, jobs, first) if jobs else _create_from_files(name, sources, labels, first)
    view = find_view(label) if no_wait else follow_dataset(label)
    if as_json:
        print_json(view.as_dict())
    elif no_wait:
        click.echo(view.name)
    else:
        print_view(view)


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
        [v.name, v.state, *v.counts.values(), v.groups, f"{v.created_at:%Y-%m-%d %H:%M}", v.created_by] for v in views
    ]
    print_table(columns, rows, empty="no dataset yet; `ctbatch datasets create NAME --from PATH` makes one")


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@json_option
def show(dataset: str, as_json: bool) -> None:
    """Show a dataset and its report.

    DATASET is name/number, an id, or a name alone, which means the newest dataset of that name.
    """
    view = find_view(dataset)
    print_json(view.as_dict()) if as_json else print_view(view)


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@json_option
def slices(dataset: str, as_json: bool) -> None:
    """List the slices of DATASET: row, label, group and name. A training report names a slice by its row."""
    with refusals(), reading() as session:
        rows = rows_of(session, find_dataset(session, dataset).id)
    columns = ("row", "label", "group", "name")
    lines = [(row.row, CLASSES[row.label], row.group, row.name) for row in rows]
    if as_json:
        print_json([dict(zip(columns, line, strict=True)) for line in lines])
    else:
        print_table(columns, lines, empty="no slice")


@datasets.command()
@click.argument("dataset", metavar="DATASET")
@seed_option("Random seed of the split. The same seed gives the same split.")
@as_given_option
@json_option
def split(dataset: str, seed: int, groups_as_given: bool, as_json: bool) -> None:
    """Split DATASET into train, validation and test.

    Slices of one group stay in one part. Checks the split for leaks. A leak blocks training.

    If the dataset's CSV has a column `split`, that column decides the parts. --seed then has no effect.
    """
    with refusals():
        with reading() as session:
            found = find_dataset(session, dataset)
            plan = splits.plan_split(session, found, seed=seed, groups_as_given=groups_as_given)
        drawn = splits.draw_split(plan)
    if warning := warning_of(found.report.identity):
        say(f"warning: {safe(warning)}")
    with refusals(), writing() as session:
        drawn = splits.keep_split(session, drawn)
        rows = {part: rows_of(session, drawn.dataset_id, drawn, part) for part in PARTS}
    parts = {
        part: {name: sum(row.label == label for row in rows[part]) for label, name in CLASSES.items()}
        | {"groups": len({row.group for row in rows[part]})}
        for part in PARTS
    }
    if as_json:
        print_json(
            {"id": drawn.id, "rule": drawn.description, "seed": drawn.seed, "parts": parts, "leaks": drawn.leaks}
        )
        return
    print_table(("part", *CLASSES.values(), "groups"), [[part, *counts.values()] for part, counts in parts.items()])
    for leak, facts in drawn.leaks.items():
        say(f"leak {leak}: {facts['count']}, for example {safe(facts['examples'][0])}")
    if CONFLICTING in drawn.leaks:
        say(safe(about_conflicts(drawn.leaks[CONFLICTING])))
    if drawn.leaks:
        say("a leak blocks training on this split, unless `ctbatch train --allow-leak` allows it by name")
    else:
        say("no leak was found")


@datasets.command()
@click.argument("labels", metavar="NAME/N...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rm(labels: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete datasets: their slices, labels, groups and splits.

    Model versions that were trained on NAME/N stay, but lose their training report and pictures of slices. ctbatch can
    no longer find out which slices they were trained on. So `ctbatch models check` never says that they may be used,
    and versions that are trained from them do not pass the promotion gate. If another dataset has exactly the same
    slices, labels and groups, none of this happens until it is deleted too. Results of runs and evaluations stay.

    The files are removed from the disk days later. Files that something else uses stay. A dataset cannot be deleted
    while it is being built, or while an open run or a running evaluation reads its slices. Evaluations on it that have
    not begun fail. If one dataset cannot be deleted, the others are still deleted. If several cannot be deleted, the
    exit code is that of the first of them on the command line.
    """
    for label in labels:
        if "/" not in label:  # a name alone would mean the newest of that name
            raise UsageError(f"{label} is not NAME/N; `ctbatch datasets ls` lists the datasets with their numbers")
    if not yes:
        lost = "Slices, labels, groups, splits, and training reports of model versions trained on it are lost."
        confirm_removal("dataset", labels, lost)
    remove_each("dataset", labels, _remove, as_json=as_json)


def _remove(label: str) -> None:
    try:
        with refusals(), writing() as session:
            delete_dataset(session, find_dataset(session, label), operator_name())
    except NotDeletable as error:
        raise Refused(str(error)) from error


def _labels_among(paths: Sequence[Path], labels: Path | None) -> tuple[list[Path], Path | None]:
    """Return the sources and the CSV of labels.

    A CSV among the sources is taken as the labels. If it is the only source, its folder becomes the source.
    """
    tables = [path for path in paths if path.suffix.lower() == ".csv" and path.is_file()]
    if not tables:
        return list(paths), labels
    if labels or len(tables) > 1:
        raise UsageError("there is more than one CSV of labels; name only one, or join them into one")
    return [path for path in paths if path not in tables] or [tables[0].absolute().parent], tables[0]


def _create_from_jobs(name: str, jobs: Sequence[str], folders_first: bool) -> str:
    with refusals(), writing() as session:
        dataset = store.create_from_reviews(session, name=name, user=None, job_ids=jobs, folders_first=folders_first)
        return dataset.label


def _create_from_files(name: str, paths: Sequence[Path], labels: Path | None, folders_first: bool) -> str:
    with reading() as session, refusals():  # notice a bad name or database before gigabytes are copied
        store.check_name(name)
        store.find_dataset(session, name)
    from cli.local.dataset_files import store_files, store_labels  # loads the readers of images

    table = store_labels(labels) if labels else None
    files, given = store_files(paths, labels)
    with refusals(), writing() as session:
        dataset = store.create_dataset(
            session, name=name, user=None, files=files, given=given, labels=table, folders_first=folders_first
        )
        return dataset.label
