"""`ctbatch db`: brings the database to the revision of this program, and says which one it has."""

import click

from cli.errors import CommandError
from cli.local.session import database_errors
from cli.options import json_option
from cli.output import print_json, say


class NotUpgraded(CommandError):
    """The database is at another revision than this program needs."""

    exit_code = 4


@click.group()
def db() -> None:
    """Upgrade the database of this machine's settings, and show its revision."""


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Create the tables, or bring them to this program's revision. Safe to run again."""
    from db import migrate

    with database_errors():
        migrate.upgrade()
        revision = migrate.current()
    print_json({"revision": revision}) if as_json else say(f"the database is at revision {revision}")


@db.command()
@json_option
def current(as_json: bool) -> None:
    """Show the database's revision and the one that this program needs; exit code 4 where they differ."""
    from db import migrate

    with database_errors():
        revision, needed = migrate.current(), migrate.head()
    if as_json:
        print_json({"revision": revision, "needed": needed})
    else:
        click.echo(revision or "none")
    if revision != needed:
        raise NotUpgraded(f"this program needs revision {needed}; run `ctbatch db upgrade`")
