"""Health, readiness and metrics for monitoring. They name hosts, engines and model versions, never people or files."""

import os
import time
from collections.abc import Callable, Iterable

from apiflask import APIBlueprint
from flask import Flask, Response, current_app, g, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import text

from db import broker
from db.database import read_scope
from db.installation import check_storage
from db.ledger.job_view import count_jobs, count_slices
from db.ledger.leases import count_put_offs
from db.models import JobState, Outcome
from db.registry.engine_proofs import list_servings
from db.storage import storage

blueprint = APIBlueprint("observe", __name__, enable_openapi=False)

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)


@blueprint.get("/healthz")
def alive() -> ResponseReturnValue:
    """Answer that this process is alive."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def ready() -> ResponseReturnValue:
    """Report whether the database, the broker and storage can be used; 503 if one cannot."""
    checks = {name: _passes(check) for name, check in CHECKS.items()}
    if all(checks.values()):
        return jsonify(status="ready", checks=checks)
    return jsonify(status="not ready", checks=checks), 503


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics in Prometheus's text format."""
    return Response(generate_latest(current_app.extensions["metrics_registry"]), content_type=CONTENT_TYPE_LATEST)


def _check_database() -> None:
    with read_scope() as s:
        s.execute(text("SELECT 1 FROM user_account LIMIT 1"))


def _check_storage() -> None:
    storage().check_writable()
    with read_scope() as s:
        check_storage(s)


CHECKS: dict[str, Callable[[], None]] = {
    "database": _check_database,
    "broker": lambda: broker.ping(timeout=1.0),
    "storage": _check_storage,
}


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception:  # any failure means "not ready"
        return False
    return True


class LedgerCollector(Collector):
    """Jobs by state, slices by outcome and work that was put off, counted in the database at each scrape."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the three families. A state without rows is 0."""
        with read_scope() as s:
            jobs, slices, put_offs = count_jobs(s), count_slices(s), count_put_offs(s)
        yield _family("ctbatch_jobs", "Jobs by state.", "state", [state.value for state in JobState], jobs)
        yield _family("ctbatch_slices", "Slices by outcome.", "outcome", [o.value for o in Outcome], slices)
        waits = "How often open work was put off since its last progress because something that it needs is away."
        yield _family("ctbatch_put_offs", waits, "work", sorted(put_offs), put_offs)


class ProofCollector(Collector):
    """Results of the newest proofs on each host, read from the database at each scrape."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the two families. An engine without a number has no difference."""
        with read_scope() as s:
            servings = list_servings(s)
        labels = ["host", "engine", "model_version"]
        passed = GaugeMetricFamily("ctbatch_engine_proof_passed", "1 if the engine passed its proof.", labels=labels)
        largest = GaugeMetricFamily(
            "ctbatch_engine_proof_largest_difference",
            "The largest difference of a calibrated probability from float32's.",
            labels=labels,
        )
        for proof in (proof for serving in servings for proof in serving.proofs):
            values = [proof.host, proof.engine, proof.model_version.label]
            passed.add_metric(values, float(proof.passed))
            if proof.largest_difference is not None:
                largest.add_metric(values, proof.largest_difference)
        yield from (passed, largest)


def _family(name: str, text_: str, label: str, values: list[str], counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text_, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family


def install(app: Flask) -> None:
    """Time every request, and serve `/metrics`.

    With several web processes set PROMETHEUS_MULTIPROC_DIR to an empty folder, so that one scrape sees them all.
    """
    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    registry.register(ProofCollector())
    many = "PROMETHEUS_MULTIPROC_DIR" in os.environ
    latency = Histogram(
        "ctbatch_request_seconds",
        "Time to answer a request.",
        ("method", "route", "status"),
        buckets=BUCKETS,
        registry=None if many else registry,
    )
    if many:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def observe(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in ("GET", "HEAD", "POST") else "other"
        elapsed = time.perf_counter() - g.get("started", time.perf_counter())
        latency.labels(method, route, str(response.status_code)).observe(elapsed)
        return response

    app.extensions["metrics_registry"] = registry
    app.register_blueprint(blueprint)
