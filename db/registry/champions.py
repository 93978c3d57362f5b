"""The champion (the model version that new jobs get), promotions and rollbacks."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import lock_table
from db.models import OPEN_JOB, Job, ModelVersion, Promotion, PromotionKind, User


class RollbackRefused(Exception):
    """The champion cannot be rolled back; the message says why, in one line."""


class NoEarlierChampion(RollbackRefused):
    """There is no earlier champion to return to."""


def champion(s: Session) -> ModelVersion | None:
    """Return the model version that new jobs get, or None."""
    promotion = s.scalar(select(Promotion).order_by(Promotion.id.desc()).limit(1))
    return promotion.model_version if promotion else None


def promote(
    s: Session,
    version: ModelVersion,
    user: User | None,
    reason: str,
    gate: dict[str, Any] | None = None,
    kind: PromotionKind = PromotionKind.PROMOTION,
) -> Promotion:
    """Make a model version the champion, without the gate; existing jobs keep their version."""
    promotion = Promotion(
        model_version_id=version.id, user_id=user.id if user else None, reason=reason, gate=gate or {}, kind=kind
    )
    s.add(promotion)
    s.flush()
    return promotion


def promote_first(
    s: Session, version: ModelVersion, reason: str, user: User | None = None, who: str = ""
) -> ModelVersion:
    """Make a version the champion if there is no champion yet; return the champion.

    `who`: the name of somebody who is not a user of this database.
    """
    lock_table(s, Promotion)  # an admin may promote another at this moment
    if (now := champion(s)) is not None:
        return now
    promote(s, version, user, reason, {"who": who} if who else None)
    return version


def champion_before(s: Session) -> ModelVersion | None:
    """Return the champion that a rollback returns to, or None. Promotions that a rollback undid do not count."""
    standing: list[ModelVersion] = []
    for promotion in reversed(promotions(s)):
        version = promotion.model_version
        if promotion.kind == PromotionKind.ROLLBACK and version in standing:
            while standing[-1] is not version:
                standing.pop()
        elif version not in standing[-1:]:
            standing.append(version)
    return standing[-2] if len(standing) > 1 else None


def rollback(
    s: Session, user: User | None, reason: str, who: str = "", champion_seen: str | None = None
) -> ModelVersion:
    """Make the previous champion the champion again, without the gate.

    `who`: the name of somebody who is not a user of this database. `champion_seen`: the label of the champion that was
    shown to the person who asks; so two people who ask at once go back one step, not two.

    Raises RollbackRefused: a reason is missing, or the champion has changed; NoEarlierChampion.
    """
    lock_table(s, Promotion)
    now, earlier = champion(s), champion_before(s)
    if champion_seen and now is not None and now.label != champion_seen:
        raise RollbackRefused(f"the champion has changed: it is {now.label} now; look at it again")
    if now is None:
        raise NoEarlierChampion("there is no champion yet")
    if earlier is None:
        raise NoEarlierChampion(f"there is no champion before {now.label} to go back to")
    if not reason.strip():
        raise RollbackRefused("a rollback needs a reason")
    kept = {"champion": now.label, "who": who or (user.name if user else "")}
    promote(s, earlier, user, reason.strip(), kept, PromotionKind.ROLLBACK)
    return earlier


def promotions(s: Session) -> list[Promotion]:
    """Return every promotion, newest first."""
    return list(s.scalars(select(Promotion).order_by(Promotion.id.desc())))


def versions_in_use(s: Session) -> set[int]:
    """Return the ids of the champion and of the versions that open jobs are predicted with."""
    now = champion(s)
    used = s.scalars(select(Job.model_version_id).where(Job.state.in_(OPEN_JOB)).distinct())
    return {*used, *([now.id] if now else [])}
