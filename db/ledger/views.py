"""The base of what people and the API see of a job and its slices; each field is written here in `db.ledger` once."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

from db.models import JobState, Outcome

Label = Literal["COVID", "non-COVID"]
Moment = Annotated[datetime, PlainSerializer(datetime.isoformat, return_type=str, when_used="json")]
JobStateName = Annotated[JobState, WithJsonSchema({"type": "string", "enum": list(JobState)})]
OutcomeName = Annotated[Outcome, WithJsonSchema({"type": "string", "enum": list(Outcome)})]


class View(BaseModel):
    """Facts that do not change once they were read; a member that is not described is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")
