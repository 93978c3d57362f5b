"""`ctbatch db`: upgrades the database to the revision that this program needs, and shows the present revision."""

import click

from cli.errors import Unavailable
from cli.local.session import database_errors
from cli.options import json_option
from cli.output import print_json, say


@click.group()
def db() -> None:
    """Upgrade the database, and show its revision.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Create the tables, or upgrade them to this program's revision. It is safe to run this again.

    Stop all processes first. Before the upgrade, a SQLite database is copied to a file beside it.
    """
    from db import migrate

    with database_errors():
        copy = migrate.upgrade()
        revision = migrate.current()
    if as_json:
        print_json({"revision": revision, "copy": None if copy is None else str(copy)})
        return
    if copy is not None:
        say(f"copied the database before the upgrade: {copy}")
    say(f"the database is at revision {revision}")


@db.command()
@json_option
def current(as_json: bool) -> None:
    """Show the database's revision. The exit code is 4 if this program needs another revision."""
    from db import migrate

    with database_errors():
        revision, needed = migrate.current(), migrate.head()
    print_json({"revision": revision, "needed": needed}) if as_json else click.echo(revision or "none")
    if revision != needed:
        raise Unavailable(f"this program needs revision {needed}; run `ctbatch db upgrade`")
