"""Adds ETags to answers that programs and pages poll."""

from apiflask import APIBlueprint
from flask import Response, request


def revalidate(blueprint: APIBlueprint) -> None:
    """Give every JSON answer of a blueprint an ETag. Answer 304 if the client has it (RFC 9110, section 13)."""
    blueprint.after_request(_revalidate)


def _revalidate(response: Response) -> Response:
    if request.method in ("GET", "HEAD") and response.status_code == 200 and not response.is_streamed:
        response.add_etag()
        response.make_conditional(request)
    return response
