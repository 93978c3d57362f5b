"""What the proofs of engines found, machine by machine."""

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from db.base import one_at_a_time
from db.models import EngineProof


def record(s: Session, version_id: int, result: dict[str, Any]) -> None:
    """Keep the result of a proof, in place of the earlier one of the same host, model version and engine."""
    one_at_a_time(s, EngineProof.__tablename__)
    s.execute(
        delete(EngineProof).where(
            EngineProof.host == result["host"],
            EngineProof.model_version_id == version_id,
            EngineProof.engine == result["engine"],
        )
    )
    s.add(EngineProof(model_version_id=version_id, **result))


def list_proofs(s: Session, *, host: str | None = None, version_id: int | None = None) -> list[EngineProof]:
    """List the newest result of each host, model version and engine, the newest first."""
    query = select(EngineProof).order_by(EngineProof.created_at.desc(), EngineProof.id.desc())
    if host is not None:
        query = query.where(EngineProof.host == host)
    if version_id is not None:
        query = query.where(EngineProof.model_version_id == version_id)
    return list(s.scalars(query))
