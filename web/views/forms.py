"""What an address or a form says, as the same shapes that the API takes."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from web.errors import Problem

Q = TypeVar("Q", bound=BaseModel)


def parsed(model: type[Q], args: MultiDict[str, str]) -> Q:
    """The address's parameters; an address that makes no sense gives the plain list."""
    try:
        return model.model_validate(_given(args))
    except ValidationError:
        return model.model_validate({})


def form_values(model: type[Q], form: MultiDict[str, str], **lists: list[str]) -> Q:
    """A form's fields, those that were left empty by their defaults. Raises Problem 422 that names the field."""
    try:
        return model.model_validate(_given(form) | lists)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]).replace("_", " ") if first["loc"] else "form"
        raise Problem(422, "invalid", f"{where[:1].upper()}{where[1:]}: {first['msg']}.") from error


def _given(values: MultiDict[str, str]) -> dict[str, str | list[str]]:
    return {name: value for name, value in values.items() if value}
