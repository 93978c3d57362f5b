"""All tables."""

from db.models.accounts import SignInLink, Token, User
from db.models.jobs import OPEN_JOB, Chunk, Job, JobState
from db.models.lease import OPEN_WORK, LeaseMixin, Work
from db.models.registry import ModelVersion, Promotion, TrainingRun
from db.models.scans import Outcome, Prediction, Series, Slice
from db.models.uploads import Upload

__all__ = [
    "OPEN_JOB",
    "OPEN_WORK",
    "Chunk",
    "Job",
    "JobState",
    "LeaseMixin",
    "ModelVersion",
    "Outcome",
    "Prediction",
    "Promotion",
    "Series",
    "SignInLink",
    "Slice",
    "Token",
    "TrainingRun",
    "Upload",
    "User",
    "Work",
]
