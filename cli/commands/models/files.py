"""`ctbatch models export` and `import`: move a model version as one file to another site, also without a network."""

from pathlib import Path

import click

from cli.errors import Unavailable, UsageError
from cli.local.model_tables import find_version, version_view
from cli.local.session import reading, writing
from cli.options import FILE, NEW_FILE, json_option
from cli.output import complete_file, print_json, progress_bar, say
from db.access.audit import WITH_SLICES, Action, record
from db.registry import champions, transfer
from db.registry.export import export_package, export_size
from db.registry.transfer import PackageRefused
from db.storage import FileDamaged, FileMissing


@click.command()
@click.argument("version", metavar="VERSION")
@click.argument("file", type=NEW_FILE)
@click.option("--with-slices", is_flag=True, help="Include the report and the figures, which show slices of patients.")
@json_option
def export(version: str, file: Path, with_slices: bool, as_json: bool) -> None:
    """Write the model version VERSION to FILE, a TAR.

    FILE holds package.json and the files that it lists. Each export of a version gives the same bytes.

    FILE lacks the report and the two figures that show slices (augmented.png, mistakes.png). Add --with-slices to
    include them.
    """
    if file.exists():
        raise UsageError(f"{file} exists already; name another file")
    with reading() as session:
        row = find_version(session, version)
    with writing() as session:
        record(session, Action.MODEL_EXPORT, f"model {row.label}", WITH_SLICES if with_slices else "")
    done = 0
    try:
        bar = progress_bar(row.label, export_size(row, with_slices=with_slices), unit="bytes", enabled=not as_json)
        with bar as update, complete_file(file) as target:
            for piece in export_package(row, with_slices=with_slices):
                target.write(piece)
                done += len(piece)
                update(done, "")
    except (FileMissing, FileDamaged) as error:
        raise Unavailable(f"a file of {row.label} is gone or damaged: {error}") from error
    print_json({"version": row.label, "file": str(file), "bytes": done}) if as_json else say(f"{row.label}: {file}")


@click.command("import")
@click.argument("file", type=FILE)
@json_option
def import_file(file: Path, as_json: bool) -> None:
    """Register the model version in FILE.

    `ctbatch models export` writes FILE. Every hash is checked first. FILE is refused if it is damaged, is not an
    export, was made for another recipe, or could run code. The version keeps its name. Its number is the next one for
    this name in this database. If you import the same FILE again, you get the same version.

    The version is not promoted. `ctbatch models check` says whether it may be used here.
    """
    from worker.hdf5 import check_weights
    from worker.imaging.recipe import RECIPE

    try:
        received = transfer.import_package(file, RECIPE, check_weights)
    except PackageRefused as error:
        raise UsageError(str(error)) from error
    with writing() as session:
        version, new = transfer.register_received(session, received)
        view = version_view(version, champions.champion(session))
    if as_json:
        print_json({**view, "new": new})
    else:
        say(f"{version.label} is {'imported' if new else 'here already'}")
