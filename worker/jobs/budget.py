"""What the decoders may spend on one upload, so that an archive of slow files cannot keep them busy for days."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db.database import current
from db.ledger import recording
from db.ledger.recording import ReadSlice
from db.models import Upload
from worker.imaging.rejections import SliceRejected

FAILURES = 50  # files of one upload that may crash a decoder or use up its time
COSTLY = ("decoder_crash", "decoder_timeout")
OVER_BUDGET = SliceRejected(
    "decoder_budget",
    "Not decoded: other files of this upload crashed the decoder too often or used up its time."
    " Send it again without them.",
)


@dataclass
class Budget:
    """What is left for an upload: files that may fail in a costly way, and seconds of the decoders' processor time."""

    failures: int
    seconds: float

    @classmethod
    def left(cls, s: Session, upload: Upload) -> "Budget":
        """Return what earlier readings have left of the upload's budget."""
        failures = FAILURES - recording.count_rejected(s, upload.id, COSTLY)
        return cls(failures, current().upload_decode_seconds - upload.decode_seconds)

    def spend(self, rows: Iterable[ReadSlice], seconds: float) -> None:
        """Take off what these rows have cost."""
        self.failures -= sum(row.reason in COSTLY for row in rows)
        self.seconds -= seconds

    @property
    def is_spent(self) -> bool:
        return self.failures <= 0 or self.seconds <= 0
