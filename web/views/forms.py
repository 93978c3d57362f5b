"""Checks form fields and query parameters by the schemas of the API. Makes pages that say what is wrong or was done."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from flask import Response, flash, make_response, render_template
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from db.datasets.deletion import days_until_files_are_gone
from web.errors import Problem, as_problem

P = ParamSpec("P")
Q = TypeVar("Q", bound=BaseModel)

NOT_ON_A_FORM = frozenset({401, 403, 404, 500})
"""Statuses that lead to the sign-in page or to a page of their own."""


def page_response(template: str, problem: Problem | None = None, **values: Any) -> Response:
    """Return a page. If there is a problem, the page shows it, and has the problem's status."""
    response = make_response(render_template(template, problem=problem, **values))
    if problem is not None:
        response.status_code = problem.status
    return response


def flash_deleted(what: str) -> None:
    """Say on the next page that a job or a dataset is deleted, and when its files leave the disk."""
    days = days_until_files_are_gone()
    flash(f"The {what} is deleted. Its files leave the disk after about {days} days, unless something else uses them.")


def form_errors(
    form: Callable[Concatenate[Problem, P], ResponseReturnValue],
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Answer an error of a view with `form(problem, …)`. The form also gets the arguments of the view."""

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def answer(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            try:
                return view(*args, **kwargs)
            except Exception as error:
                problem = as_problem(error)
                if problem.status in NOT_ON_A_FORM:
                    raise problem from error
                return form(problem, *args, **kwargs)

        return answer

    return decorate


def parsed(model: type[Q], args: MultiDict[str, str]) -> Q:
    """Return the query parameters. If one of them is not valid, return the defaults for all."""
    try:
        return model.model_validate(_given(model, args))
    except ValidationError:
        return model.model_validate({})


def form_values(model: type[Q], form: MultiDict[str, str], **lists: list[str]) -> Q:
    """Return the fields of a form. Empty fields get their defaults. Raises Problem 422, which names a bad field."""
    try:
        return model.model_validate(_given(model, form) | lists)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]).replace("_", " ") if first["loc"] else "form"
        raise Problem(422, "invalid", f"{where[:1].upper()}{where[1:]}: {first['msg']}.") from error


def _given(model: type[BaseModel], values: MultiDict[str, str]) -> dict[str, str | list[str]]:
    """Return the fields of the model that are filled in. Leave out further fields of pages, such as `csrf_token`."""
    return {name: value for name, value in values.items() if value and name in model.model_fields}
