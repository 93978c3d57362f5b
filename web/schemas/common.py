"""Types that the schemas of the API share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from db import LABEL, MAX_INTEGER
from db.ledger.views import View
from db.paging import Cursor


class Out(View):
    """The base of the API's answers. It can be filled from the attributes of a row or a view."""

    model_config = ConfigDict(from_attributes=True)


class In(BaseModel):
    """The base of what the API takes. A member that is not declared is an error, so that no wrong name is ignored."""

    model_config = ConfigDict(extra="forbid")


class ProblemOut(BaseModel):
    """An error (RFC 9457). `type` is stable. It decides which other members there are."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str


Named = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._/-]+$")]
ModelLabel = Annotated[str, Field(pattern=rf"^{LABEL.pattern}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
AsGiven = Annotated[
    bool,
    Field(
        description="Assign each group to a part independently of the others. "
        "By default groups that share near-identical slices stay in one part."
    ),
]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class ListQuery(In):
    """The page of a list to return."""

    cursor: Cursor | None = Field(None, description="The `next_cursor` of the previous page.")
    limit: int = Field(50, ge=1, le=200)
