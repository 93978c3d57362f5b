"""The base class and the types of the views of jobs and slices, which pages and the API show."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

from db.models import JobState, Outcome

Moment = Annotated[datetime, PlainSerializer(datetime.isoformat, return_type=str, when_used="json")]
JobStateName = Annotated[JobState, WithJsonSchema({"type": "string", "enum": list(JobState)})]
OutcomeName = Annotated[Outcome, WithJsonSchema({"type": "string", "enum": list(Outcome)})]


class View(BaseModel):
    """A view with facts from the database. A member that is not declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON, with times as RFC 3339."""
        return self.model_dump(mode="json")
