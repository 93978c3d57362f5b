"""Decides whether a confined process may run on a machine that cannot set the system call filter."""

from db.database import current
from worker.imaging.sandbox.protocol import FILTER_OPTIONAL, FILTER_REQUIRED


def filter_choice() -> str:
    """Return the argument by which a confined process learns whether it must set the filter.

    CTBATCH_ALLOW_UNFILTERED_DECODERS decides.
    """
    return FILTER_OPTIONAL if current().allow_unfiltered_decoders else FILTER_REQUIRED
