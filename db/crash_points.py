"""Named points at which a process kills itself if a setting says so. Tests use them to crash a process there."""

import os
import signal

from db.database import current


def crash_point(name: str) -> None:
    """Die by SIGKILL if `CTBATCH_CRASH_AT` names this point. Otherwise do nothing."""
    if current().crash_at == name:
        os.kill(os.getpid(), signal.SIGKILL)
