"""The champion: which model version new jobs get, which came before it, and what is in use."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import one_at_a_time
from db.models import OPEN_JOB, Job, ModelVersion, Promotion, PromotionKind, User


class RollbackRefused(Exception):
    """There is no going back like this; one line for people says why."""


class NoEarlierChampion(RollbackRefused):
    """There is no champion before this one to go back to."""


def champion(s: Session) -> ModelVersion | None:
    """The model version that new jobs get."""
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
    """Make a model version the champion; jobs that exist keep theirs. `db.evaluation.promotion` asks the gate first."""
    promotion = Promotion(
        model_version_id=version.id, user_id=user.id if user else None, reason=reason, gate=gate or {}, kind=kind
    )
    s.add(promotion)
    s.flush()
    return promotion


def promote_first(
    s: Session, version: ModelVersion, reason: str, user: User | None = None, who: str = ""
) -> ModelVersion:
    """Make a version the champion where there is none, without the gate; return the champion.

    `who` names one whom this database does not know.
    """
    one_at_a_time(s, Promotion.__tablename__)  # an admin may promote another at this moment
    if (found := champion(s)) is not None:
        return found
    promote(s, version, user, reason, {"who": who} if who else None)
    return version


def champion_before(s: Session) -> ModelVersion | None:
    """The champion that a rollback brings back; promotions that a rollback undid no longer count."""
    standing: list[ModelVersion] = []
    for each in reversed(promotions(s)):
        version = each.model_version
        if each.kind == PromotionKind.ROLLBACK and version in standing:
            while standing[-1] is not version:
                standing.pop()
        elif version not in standing[-1:]:
            standing.append(version)
    return standing[-2] if len(standing) > 1 else None


def rollback(
    s: Session, user: User | None, reason: str, who: str = "", champion_seen: str | None = None
) -> ModelVersion:
    """Promote the champion before the current one again, without the gate.

    `who` names one whom this database does not know; `champion_seen` is the label of the champion that is rolled back,
    where whoever asks was shown one: two who ask at once go back one step and not two.

    Raises RollbackRefused: a reason is missing, the champion is another one by now, or NoEarlierChampion.
    """
    one_at_a_time(s, Promotion.__tablename__)
    now, earlier = champion(s), champion_before(s)
    if champion_seen and now is not None and now.label != champion_seen:
        raise RollbackRefused(f"the champion changed meanwhile: it is {now.label} by now")
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
    """Every promotion, newest first."""
    return list(s.scalars(select(Promotion).order_by(Promotion.id.desc())))


def versions_in_use(s: Session) -> set[int]:
    """Return the ids of the champion and of the versions that open jobs are predicted with."""
    now = champion(s)
    used = s.scalars(select(Job.model_version_id).where(Job.state.in_(OPEN_JOB)).distinct())
    return {*used, *([now.id] if now else [])}
