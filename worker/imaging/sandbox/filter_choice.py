"""Whether a confined process may run on a machine that cannot set its system call filter."""

from db.database import current
from worker.imaging.sandbox.protocol import FILTER_OPTIONAL, FILTER_REQUIRED


def filter_choice() -> str:
    """Return what a process is told at its start, by `CTBATCH_ALLOW_UNFILTERED_DECODERS`."""
    return FILTER_OPTIONAL if current().allow_unfiltered_decoders else FILTER_REQUIRED
