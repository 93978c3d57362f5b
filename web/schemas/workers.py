"""Schemas of inference workers and their proofs."""

from pydantic import Field

from db.ledger.views import Moment
from db.registry.engine_proofs import State as ServingState
from web.schemas.common import Out


class ProofOut(Out):
    """The result of an engine's proof on a machine.

    `largest_difference`: how far a calibrated probability of the engine is from float32's, at most.
    """

    engine: str
    precision: str
    passed: bool
    largest_difference: float | None
    seconds: float
    text: str


class WorkerOut(Out):
    """Which engine serves a model version on a machine, since the machine last loaded the version."""

    host: str
    processor: str
    model_version: str
    in_use: bool = Field(description="Whether the version is the champion, or open jobs are predicted with it.")
    state: ServingState = Field(
        description="`used`: the fastest engine predicts. `fallen back`: a slower engine predicts."
        " `refused`: no engine predicts, and slices wait for another worker."
    )
    engine: str | None = Field(description="The engine that predicts.")
    message: str
    advice: str = Field(description="What to do if the fastest engine does not predict. Otherwise empty.")
    checked_at: Moment
    proofs: list[ProofOut] = Field(description="The fastest engine first.")
    links: dict[str, str]


class WorkerList(Out):
    """The engines that predict on each machine, sorted by host."""

    items: list[WorkerOut]
    next_cursor: None = None
