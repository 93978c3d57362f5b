"""Changes the champion: by a promotion through the gate, by a rollback, or by the promotion of a first version."""

from datetime import datetime

from sqlalchemy.orm import Session

from db.database import lock_table, session_scope
from db.evaluation.gate import INCOMPARABLE, PENDING, Gate
from db.evaluation.result import PairedMetric
from db.evaluation.rule import PASSED, REFUSED
from db.models import ModelVersion, Promotion, PromotionKind, User
from db.models.kept import Kept
from db.registry import champions, engine_proofs, versions
from db.registry.demo_model import DemoModelDamaged, import_demo_model

FIRST = "the first model version"
DEMO = "the demo model, which ships with ctbatch"


class GateRecord(Gate):
    """The record that a promotion keeps: the gate, and whether a reason overrode it.

    `who`: the name of the person who promoted, if they have no account here. The record of a rollback has only the
    replaced champion and the person.
    """

    verdict: str = ""
    candidate: str = ""
    overridden: bool = False
    who: str = ""


class PromotionView(Kept):
    """A promotion of a version, for pages and the API. `verdict`: the gate's verdict, or `rollback`."""

    at: datetime
    by: str
    reason: str
    verdict: str
    overridden: bool
    champion: str | None
    figures: dict[str, PairedMetric]


class GateClosed(Exception):
    """The version may not be promoted like this. The message says why, and what to do."""


class RollbackRefused(Exception):
    """The rollback cannot be done like this. The message says why."""


class NoEarlierChampion(RollbackRefused):
    """There is no earlier champion to go back to."""


def promote(
    s: Session,
    version: ModelVersion,
    user: User | None,
    reason: str,
    gate: Gate,
    *,
    force: bool = False,
    who: str = "",
    champion_seen: str | None = None,
) -> Promotion:
    """Make a version the champion. The promotion keeps the gate, and whether `force` overrode it.

    `user`: the admin who is signed in, or None at the command line. `who`: the name of the person at the command line.
    `champion_seen`: the label of the champion that the person saw. It is empty if the person saw no champion, and None
    if nobody knows what they saw.

    Raises GateClosed: the user is not an admin; the version is the champion already; there is another champion than the
    one that the gate compared with, or that the person saw; the version was imported and no engine has passed with it
    here; it is refused, not compared yet or cannot be compared, and this is not forced; or a reason is missing.
    """
    lock_table(s, Promotion)
    now = champions.champion(s)
    if user is not None and not user.is_admin:
        raise GateClosed("only an admin promotes a model version")
    if now is not None and now.id == version.id:
        raise GateClosed(f"{version.label} is the champion already")
    label = now.label if now else None
    if gate.candidate != version.label or gate.champion != label or champion_seen not in (None, label or ""):
        raise GateClosed(_has_changed(now))
    if unproven := engine_proofs.why_not_proven(s, version):
        raise GateClosed(f"{version.label}: {unproven}")
    why = "; ".join(gate.reasons)
    overridden = gate.verdict in (REFUSED, PENDING, INCOMPARABLE)
    if overridden and not force:
        raise GateClosed(f"{version.label}: {gate.verdict} ({why})")
    if gate.verdict != PASSED and not reason.strip():
        raise GateClosed(f"{version.label}: {gate.verdict} ({why}); a promotion needs a reason")
    record = GateRecord(**dict(gate), overridden=overridden, who=who or (user.name if user else ""))
    return champions.record_promotion(s, version, user, reason.strip(), record.as_json())


def promote_first(
    s: Session, version: ModelVersion, reason: str = FIRST, user: User | None = None, who: str = ""
) -> ModelVersion:
    """If there is no champion, make a version the champion without the gate. Return the champion.

    `who`: the name of a person without an account here.
    """
    lock_table(s, Promotion)  # an admin may promote another version at this moment
    if (now := champions.champion(s)) is not None:
        return now
    record = GateRecord(who=who).as_json() if who else None
    champions.record_promotion(s, version, user, reason, record)
    return version


def promote_demo_model(recipe: str, user: User | None = None, *, reason: str = "", who: str = "") -> str:
    """If there is no champion, make the demo model that ships with ctbatch the champion. Return the champion's label.

    `reason` and `who` are kept with the promotion. Raises DemoModelDamaged.
    """
    label = import_demo_model(recipe)
    with session_scope() as s:
        version = versions.find_version(s, label)
        if version is None:
            raise DemoModelDamaged(f"{label} was removed meanwhile; try again")
        return promote_first(s, version, reason.strip() or DEMO, user, who).label


def rollback(
    s: Session, user: User | None, reason: str, who: str = "", champion_seen: str | None = None
) -> ModelVersion:
    """Make the previous champion the champion again, without the gate, and return it.

    `who`: the name of a person without an account here. `champion_seen`: the label of the champion that the person saw,
    or None. If two people roll back at the same time and give this label, the champion goes back one step, not two.

    Raises RollbackRefused: a reason is missing, or the champion has changed. Raises NoEarlierChampion.
    """
    lock_table(s, Promotion)
    now, earlier = champions.champion(s), champions.champion_before(s)
    if champion_seen and now is not None and now.label != champion_seen:
        raise RollbackRefused(_has_changed(now))
    if now is None:
        raise NoEarlierChampion("there is no champion yet")
    if earlier is None:
        raise NoEarlierChampion(f"there is no champion before {now.label} to go back to")
    if not reason.strip():
        raise RollbackRefused("a rollback needs a reason")
    record = GateRecord(champion=now.label, who=who or (user.name if user else ""))
    champions.record_promotion(s, earlier, user, reason.strip(), record.as_json(), PromotionKind.ROLLBACK)
    return earlier


def _has_changed(now: ModelVersion | None) -> str:
    if now is None:
        return "the champion has changed: no version is the champion now; look at the page again"
    return f"the champion has changed: it is {now.label} now; look at it again"


def promotions_of(s: Session, version: ModelVersion) -> list[PromotionView]:
    """Return all promotions of a version, newest first."""
    return [_view(one) for one in champions.promotions(s) if one.model_version_id == version.id]


def _view(promotion: Promotion) -> PromotionView:
    record = GateRecord(**promotion.gate)
    return PromotionView(
        at=promotion.created_at,
        by=promotion.user.name if promotion.user else record.who,
        reason=promotion.reason,
        verdict=promotion.kind if promotion.kind == PromotionKind.ROLLBACK else record.verdict,
        overridden=record.overridden,
        champion=record.champion,
        figures=record.figures,
    )
