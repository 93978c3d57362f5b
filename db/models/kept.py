"""The base class of values in JSON columns that have a fixed form."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Kept(BaseModel):
    """The value of a JSON column. It is frozen, and is checked when it is made or read."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    def as_json(self) -> dict[str, Any]:
        """Return the fields that were given, in the form that the column stores."""
        return self.model_dump(mode="json", exclude_unset=True)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON, for people and programs."""
        return self.model_dump(mode="json")
