"""`ctbatch files`: the stored files that no row names, and the trash that they go to."""

import click

from cli.errors import Refused
from cli.local.session import database_errors, writing
from cli.options import json_option
from cli.output import print_json, say


@click.group()
def files() -> None:
    """Empty the storage of files that nothing uses, and bring files back. Acts on this machine's settings."""


@files.command()
@click.option("--yes", is_flag=True, help="Move them to the trash however many they are.")
@json_option
def reap(yes: bool, as_json: bool) -> None:
    """Move files that no row of the database names to the trash, and empty the trash of old ones.

    The sweeper does the same every hour. It stops if it finds very many; look at the database first, then use --yes.
    """
    from dataclasses import asdict

    from db.installation import ForeignStorage
    from worker.reap import TooManyOrphans
    from worker.reap import reap as reap_files

    try:
        with database_errors():
            reaped = reap_files(confirmed=yes)
    except (ForeignStorage, TooManyOrphans) as error:
        raise Refused(str(error)) from error
    if as_json:
        print_json(asdict(reaped))
    else:
        say(f"{reaped.trashed} to the trash, {reaped.restored} back from it, {reaped.deleted} deleted")


@files.command()
@json_option
def restore(as_json: bool) -> None:
    """Bring every file back from the trash."""
    from worker.reap import restore_all

    count = restore_all()
    print_json({"restored": count}) if as_json else say(f"{count} files are back")


@files.command()
def adopt() -> None:
    """Mark the storage as this database's.

    Needed once after a database was replaced by another one on purpose: until then no file is ever removed.
    """
    from db.installation import adopt_storage

    with writing() as session:
        adopt_storage(session)
    say("the storage belongs to this database")
