"""`ctbatch files`: moves unused stored files to the trash, and restores or deletes them."""

import click

from cli.errors import Refused
from cli.local.session import database_errors, writing
from cli.options import json_option
from cli.output import print_json, say


@click.group()
def files() -> None:
    """Move unused stored files to the trash, and restore or delete them.

    Uses the database and the file storage that DATABASE_URL and CTBATCH_STORAGE_URL name, or else those in the --home
    folder.
    """


@files.command()
@click.option("--yes", is_flag=True, help="Move the files, however many there are.")
@json_option
def reap(yes: bool, as_json: bool) -> None:
    """Move unused files to the trash.

    A file is unused if the database does not refer to it. Also deletes old files from the trash. The sweeper does the
    same every hour.

    Moves only files of deleted jobs and datasets if more than 1,000 other files are unused, or more than 100 that are
    more than 5 % of all files. The settings may then name the wrong database. Check them before you use --yes.
    """
    from dataclasses import asdict

    from db import migrate
    from db.installation import ForeignStorage
    from worker.reap import TooManyOrphans
    from worker.reap import reap as reap_files

    try:
        with database_errors():
            migrate.check_revision()  # a program of another revision does not know all columns that refer to files
            reaped = reap_files(confirmed=yes)
    except (ForeignStorage, TooManyOrphans) as error:
        raise Refused(str(error)) from error
    summary = (
        f"moved {reaped.trashed} files to the trash, restored {reaped.restored}, deleted {reaped.deleted} old ones"
    )
    print_json(asdict(reaped)) if as_json else say(summary)


@files.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def purge(yes: bool, as_json: bool) -> None:
    """Delete all files in the trash now, to free disk space. They cannot be restored."""
    from db import migrate
    from db.installation import ForeignStorage
    from worker.reap import purge as purge_files

    if not yes:
        click.confirm("Delete all files in the trash? They cannot be restored.", abort=True, err=True)
    try:
        with database_errors():
            migrate.check_revision()
            deleted = purge_files()
    except ForeignStorage as error:
        raise Refused(str(error)) from error
    print_json({"deleted": deleted}) if as_json else say(f"deleted {deleted} files")


@files.command()
@json_option
def restore(as_json: bool) -> None:
    """Restore all files from the trash."""
    from worker.reap import restore_all

    count = restore_all()
    print_json({"restored": count}) if as_json else say(f"restored {count} files")


@files.command()
def adopt() -> None:
    """Mark the storage as belonging to this database.

    Run this once after you replaced the database with another one. Until then, ctbatch removes no files.
    """
    from db.installation import adopt_storage

    with writing() as session:
        adopt_storage(session)
    say("the storage belongs to this database")
