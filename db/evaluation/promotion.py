"""A promotion through the gate: the version becomes the champion, and the figures it went by are kept."""

from typing import Any

from sqlalchemy.orm import Session

from db.database import lock_table
from db.evaluation.gate import PASSED, PENDING, REFUSED, Gate
from db.models import ModelVersion, Promotion, PromotionKind, User
from db.registry import champions


class GateClosed(Exception):
    """The version may not be promoted like this; one line for people says why and what would do."""


def promote(
    s: Session,
    version: ModelVersion,
    user: User | None,
    reason: str,
    gate: Gate,
    *,
    force: bool = False,
    who: str = "",
) -> Promotion:
    """Make a version the champion; the gate's figures are kept, and whether `force` overrode them.

    `user`: the admin; `who` names one whom this database does not know (somebody at the command line).

    Raises GateClosed: no admin, not compared yet, refused and not forced, a reason is missing, or the champion is
    another one than the gate compared with.
    """
    lock_table(s, Promotion)
    now = champions.champion(s)
    if user is not None and not user.is_admin:
        raise GateClosed("only an admin promotes a model version")
    if gate.candidate != version.label or gate.champion != (now.label if now else None):
        raise GateClosed("the champion changed meanwhile: look at the comparison again")
    why = "; ".join(gate.reasons)
    overridden = gate.verdict in (REFUSED, PENDING)
    if overridden and not force:
        raise GateClosed(f"{version.label} is {gate.verdict}: {why}")
    if gate.verdict != PASSED and not reason.strip():
        raise GateClosed(f"{version.label}: {gate.verdict} ({why}); a promotion needs a reason")
    kept = {**gate.as_dict(), "overridden": overridden, "who": who or (user.name if user else "")}
    return champions.promote(s, version, user, reason.strip(), kept)


def promotions_of(s: Session, version: ModelVersion) -> list[dict[str, Any]]:
    """When, by whom and why a version was promoted, newest first; what the gate said, and the figures it went by."""
    return [
        {
            "at": each.created_at.isoformat(),
            "by": each.user.name if each.user else each.gate.get("who", ""),
            "reason": each.reason,
            "verdict": each.kind if each.kind == PromotionKind.ROLLBACK else each.gate.get("verdict", ""),
            "overridden": each.gate.get("overridden", False),
            "champion": each.gate.get("champion"),
            "figures": each.gate.get("figures", {}),
        }
        for each in champions.promotions(s)
        if each.model_version_id == version.id
    ]
