"""All tables."""

from db.models.accounts import RequestKey, SignInCount, SignInLink, Token, User
from db.models.audit import AuditEvent, AuditSeal
from db.models.datasets import Dataset, LabelledSlice, Review, Split, SplitRule
from db.models.findings import Finding, Level
from db.models.installation import DamagedFile, Installation, ReleasedFile
from db.models.jobs import OPEN_JOB, Chunk, Job, JobState, Upload, deleted_jobs
from db.models.registry import EngineProof, ModelVersion, Promotion, PromotionKind
from db.models.slices import Outcome, Patient, Prediction, Series, Slice, Study
from db.models.timing import StageSlot, StageTime, StageTimes
from db.models.training import Epoch, Evaluation, TrainingRun
from db.models.work import OPEN_WORK, LeaseMixin, Work

__all__ = [
    "OPEN_JOB",
    "OPEN_WORK",
    "AuditEvent",
    "AuditSeal",
    "Chunk",
    "DamagedFile",
    "Dataset",
    "EngineProof",
    "Epoch",
    "Evaluation",
    "Finding",
    "Installation",
    "Job",
    "JobState",
    "LabelledSlice",
    "LeaseMixin",
    "Level",
    "ModelVersion",
    "Outcome",
    "Patient",
    "Prediction",
    "Promotion",
    "PromotionKind",
    "ReleasedFile",
    "RequestKey",
    "Review",
    "Series",
    "SignInCount",
    "SignInLink",
    "Slice",
    "Split",
    "SplitRule",
    "StageSlot",
    "StageTime",
    "StageTimes",
    "Study",
    "Token",
    "TrainingRun",
    "Upload",
    "User",
    "Work",
    "deleted_jobs",
]
