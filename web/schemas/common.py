"""What the shapes of the API share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from db import MAX_INTEGER, NAME

RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
Cursor = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[A-Za-z0-9_-]+$")]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Out(BaseModel):
    """What the API gives; a member that is not described here is a mistake."""

    model_config = ConfigDict(extra="forbid")


class ProblemOut(BaseModel):
    """An error (RFC 9457). `type` is stable; other members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


Named = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._/-]+$")]
ModelLabel = Annotated[str, Field(pattern=rf"^{NAME.pattern}/[0-9]{{1,9}}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
AsGiven = Annotated[
    bool,
    Field(description="Draw each group alone; else groups that share near-identical slices stay in one part."),
]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class ListQuery(BaseModel):
    """Which page of a list."""

    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200)
