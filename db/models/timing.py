"""The processor time of each stage, summed over all processes."""

from pydantic import Field
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import NO_FILE, Base
from db.models.documents import Document, DocumentType


class StageTime(Document):
    """The core-seconds of a stage, and how many slices are in each bucket of `db.timing.stages.BOUNDS`."""

    seconds: float = 0.0
    counts: list[int] = Field(default_factory=list)


class StageTimes(Document):
    """The time of each stage, by its name."""

    stages: dict[str, StageTime] = Field(default_factory=dict)


class StageSlot(Base):
    """A part of the sums. Each process adds to one of a few rows, so that processes seldom wait for each other."""

    __tablename__ = "stage_slot"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    times: Mapped[StageTimes] = mapped_column(DocumentType(StageTimes), info=NO_FILE)
