"""Decides whether a lease that has run out was lost by its worker, or by a pause of the database or of the machine."""

import logging
from datetime import datetime

from db.database import current

log = logging.getLogger(__name__)


class LeaseWatch:
    """Looks at the database's clock again and again, and notices when it could not look for a while.

    During such a gap no worker could renew its lease. So after it, and after the start of this process, which knows
    nothing of the time before, live workers get the time of one heartbeat and one sweep to do so.
    """

    def __init__(self) -> None:
        self._looked_at: datetime | None = None
        self._judge_from: datetime | None = None

    def may_judge(self, now: datetime) -> bool:
        """Return whether a lease that has run out by `now`, the time of the database, is lost."""
        settings = current()
        before, self._looked_at = self._looked_at, now
        if before is None or abs((now - before).total_seconds()) > settings.lease_seconds / 2:
            self._judge_from = now + settings.time_to_renew
            log.info("leases that have run out are judged later", extra={"from": self._judge_from.isoformat()})
        return self._judge_from is None or now >= self._judge_from
