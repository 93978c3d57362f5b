"""Limits what the decoders spend on one upload, so that an archive of slow files cannot keep them busy for days."""

from collections.abc import Iterable
from dataclasses import dataclass

from db.database import current
from db.ledger.recording import ReadSlice
from db.models import Upload
from db.reasons import DECODER_FAILED
from worker.imaging.rejections import SliceRejected

FAILURES = 50  # how many files of an upload may crash a decoder or use up its time
OVER_BUDGET = SliceRejected(
    "decoder_budget",
    "Not decoded: other files of this upload crashed the decoder too often or used up its time."
    " Retry the job, or send it again without them.",
)


def count_failures(rows: Iterable[ReadSlice]) -> int:
    """Return how many of these rows belong to files that crashed a decoder or used up its time."""
    return sum(row.reason in DECODER_FAILED for row in rows)


@dataclass
class Budget:
    """The rest of an upload's budget.

    `failures`: how many more files may crash a decoder or use up its time. `seconds`: how much more processor time the
    decoders may use.
    """

    failures: int
    seconds: float

    @classmethod
    def left(cls, upload: Upload) -> "Budget":
        """Return the rest of an upload's budget, after all earlier turns of reading the upload."""
        return cls(FAILURES - upload.decode_failures, current().upload_decode_seconds - upload.decode_seconds)

    def spend(self, failures: int, seconds: float) -> None:
        """Subtract the failures and the processor time of some files."""
        self.failures -= failures
        self.seconds -= seconds

    @property
    def is_spent(self) -> bool:
        return self.failures <= 0 or self.seconds <= 0
