"""`ctbatch audit`: lists the audit trail, and checks its seals."""

import click

from cli.errors import Refused
from cli.local.session import reading
from cli.options import json_option
from cli.output import print_json, print_rows, say
from db.access.audit import Filter, list_events, verify
from db.models import AuditEvent

PAGE = 1000
COLUMNS = ("id", "at", "actor", "via", "address", "action", "object", "detail")


@click.group()
def audit() -> None:
    """List the audit trail, and check its seals.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@audit.command("ls")
@click.option("--user", default="", metavar="NAME", help="List only what this user did.")
@click.option("--action", default="", help="List only this action, for example job.delete, or job for all on jobs.")
@click.option("--object", "object_", default="", help='List only what was done to this, for example "job JOB_ID".')
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="List so many. 0 means all.")
@json_option
def list_(user: str, action: str, object_: str, limit: int, as_json: bool) -> None:
    """List who did what, newest first."""
    wanted, cursor = Filter(user, action, object_), None
    views: list[dict[str, object]] = []
    with reading() as session:
        while True:
            page = list_events(session, wanted, cursor, min(PAGE, limit - len(views)) if limit else PAGE)
            views += [_view(event) for event in page.items]
            cursor = page.next_cursor
            if cursor is None or (limit and len(views) >= limit):
                break
    print_rows(views, COLUMNS, as_json, empty="no events")


@audit.command("verify")
@json_option
def verify_(as_json: bool) -> None:
    """Check that nobody changed or removed an event since the sweeper sealed it.

    Prints the digest of the last seal. Compare it with the newest line "audit trail sealed" in the sweeper's log. If
    the log is on another machine, a match shows that nobody made all seals anew.
    """
    with reading() as session:
        found = verify(session)
    if found.broken is not None:
        raise Refused(f"seal {found.broken} does not match its events: somebody changed or removed events")
    if as_json:
        print_json({"seals": found.seals, "events": found.events, "unsealed": found.unsealed, "digest": found.digest})
        return
    say(f"{found.events:,} events match their {found.seals:,} seals; {found.unsealed:,} events are not sealed yet")
    if found.digest:
        say(f"digest of the last seal: {found.digest}")


def _view(event: AuditEvent) -> dict[str, object]:
    return {column: getattr(event, column) for column in COLUMNS} | {"at": event.at.isoformat()}
