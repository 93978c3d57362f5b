"""Leases that end because their worker was lost, and workers that are asked to stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from sqlalchemy import update

from db.clock import from_now
from db.database import session_scope
from db.ledger import leases
from db.models import LeaseMixin, Work
from worker.heartbeat import StopRequest


def let_leases_end(*models: type[LeaseMixin]) -> None:
    """As if the workers of all running rows of these tables were lost, and the sweeper had noticed."""
    for model in models:
        with session_scope() as s:
            s.execute(update(model).where(model.state == Work.RUNNING).values(lease_until=from_now(-1)))
            leases.free_expired(s, model)


@contextmanager
def asked_to_stop() -> Iterator[None]:
    """Let this process be one whose worker was asked to stop."""
    with patch.object(StopRequest, "is_set", return_value=True):
        yield
