"""Sums processor time over all processes of all machines. A process adds its counts when it records its work."""

import os
import socket
import zlib
from functools import partial

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from db.database import after_commit
from db.models import StageSlot, StageTime, StageTimes
from db.timing import stages
from db.timing.stages import Spent, Stage

SLOTS = 64


def publish(s: Session) -> None:
    """Add the counts of this process to the sums in the database. Call this as the last step of a transaction.

    If the transaction does not commit, the counts are kept for the next call. If the process dies, they are lost.
    """
    pending = stages.counted()
    slot = _own_slot(s)
    sums = _spent_in(slot.times)
    for stage, spent in pending.items():
        sums.setdefault(stage, Spent()).add(spent)
    slot.times = StageTimes(stages={str(stage): StageTime(**vars(spent)) for stage, spent in sums.items()})
    s.flush()
    after_commit(s, partial(stages.forget, pending))


def sums(s: Session) -> dict[Stage, Spent]:
    """Return the sums over all processes. A stage without time has zeros."""
    total = {stage: Spent() for stage in Stage}
    for times in s.scalars(select(StageSlot.times)):
        for stage, spent in _spent_in(times).items():
            total[stage].add(spent)
    return total


def _own_slot(s: Session) -> StageSlot:
    """Return the row to which this process adds, locked."""
    number = zlib.crc32(f"{socket.gethostname()}:{os.getpid()}".encode()) % SLOTS
    query = select(StageSlot).where(StageSlot.id == number).with_for_update()
    query = query.execution_options(populate_existing=True)
    if (slot := s.scalar(query)) is None:
        insert = text("""INSERT INTO stage_slot (id, times) VALUES (:id, '{}') ON CONFLICT DO NOTHING""")
        s.execute(insert, {"id": number})
        slot = s.scalars(query).one()
    return slot


def _spent_in(times: StageTimes) -> dict[Stage, Spent]:
    return {Stage(name): Spent(one.seconds, list(one.counts)) for name, one in times.stages.items()}
