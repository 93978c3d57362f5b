"""Schemas of model versions, checks and promotions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from db.evaluation.evaluations import EvaluationState, EvaluationView
from db.ledger.views import Moment
from web.schemas.common import In, ModelLabel, Named, Out

Reason = Annotated[str, Field(max_length=500, description="Kept with the promotion.")]


class CalibrationOut(Out):
    """The temperature and the threshold of an engine. They turn its scores into probabilities and labels."""

    temperature: float
    threshold: float


class ExportQuery(In):
    """What an export holds."""

    with_slices: Literal["0", "1"] = Field("0", description="1: include the report and the figures that show slices.")


class ModelOut(Out):
    """A model version."""

    id: int
    name: str
    number: int
    label: str
    note: str
    recipe: str
    threshold: float
    temperature: float
    calibration: dict[str, CalibrationOut] = Field(description="Engines with a calibration of their own, by name.")
    metrics: dict[str, Any]
    parity: dict[str, Any]
    dataset_hash: str | None
    created_at: Moment
    champion: bool


class ModelList(Out):
    """All model versions, newest first."""

    items: list[ModelOut]
    next_cursor: None = None


class PromotionOut(Out):
    """A promotion of a version. `verdict`: the gate's verdict, or `rollback`."""

    at: Moment
    by: str
    reason: str
    verdict: str
    overridden: bool
    champion: str | None = Field(description="The champion that the version replaced.")
    figures: dict[str, Any] = Field(description="The gate's comparison with that champion.")


class ModelDetail(ModelOut):
    """A model version: how it was made, its files, and its comparison with the champion."""

    ood: dict[str, Any]
    finding_rule: dict[str, Any] = Field(
        description="The rule by which slices become findings, and how it was tuned. A default rule has the threshold"
        " of float32. Jobs take the threshold of their engine, if it has one of its own in `calibration`."
    )
    facts: dict[str, Any]
    files: dict[str, str] = Field(description="SHA-256 by file name.")
    used_by: int = Field(description="How many jobs were predicted with the version.")
    checks: list[EvaluationView]
    gate: dict[str, Any] = Field(description="The promotion gate's verdict, reasons, notes and metrics.")
    promotions: list[PromotionOut] = Field(description="Newest first.")
    warning: str | None = Field(description="Why every running worker refuses to predict with the version. Jobs wait.")
    links: dict[str, str]


class PromoteIn(In):
    """Why a version becomes the champion.

    `reason` may be empty only if the version passed the gate. `force` promotes a version that is refused, not
    compared yet or cannot be compared.
    """

    reason: Reason = ""
    force: bool = False
    champion: ModelLabel | Literal[""] | None = Field(
        None, description="`name/number` of the champion that the version replaces. Empty: there is none."
    )


class RollbackIn(In):
    """Why the previous champion comes back. `reason` must not be empty."""

    reason: Reason = ""
    champion: ModelLabel | None = Field(default=None, description="`name/number` of the champion that is rolled back.")


class CheckIn(In):
    """The labelled slices that a model version is checked on."""

    dataset: Named = Field(description="`name/number`, a bare name (its newest), or an id.")


class CompareIn(In):
    """The version and the dataset that a model version is compared with."""

    with_model: ModelLabel = Field(description="`name/number` of the other version.")
    dataset: Named | None = Field(
        None, description="A whole dataset. Default: the test part of the first version's split."
    )


class ComparisonOut(Out):
    """A comparison of two model versions on the same slices. It has metrics and notes once it is finished."""

    model_version: str
    with_model: str
    dataset: str
    dataset_deleted: bool = Field(description="The dataset was deleted. Its results stay.")
    part: str | None
    state: EvaluationState
    slices: int | None
    groups: int | None = Field(description="Groups. Those that share identical or near-identical slices count as one.")
    named_groups: int | None = Field(description="Groups before they are joined like that.")
    class_groups: dict[str, int] = Field(description="Groups that have a slice of each class, joined as in `groups`.")
    engine: str | None = Field(description="The engine that measured both versions. Null if it is not the same.")
    figures: dict[str, Any] = Field(
        description="By metric: `candidate` (the first version), `champion` (the other version), their `difference`,"
        " its interval (`low`, `high`), and its one-sided p-value `p_lower`. Of the calibration error (`ece`), `low`,"
        " `high` and `p_lower` are null."
    )
    notes: list[str] = Field(
        description="Why metrics may be too good: which version was trained on some of these slices."
    )
    error: str | None
