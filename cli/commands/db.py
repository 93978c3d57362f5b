"""`ctbatch db`: upgrades the database to the revision that this program needs, backs it up and restores it."""

from pathlib import Path

import click

from cli.local.session import database_errors
from cli.options import json_option
from cli.output import print_json, say


@click.group()
def db() -> None:
    """Upgrade the database, show its revision, back it up and restore it.

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
        revision = migrate.current()
        print_json({"revision": revision, "needed": migrate.head()}) if as_json else click.echo(revision or "none")
        migrate.check_revision()


@db.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def backup(file: Path, as_json: bool) -> None:
    """Copy the SQLite database to the new file FILE, which only you can read. ctbatch may keep running.

    Afterwards, also back up the stored files. If the database is PostgreSQL, use pg_dump instead of this command.
    """
    from db.backup import copy_database

    with database_errors():
        copy_database(file)
    size = file.stat().st_size
    print_json({"copy": str(file), "bytes": size}) if as_json else say(f"copied the database to {file}: {size:,} bytes")


@db.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def restore(file: Path, as_json: bool) -> None:
    """Replace the SQLite database with FILE, which `ctbatch db backup` or an upgrade made.

    Stop all processes first. ctbatch replaces nothing while a process uses the database. FILE is checked first, and is
    not changed. The replaced database is kept beside the new one. Also restore the stored files, from a backup that is
    as new as FILE or newer.
    """
    from cli.remote.find_server import only_one
    from db import migrate
    from db.backup import restore_database
    from db.settings import get_settings

    settings = get_settings()
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with database_errors(), only_one(settings):
        replaced = restore_database(file, migrate.check_known)
        revision = migrate.current()
        is_old = revision != migrate.head()
    if as_json:
        print_json({"revision": revision, "replaced": None if replaced is None else str(replaced)})
        return
    if replaced is not None:
        say(f"the replaced database is now {replaced}; delete it when you no longer need it")
    say("users that were disabled and tokens that were revoked after the backup work again; see `ctbatch users ls`")
    say(f"the database is at revision {revision}{'; run `ctbatch db upgrade`' if is_old else ''}")
