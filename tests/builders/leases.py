"""Leases that end because their worker was lost."""

from sqlalchemy import update

from db.clock import from_now
from db.database import session_scope
from db.ledger import leases
from db.models import LeaseMixin, Work


def let_leases_end(*models: type[LeaseMixin]) -> None:
    """As if the workers of all running rows of these tables were lost, and the sweeper had noticed."""
    for model in models:
        with session_scope() as s:
            s.execute(update(model).where(model.state == Work.RUNNING).values(lease_until=from_now(-1)))
            leases.free_expired(s, model)
