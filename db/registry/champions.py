"""The champion (the model version that new jobs get), promotions and rollbacks."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.broker import Queue, wake_after_commit
from db.models import OPEN_JOB, Job, ModelVersion, Promotion, PromotionKind, User
from db.models.base import Json

ACTIONS = {PromotionKind.PROMOTION: Action.MODEL_PROMOTE, PromotionKind.ROLLBACK: Action.MODEL_ROLL_BACK}


def champion(s: Session) -> ModelVersion | None:
    """Return the model version that new jobs get, or None."""
    promotion = s.scalar(select(Promotion).order_by(Promotion.id.desc()).limit(1))
    return promotion.model_version if promotion else None


def record_promotion(
    s: Session,
    version: ModelVersion,
    user: User | None,
    reason: str,
    gate: Json | None = None,
    kind: PromotionKind = PromotionKind.PROMOTION,
) -> Promotion:
    """Make a model version the champion without a check. Existing jobs keep their version."""
    promotion = Promotion(
        model_version_id=version.id, user_id=user.id if user else None, reason=reason, gate=gate or {}, kind=kind
    )
    s.add(promotion)
    s.flush()
    record(s, ACTIONS[kind], f"model {version.label}")
    wake_after_commit(s, Queue.INFERENCE)  # an idle worker loads the new champion
    return promotion


def champion_before(s: Session) -> ModelVersion | None:
    """Return the version that a rollback would make the champion again, or None.

    Promotions that were rolled back do not count.
    """
    standing: list[ModelVersion] = []
    for promotion in reversed(promotions(s)):
        version = promotion.model_version
        if promotion.kind == PromotionKind.ROLLBACK and version in standing:
            while standing[-1] is not version:
                standing.pop()
        elif version not in standing[-1:]:
            standing.append(version)
    return standing[-2] if len(standing) > 1 else None


def promotions(s: Session) -> list[Promotion]:
    """Return every promotion, newest first."""
    return list(s.scalars(select(Promotion).order_by(Promotion.id.desc())))


def versions_in_use(s: Session) -> set[int]:
    """Return the ids of the champion and of the versions that open jobs are predicted with."""
    now = champion(s)
    used = s.scalars(select(Job.model_version_id).where(Job.state.in_(OPEN_JOB)).distinct())
    return {*used, *([now.id] if now else [])}
