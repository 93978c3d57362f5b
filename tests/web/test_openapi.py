"""The API holds to its own description, whatever it is asked; on both databases."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.specs.openapi.checks import positive_data_acceptance

from db.access import accounts
from db.database import session_scope
from db.settings import Settings
from tests.builders.files import png, zip_of
from tests.builders.versions import add_champion
from tests.conftest import fresh_database
from tests.web.actors import Api, WorkerPart, load_engines, ready_dataset
from web.app import create_app

REPEATABLE = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)

PLAIN = {"Accept-Encoding": "identity"}  # schemathesis takes gzip, and unpacks it only over a network


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def described(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One database for all requests of this file."""
    with fresh_database(request, request.param, tmp_path_factory.mktemp("described") / "home") as settings:
        yield settings


@pytest.fixture(scope="module")
def ask(described: Settings) -> dict[str, Any]:
    """The application, the headers of a user of it, the ids of what they have, and the names of those."""
    add_champion(described.home)
    with session_scope() as s:
        user = accounts.create_user(s, "ann", None, is_admin=True)
    app = create_app(described)
    api = Api(app, user)
    job_id = api.submit(("a.zip", zip_of({"1.png": png(1), "2.png": png(2)}))).json["id"]
    WorkerPart().whole_job(2)
    deletable_id = api.submit(("b.png", png(3))).json["id"]
    WorkerPart().whole_job(1)
    rows = api.get(f"/jobs/{job_id}/results").json["items"]
    dataset_id = ready_dataset("described")
    run_id = api.post("/runs", json={"dataset": "described/1"}).json["id"]
    model_id = api.get("/models").json["items"][0]["id"]
    load_engines(model_id, "ct-1", int8=False, bf16=True)
    return {
        "app": app,
        "headers": api.headers,
        "job_id": job_id,
        "deletable_id": deletable_id,
        "slice_id": rows[0]["slice_id"],
        "dataset_id": dataset_id,
        "run_id": run_id,
        "model_id": model_id,
        "ids": ("job_id", "slice_id", "dataset_id", "run_id", "model_id"),
    }


@pytest.fixture(scope="module")
def description(ask: dict[str, Any]) -> Any:
    """The API as it describes itself."""
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", app=ask["app"])


OPERATIONS = [
    ("GET", "/api/v1/jobs"),
    ("POST", "/api/v1/jobs"),
    ("GET", "/api/v1/jobs/{job_id}"),
    ("DELETE", "/api/v1/jobs/{job_id}"),
    ("POST", "/api/v1/jobs/{job_id}/cancel"),
    ("POST", "/api/v1/jobs/{job_id}/retry"),
    ("GET", "/api/v1/jobs/{job_id}/findings"),
    ("GET", "/api/v1/jobs/{job_id}/findings.csv"),
    ("GET", "/api/v1/jobs/{job_id}/findings.json"),
    ("GET", "/api/v1/jobs/{job_id}/results"),
    ("GET", "/api/v1/jobs/{job_id}/series"),
    ("GET", "/api/v1/jobs/{job_id}/results.csv"),
    ("GET", "/api/v1/jobs/{job_id}/results.json"),
    ("GET", "/api/v1/jobs/{job_id}/results.parquet"),
    ("GET", "/api/v1/jobs/{job_id}/slices/{slice_id}/image.png"),
    ("PUT", "/api/v1/jobs/{job_id}/slices/{slice_id}/review"),
    ("DELETE", "/api/v1/jobs/{job_id}/slices/{slice_id}/review"),
    ("GET", "/api/v1/models"),
    ("GET", "/api/v1/models/{model_id}"),
    ("GET", "/api/v1/models/{model_id}/card"),
    ("GET", "/api/v1/models/{model_id}/export"),
    ("POST", "/api/v1/models/{model_id}/promote"),
    ("POST", "/api/v1/models/{model_id}/checks"),
    ("POST", "/api/v1/models/{model_id}/comparisons"),
    ("POST", "/api/v1/models/rollback"),
    ("POST", "/api/v1/models/import"),
    ("GET", "/api/v1/workers"),
    ("GET", "/api/v1/audit"),
    ("GET", "/api/v1/datasets"),
    ("POST", "/api/v1/datasets"),
    ("GET", "/api/v1/datasets/{dataset_id}"),
    ("POST", "/api/v1/datasets/{dataset_id}/splits"),
    ("GET", "/api/v1/runs"),
    ("POST", "/api/v1/runs"),
    ("POST", "/api/v1/runs/estimate"),
    ("POST", "/api/v1/runs/weights"),
    ("GET", "/api/v1/runs/{run_id}"),
    ("GET", "/api/v1/runs/{run_id}/epochs"),
    ("POST", "/api/v1/runs/{run_id}/cancel"),
    ("POST", "/api/v1/runs/{run_id}/stop"),
]
EXAMPLES = 5
"""Made-up requests of each operation that the fast pass makes, on each database."""

MORE_EXAMPLES = 50
"""The same for the slow pass, which asks for ids that are not there too."""


PLAIN = {"Accept-Encoding": "identity"}  # in-process, schemathesis asks for gzip and does not unpack it


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_api_keeps_to_its_description(method: str, path: str, description: Any, ask: dict[str, Any]) -> None:
    """For ids that are there: made-up ones would all be 404."""
    keep_asking(method, path, description, ask, EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_api_keeps_to_its_description_in_many_requests(
    method: str, path: str, description: Any, ask: dict[str, Any]
) -> None:
    keep_asking(method, path, description, ask, MORE_EXAMPLES)
    keep_asking(method, path, description, ask | {"ids": ()}, EXAMPLES)  # 404 is soon told


def keep_asking(method: str, path: str, description: Any, ask: dict[str, Any], examples: int) -> None:
    """Make requests up, hold the answers against the description."""
    ids = {name: ask[name] for name in ask["ids"] if f"{{{name}}}" in path}
    if method == "DELETE" and list(ids) == ["job_id"]:
        ids["job_id"] = ask["deletable_id"]

    @hypothesis.settings(REPEATABLE, max_examples=examples)
    @hypothesis.given(case=description[path][method].as_strategy())
    def keeps(case: schemathesis.Case) -> None:
        case.path_parameters |= ids
        # What fits the schema may still be refused: a cursor that is not ours, a file that is not an archive.
        case.call_and_validate(headers=ask["headers"] | PLAIN, excluded_checks=[positive_data_acceptance])

    keeps()


def test_description_has_the_version_of_the_package(ask: dict[str, Any]) -> None:
    assert ask["app"].test_client().get("/api/v1/openapi.json").json["info"]["version"] == version("ctbatch")


def test_description_names_every_route_of_the_api(ask: dict[str, Any]) -> None:
    app = ask["app"]
    paths = app.test_client().get("/api/v1/openapi.json").json["paths"]
    rules = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("api_") and rule.endpoint != "api_docs.docs"
    }
    written = {rule.replace("<int:", "{").replace("<", "{").replace(">", "}") for rule in rules}
    assert written == set(paths) == {path for _, path in OPERATIONS}
    assert not [path for path in paths if not path.startswith("/api/v1/")]
    assert paths["/api/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]


def test_every_address_that_takes_a_body_states_how_it_refuses_one(ask: dict[str, Any]) -> None:
    paths = ask["app"].test_client().get("/api/v1/openapi.json").json["paths"]
    with_body = [operation for path in paths.values() for operation in path.values() if "requestBody" in operation]
    assert len(with_body) > 8
    assert [one["operationId"] for one in with_body if not {"413", "415"} <= one["responses"].keys()] == []


def test_description_of_a_body_says_that_it_is_needed_and_of_text_that_it_is_not_binary(ask: dict[str, Any]) -> None:
    paths = ask["app"].test_client().get("/api/v1/openapi.json").json["paths"]
    operations = [operation for path in paths.values() for operation in path.values()]
    assert [
        one["operationId"] for one in operations if not one.get("requestBody", {"required": True}).get("required")
    ] == []
    contents = [answer.get("content", {}) for one in operations for answer in one["responses"].values()]
    texts = [schema for content in contents for kind, schema in content.items() if kind.startswith("text/")]
    assert texts == [{"schema": {"type": "string"}}] * 3
