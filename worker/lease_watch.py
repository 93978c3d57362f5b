"""Decides why a lease ran out: because its worker is lost, or because the database or the machine paused."""

import logging
from datetime import datetime

from db.database import current

log = logging.getLogger(__name__)


class LeaseWatch:
    """Gets the database's time at each sweep, and notices gaps in which the database could not be reached.

    During a gap, no worker could renew its lease. So after a gap, live workers get the time of one heartbeat and one
    sweep to renew their leases. The start of this process counts as a gap, because there may have been one before.
    """

    def __init__(self) -> None:
        self._looked_at: datetime | None = None
        self._judge_from: datetime | None = None

    def may_judge(self, now: datetime) -> bool:
        """Return whether a lease that has run out is lost. `now`: the time of the database."""
        settings = current()
        before, self._looked_at = self._looked_at, now
        if before is None or abs((now - before).total_seconds()) > settings.lease_seconds / 2:
            self._judge_from = now + settings.time_to_renew
            log.info("leases that have run out are judged later", extra={"from": self._judge_from.isoformat()})
        return self._judge_from is None or now >= self._judge_from
