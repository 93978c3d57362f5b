"""Stores the results of engine proofs on each machine, and finds which engine serves there.

Only machines count on which an inference worker runs. The worker renews the rows of its host (`keep_seen`).
"""

import socket
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, exists, select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.database import lock_table
from db.models import EngineProof, ModelVersion
from db.registry.champions import versions_in_use

State = Literal["used", "fallen back", "refused"]

PRECISIONS = {"int8": "int8", "bf16": "bfloat16", "f32": "float32"}
LIBRARIES = {"openvino": "OpenVINO", "keras": "Keras"}
SEEN_SECONDS = 60.0  # pause between two renewals of a host's rows
GONE_SECONDS = 300.0  # after this time without a renewal, the worker of a host counts as gone
KEPT_SECONDS = 86400.0  # how long rows of a host whose worker is gone are kept
RESULTS = ("engine", "precision", "passed", "largest_difference", "seconds", "text")


@dataclass(frozen=True)
class Serving:
    """Which engine serves a model version on one host.

    `proofs`: the results of the last time that the host loaded the version, at least one. They are in the order in
    which the engines were tried, the quickest first. Loading ends with the first engine that passes.
    """

    host: str
    version: ModelVersion
    proofs: tuple[EngineProof, ...]

    def loaded_after(self, moment: datetime | None) -> bool:
        """Return whether the host loaded the version after a moment."""
        return moment is None or self.proofs[-1].created_at > moment

    @property
    def engine(self) -> str | None:
        """The engine that predicts on this host, or None if the host refuses to predict."""
        return self.proofs[-1].engine if self.proofs[-1].passed else None

    @property
    def failed(self) -> tuple[EngineProof, ...]:
        """The failed proofs, whose engines are not used on this host."""
        return tuple(proof for proof in self.proofs if not proof.passed)

    @property
    def state(self) -> State:
        """State whether the quickest engine serves, or a slower one, or none."""
        if self.engine is None:
            return "refused"
        return "fallen back" if self.failed else "used"

    @property
    def processor(self) -> str:
        """The host's processor, for people."""
        return self.proofs[-1].processor

    @property
    def checked_at(self) -> datetime:
        """When the host last loaded the version."""
        return self.proofs[-1].created_at

    @property
    def message(self) -> str:
        """State what serves on this host, as one sentence for people."""
        host, label = self.host, self.version.label
        if self.state == "refused":
            return f"{host} refuses to predict with {label}; its slices wait for another worker."
        if self.state == "used":
            return f"{self.engine} predicts with {label} on {host}."
        left = [_precision(proof) for proof in self.failed]
        verb = "is" if len(left) == 1 else "are"
        instead = _precision(self.proofs[-1])
        return f"{' and '.join(left)} {verb} not used on {host} for {label}; {instead} serves instead."

    @property
    def reasons(self) -> list[str]:
        """Why each engine that is not used failed."""
        return [proof.text for proof in self.failed]

    @property
    def advice(self) -> str:
        """What an operator can do, or "" if the quickest engine serves."""
        library = LIBRARIES.get(self.proofs[0].engine.partition("-")[0], "engine")
        if self.state == "refused":
            return (
                f"Import or train a version that passes, update the machine's {library}, or start a worker with another"
                " CTBATCH_ENGINE."
            )
        if self.state == "used":
            return ""
        return (
            f"Its answers pass, but it is slower. To use {_precision(self.proofs[0])} here, update the machine's"
            f" {library} and restart its worker, or import or train a version that passes."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the facts in the form of the API."""
        return {
            "host": self.host,
            "processor": self.processor,
            "model_version": self.version.label,
            "state": self.state,
            "engine": self.engine,
            "message": self.message,
            "advice": self.advice,
            "checked_at": self.checked_at.isoformat(),
            "proofs": [{name: getattr(proof, name) for name in RESULTS} for proof in self.proofs],
        }


def _precision(proof: EngineProof) -> str:
    return PRECISIONS.get(proof.precision, proof.engine)


def record_load(s: Session, version_id: int, results: Sequence[Mapping[str, Any]]) -> None:
    """Store the results of one load of a version, in the order in which the engines were tried.

    They replace all earlier results of the same host and version. If the earlier results stayed, some would be of
    engines that this load did not try, and that do not serve now.
    """
    lock_table(s, EngineProof)
    for host in {result["host"] for result in results}:
        s.execute(delete(EngineProof).where(EngineProof.host == host, EngineProof.model_version_id == version_id))
    for result in results:
        s.add(EngineProof(model_version_id=version_id, **result))
        s.flush()  # insert them one after the other, so that their ids keep the order


def keep_seen(s: Session, host: str) -> None:
    """Note that an inference worker runs on this host, so that the host's rows count."""
    s.execute(update(EngineProof).where(EngineProof.host == host).values(seen_at=from_now()))


def forget_gone(s: Session) -> None:
    """Remove rows of hosts whose worker has been gone for long."""
    s.execute(delete(EngineProof).where(EngineProof.seen_at < from_now(-KEPT_SECONDS)))


def _is_running() -> ColumnElement[bool]:
    """Return the condition that an inference worker runs on the host of a row."""
    return EngineProof.seen_at > from_now(-GONE_SECONDS)


def list_servings(s: Session, *, host: str | None = None, version_id: int | None = None) -> list[Serving]:
    """List which engine serves each model version on each host, sorted by host, then the newest version first.

    Hosts on which no inference worker runs any more are left out.
    """
    conditions = []
    if host is not None:
        conditions.append(EngineProof.host == host)
    if version_id is not None:
        conditions.append(EngineProof.model_version_id == version_id)
    return _servings(s, *conditions)


def serving_since(s: Session, version: ModelVersion, moment: datetime | None) -> set[str]:
    """Return the engines that were loaded after `moment` and predict with a version on this host.

    If there are none on this host, return those of other hosts.
    """
    servings = [one for one in list_servings(s, version_id=version.id) if one.engine and one.loaded_after(moment)]
    here = [serving for serving in servings if serving.host == socket.gethostname()]
    return {serving.engine for serving in here or servings if serving.engine}


def why_not_proven(s: Session, version: ModelVersion) -> str | None:
    """Return why an imported version may not be promoted yet, or None if it may be.

    Return None for a version that was made here, because its metrics were measured here.
    """
    if version.facts.imported is None:
        return None
    servings = list_servings(s, version_id=version.id)
    if any(serving.engine for serving in servings):
        return None
    if not servings:
        return "it was imported and not tried here yet; an idle inference worker tries it, so ask again in some minutes"
    reasons = [reason for serving in servings for reason in serving.reasons]
    return f"it was imported, and no machine here can use it: {'; '.join(dict.fromkeys(reasons))}"


def next_untried(s: Session, host: str) -> ModelVersion | None:
    """Return an imported version that this host has not tried, and that has passed on no running machine, or None."""
    proof = exists().where(EngineProof.model_version_id == ModelVersion.id)
    untried = select(ModelVersion).where(
        ~proof.where(EngineProof.passed, _is_running()), ~proof.where(EngineProof.host == host)
    )
    versions = s.scalars(untried.order_by(ModelVersion.id))
    return next((version for version in versions if version.facts.imported is not None), None)


def is_any_untried(s: Session) -> bool:
    """Return whether an imported version has been tried on no running machine."""
    proof = exists().where(EngineProof.model_version_id == ModelVersion.id, _is_running())
    return any(version.facts.imported is not None for version in s.scalars(select(ModelVersion).where(~proof)))


def _servings(s: Session, *conditions: ColumnElement[bool]) -> list[Serving]:
    query = select(EngineProof).order_by(EngineProof.host, EngineProof.model_version_id.desc(), EngineProof.id)
    loads = groupby(
        s.scalars(query.where(_is_running(), *conditions)), key=lambda proof: (proof.host, proof.model_version_id)
    )
    grouped = [(name, tuple(proofs)) for (name, _), proofs in loads]
    return [Serving(name, proofs[0].model_version, proofs) for name, proofs in grouped]


def refusals(s: Session, version_ids: Collection[int]) -> dict[int, str]:
    """Return a message for each version with which no host can predict, by version id.

    Only hosts that loaded the version, and on which an inference worker runs, count.
    """
    servings: dict[int, list[Serving]] = defaultdict(list)
    for serving in _servings(s, EngineProof.model_version_id.in_(version_ids)) if version_ids else ():
        servings[serving.version.id].append(serving)
    return {
        version_id: f"No worker has an engine that may predict with {first.version.label}: {'; '.join(first.reasons)}. "
        f"{first.advice}"
        for version_id, (first, *others) in servings.items()
        if all(serving.state == "refused" for serving in (first, *others))
    }


def refusal(s: Session, version: ModelVersion) -> str | None:
    """Return a message if no host can predict with a version, as `refusals` does, or None."""
    return refusals(s, {version.id}).get(version.id)


def list_concerns(s: Session, servings: Sequence[Serving]) -> list[Serving]:
    """List the servings that an operator should look at, refusals first.

    In these, the host refuses a version that is in use, or predicts with it on a slower engine than the quickest.
    """
    in_use = versions_in_use(s)
    concerns = [serving for serving in servings if serving.state != "used" and serving.version.id in in_use]
    return sorted(concerns, key=lambda serving: serving.state != "refused")
