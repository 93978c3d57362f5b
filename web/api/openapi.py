"""Adds the fixed parts of the OpenAPI description (errors, multipart bodies, security), and shows its page."""

import json
import re
from typing import Any

from apiflask import APIBlueprint, APIFlask
from flask import render_template

from db.ledger.jobs import PRIORITIES
from web.api import PREFIX
from web.schemas.common import ProblemOut

DESCRIPTION = """Bulk classification of CT slices. **Research use only, not for diagnosis.**

This description needs no sign-in; everything else does.

Errors are problem details (RFC 9457) with a stable `type`. Lists come in pages. To get the next page, send
`next_cursor` as `cursor`. Send an `Idempotency-Key` with a submission, a dataset or a run: a repeated request with
the same key makes nothing new. A repeated import, split, check or comparison needs no key: it gives the same result.
Make a token on the tokens page or by `ctbatch tokens`, and send it as `Authorization: Bearer …`."""

REPEATED = {"jobs": "JobOut", "models/import": "ModelDetail", "runs": "RunOut", "datasets": "DatasetOut"}
"""The schema of the 200 answer to a repeated POST, by address."""

PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}

_TEXTS = {
    400: "The request is malformed, or its CSRF token is missing.",
    401: "Not signed in, or the token is unknown, revoked or expired.",
    403: "Only an admin may do this.",
    404: "Not found, or it belongs to somebody else.",
    409: "The present state does not allow this.",
    413: "Too many parts, or too many bytes.",
    415: "The body is not of the media type that is described here. Send `multipart/form-data` or `application/json`.",
    422: "Refused: `detail`, `code` or `errors` say why.",
    503: "The database cannot be reached, no model version is the champion, or training is not installed here.",
    507: "The disk is full.",
}

FILE = {"type": "string", "format": "binary"}
TEXT = {"type": "string"}
FOLDERS = (
    "The `filename` of a part may hold folders, such as `p1/1.png`. A folder keeps loose files apart from those of "
    "other folders. Most programs send no folders, unless `filename` is given, and one `filename` for all that they "
    "send from memory. Two different loose files with the same `filename` are refused, except in jobs DICOM files that "
    "state a PatientID and a SeriesInstanceUID."
)


def _multipart(required: str, **properties: Any) -> Any:
    """Return the description of a body with form fields and file parts."""
    schema = {"type": "object", "required": [required], "properties": properties, "additionalProperties": False}
    return {"content": {"multipart/form-data": {"schema": schema}}}


SUBMIT_BODY = _multipart(
    "files",
    files={"type": "array", "minItems": 1, "items": FILE, "description": f"Archives and loose images. {FOLDERS}"},
    name=TEXT
    | {"description": "The name of the job. Default: the folder that holds all files, or else the first file's name."},
    priority={
        "type": "integer",
        "minimum": PRIORITIES[0],
        "maximum": PRIORITIES[-1],
        "default": 0,
        "description": "Only admins may use a priority above 0.",
    },
)
DATASET_BODY = _multipart(
    "name",
    name=TEXT | {"description": "Letters, digits, dots, hyphens and underscores. The dataset also gets a new number."},
    files={"type": "array", "items": FILE, "description": f"Archives and loose files. {FOLDERS}"},
    labels=FILE | {"description": "A CSV with the columns file, label, group, and optionally split and source."},
    jobs=TEXT | {"description": "Ids of jobs with reviewed slices, instead of files. Can be repeated."},
    groups=TEXT
    | {
        "enum": ["headers", "folders"],
        "default": "headers",
        "description": "Where to look first for the patient of a DICOM slice.",
    },
)
FILE_BODY = _multipart("files", files=FILE)
NOT_MODIFIED = {304: "Not modified since the `ETag` in `If-None-Match`."}

IDEMPOTENCY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

blueprint = APIBlueprint("api_docs", __name__, url_prefix=PREFIX, enable_openapi=False)


def problems(*statuses: int) -> dict[int, Any]:
    """Return the error responses of an operation: `statuses`, 401, and 422 for an unknown parameter."""
    return {status: {"description": _TEXTS[status], "content": PROBLEM_CONTENT} for status in (401, 422, *statuses)}


@blueprint.get("/docs")
def docs() -> str:
    """Show the API's description as a page. The page loads nothing from other sites."""
    return render_template("api_docs.html")


def install(app: APIFlask) -> None:
    """Configure the description that APIFlask derives from the routes, and complete it."""
    app.config.update(
        INFO={"description": DESCRIPTION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        SECURITY_SCHEMES={"token": {"type": "http", "scheme": "bearer"}},
        AUTO_404_RESPONSE=False,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        AUTO_OPERATION_ID=True,
        AUTO_SERVERS=False,
    )
    app.spec_processor(complete)
    app.register_blueprint(blueprint)


def complete(spec: Any) -> Any:
    """Add what decorators cannot state: the problem schema, security, bodies, and answers that are text."""
    spec.setdefault("components", {}).setdefault("schemas", {})["ProblemOut"] = ProblemOut.model_json_schema()
    spec["security"] = [{"token": []}]
    for path in spec["paths"].values():
        for operation in path.values():
            if body := operation.pop("x-request-body", None):
                operation["requestBody"] = body
            if "requestBody" in operation:
                operation["requestBody"]["required"] = True
            for answer in operation["responses"].values():
                for media_type in filter(lambda name: name.startswith("text/"), answer.get("content", ())):
                    answer["content"][media_type]["schema"] = TEXT  # generated clients take `binary` for bytes
            operation["parameters"] = operation.get("parameters", []) + operation.pop("x-parameters", [])
            for parameter in operation["parameters"]:
                parameter["schema"] = _without_null(parameter["schema"])
    for path, schema in REPEATED.items():
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        spec["paths"][f"{PREFIX}/{path}"]["post"]["responses"]["200"]["content"] = content
    return _flat_names(spec)


def _without_null(schema: Any) -> Any:
    """Return a parameter's schema without null and the default null. A client leaves out the parameter instead."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return kept | choices[0]


def _flat_names(spec: Any) -> Any:
    """Rename `JobPage.JobOut` to `JobOut`. APIFlask puts the outer model's name before that of a nested model."""
    schemas = {name.rpartition(".")[2]: schema for name, schema in spec["components"]["schemas"].items()}
    spec["components"]["schemas"] = schemas
    return json.loads(re.sub(r"(#/components/schemas/)\w+\.(\w+)", r"\1\2", json.dumps(spec)))
