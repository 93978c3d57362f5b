"""Decides why a lease ran out: because its worker is lost, or because the database or the machine paused."""

import logging
from datetime import datetime

from db.database import current

log = logging.getLogger(__name__)


class LeaseWatch:
    """Gets the database's time at each sweep, and notices gaps in which nobody could write to the database.

    During a gap, no worker could renew its lease. So after a gap, live workers get the time of one heartbeat and one
    sweep to renew their leases. Only a committed write ends a gap, because a database on a full disk can still be read.
    The start of this process counts as a gap, because there may have been a gap before the start.
    """

    def __init__(self) -> None:
        self._wrote_at: datetime | None = None
        self._judge_from: datetime | None = None

    def wrote(self, at: datetime) -> None:
        """Note that a transaction which wrote was committed. `at`: the time of the database during it."""
        self._wrote_at = at

    def may_judge(self, now: datetime) -> bool:
        """Return whether a lease that has run out is lost. `now`: the time of the database."""
        settings = current()
        if self._wrote_at is None or abs((now - self._wrote_at).total_seconds()) > settings.lease_seconds / 2:
            self._judge_from = now + settings.time_to_renew
            log.info("leases that have run out are judged later", extra={"from": self._judge_from.isoformat()})
        return self._judge_from is None or now >= self._judge_from
