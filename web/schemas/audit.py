"""Schemas of the audit trail."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from pydantic import Field

from db.access.audit import Filter
from db.ledger.views import Moment
from web.schemas.common import ListQuery, Out

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]


class AuditQuery(ListQuery):
    """The events to list, and the page to return. An empty text matches all events."""

    actor: Text = Field("", max_length=100, description="Only what this user did, or an actor with this `via`.")
    action: Text = Field("", max_length=40, description="Only this action, or all on one kind, for example `job`.")
    object: Text = Field("", max_length=200, description="Only what was done to this, for example `job JOB_ID`.")
    since: date | None = Field(None, description="Only from this day on (UTC).")
    until: date | None = Field(None, le=date(9000, 1, 1), description="Only until the end of this day (UTC).")

    def filter(self) -> Filter:
        """Return the events to list."""
        after = None if self.until is None else _midnight(self.until) + timedelta(days=1)
        return Filter(
            self.actor, self.action, self.object, None if self.since is None else _midnight(self.since), after
        )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class AuditEventOut(Out):
    """Something that somebody did, or was not allowed to do.

    `actor`: the name of the user, or null if nobody was signed in. `via`: what the actor was signed in
    with: `session`, `token` and its id, `password`, `link`, or the person at the command line.
    """

    id: int
    at: Moment
    actor: str | None
    via: str
    address: str | None = Field(description="The client's IP address.")
    action: str
    object: str
    detail: str


class AuditPage(Out):
    """Events, newest first."""

    items: list[AuditEventOut]
    next_cursor: str | None
