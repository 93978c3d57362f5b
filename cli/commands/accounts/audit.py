"""`ctbatch audit`: lists the audit trail, and checks its seals."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.orm import Session

from cli.errors import Refused
from cli.local.session import reading
from cli.options import FILE, json_option
from cli.output import print_json, print_table, say
from db.access.audit import Filter, list_events, verify
from db.models import AuditEvent

PAGE = 1000
COLUMNS = ("id", "at", "actor", "via", "address", "action", "object", "detail")
DAY = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"])
_SEALED = re.compile(r'audit trail sealed".* seal=(\d+) .*digest=([0-9a-f]{64})')


@click.group()
def audit() -> None:
    """List the audit trail, and check its seals.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@audit.command("ls")
@click.option(
    "--user", default="", metavar="NAME", help='List only what this user, or "root at the command line", did.'
)
@click.option("--action", default="", help="List only this action, for example job.delete, or job for all on jobs.")
@click.option("--object", "object_", default="", help='List only what was done to this, for example "job JOB_ID".')
@click.option("--since", type=DAY, help="List only events from this day or time on (UTC).")
@click.option("--until", type=DAY, help="List only events before this day or time (UTC).")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="List so many. 0 means all.")
@json_option
def list_(
    user: str, action: str, object_: str, since: datetime | None, until: datetime | None, limit: int, as_json: bool
) -> None:
    """List who did what, newest first."""
    wanted = Filter(user, action, object_, *(day and day.replace(tzinfo=UTC) for day in (since, until)))
    with reading() as session:
        views = (_view(event) for event in _events(session, wanted, limit))
        if as_json:
            _print_list(views)
        else:
            print_table(COLUMNS, [[view[name] for name in COLUMNS] for view in views], "no events")


def _events(session: Session, wanted: Filter, limit: int) -> Iterator[AuditEvent]:
    """Yield the events, at most `limit` of them. 0 means all."""
    cursor, left = None, limit
    while True:
        page = list_events(session, wanted, cursor, min(PAGE, left) if limit else PAGE)
        yield from page.items
        session.expunge_all()
        cursor, left = page.next_cursor, left - len(page.items)
        if cursor is None or (limit and not left):
            return


def _print_list(views: Iterator[dict[str, object]]) -> None:
    """Write a JSON list, with an event in each line. It may be longer than fits into memory."""
    separator = "[\n"
    for view in views:
        click.echo(separator + json.dumps(view, ensure_ascii=True), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


@audit.command("verify")
@click.option("--log", type=FILE, multiple=True, help="Also compare with the seals in this log of the sweeper.")
@json_option
def verify_(log: tuple[Path, ...], as_json: bool) -> None:
    """Check that nobody changed or removed an event since the sweeper sealed it.

    Somebody who can write to the database could make all seals anew. So keep the log of the sweeper on another machine,
    and give it by --log. ctbatch then compares each line "audit trail sealed" with the seals in the database.
    """
    logged = {seal: digest for path in log for seal, digest in _logged(path)}
    with reading() as session:
        found = verify(session, logged)
    if found.broken is not None:
        raise Refused(
            f"seal {found.broken} does not match its events or the log: somebody changed or removed events, or an older"
            " database was restored"
        )
    if as_json:
        print_json({name: getattr(found, name) for name in ("seals", "events", "unsealed", "last", "digest")})
        return
    say(f"{found.events:,} events match their {found.seals:,} seals; {found.unsealed:,} events are not sealed yet")
    if log:
        say(f"{len(logged):,} seals match the log")
    if found.digest:
        say(f"digest of seal {found.last}: {found.digest}")


def _logged(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the digest of each seal in a log."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if match := _SEALED.search(line):
                yield int(match[1]), match[2]


def _view(event: AuditEvent) -> dict[str, object]:
    return {column: getattr(event, column) for column in COLUMNS} | {"at": event.at.isoformat()}
