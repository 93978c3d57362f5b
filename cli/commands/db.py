"""`ctbatch db`: upgrades the database to the revision of this program, and shows its revision."""

import click

from cli.errors import Unavailable
from cli.local.session import database_errors
from cli.options import json_option
from cli.output import print_json, say


@click.group()
def db() -> None:
    """Upgrade the database of this machine's settings, and show its revision."""


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Create the tables, or upgrade them to this program's revision. It is safe to run again.

    Stop all processes first. A SQLite database is copied to a file beside it before it is upgraded.
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
    """Show the database's revision. Exit code 4 if this program needs another one."""
    from db import migrate

    with database_errors():
        revision, needed = migrate.current(), migrate.head()
    print_json({"revision": revision, "needed": needed}) if as_json else click.echo(revision or "none")
    if revision != needed:
        raise Unavailable(f"this program needs revision {needed}; run `ctbatch db upgrade`")
