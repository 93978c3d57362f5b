"""Schemas of the audit trail."""

from pydantic import Field

from db.ledger.views import Moment
from web.schemas.common import ListQuery, Out


class AuditQuery(ListQuery):
    """The events to list, and the page to return. An empty text matches all events."""

    actor: str = Field("", max_length=64, description="Only what this user did.")
    action: str = Field("", max_length=40, description="Only this action, or all on one kind, for example `job`.")
    object: str = Field("", max_length=200, description="Only what was done to this, for example `job JOB_ID`.")


class AuditEventOut(Out):
    """Something that somebody did, or was not allowed to do.

    `actor`: the name of the user, or null if nobody was signed in. `via`: `session`, `token` and its id, or the person
    at the command line.
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
