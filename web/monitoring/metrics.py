"""`/metrics`: counts from the database, free disk space, and times of requests, in Prometheus's text format."""

import hmac
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from itertools import accumulate

from apiflask import APIBlueprint
from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from db.database import current, read_scope
from db.installation import this_installation
from db.ledger.backlog import KINDS, backlog, seconds_since_sweep
from db.ledger.job_view import count_jobs, count_slices
from db.ledger.leases import count_put_offs
from db.models import DamagedFile, JobState, Outcome
from db.registry.engine_proofs import list_servings
from db.storage import storage
from db.timing import published
from db.timing.stages import BOUNDS
from web.errors import not_signed_in
from web.monitoring.kept import Kept

blueprint = APIBlueprint("metrics", __name__, enable_openapi=False)

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600)
COUNT_SECONDS = 15.0  # how long counts are kept, because counting all slices reads a large index


@blueprint.get("/metrics")
def metrics() -> Response:
    """Return the metrics in Prometheus's text format. Raises Problem 401 if a token is set and the request lacks it."""
    token = current().metrics_token.get_secret_value()
    given = request.authorization.token if request.authorization else None
    if token and not hmac.compare_digest(token.encode(), (given or "").encode()):
        raise not_signed_in("The metrics need the token of CTBATCH_METRICS_TOKEN. Send it as a bearer token.")
    return Response(generate_latest(current_app.extensions["metrics_registry"]), content_type=CONTENT_TYPE_LATEST)


class KeptCollector(Collector):
    """Collects families of metrics, and keeps them for `COUNT_SECONDS`. So frequent scrapes do not cost more."""

    def __init__(self) -> None:
        """Start without families."""
        self._kept = Kept(lambda: list(self.find()), lambda _: COUNT_SECONDS)

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._kept.get()

    def find(self) -> Iterable[Metric]:
        """Yield the present families."""
        raise NotImplementedError


class LedgerCollector(KeptCollector):
    """Jobs by state, slices by outcome, and open work, counted in the database."""

    def find(self) -> Iterable[GaugeMetricFamily]:
        """Yield the families. A state without rows has the value 0."""
        with read_scope() as s:
            jobs, slices, put_offs = count_jobs(s), count_slices(s), count_put_offs(s)
            backlogs = {name: backlog(s, kind) for name, kind in KINDS.items()}
            swept = seconds_since_sweep(s)
            damaged = s.scalars(select(func.count()).select_from(DamagedFile)).one()
            unexpected = this_installation(s).unexpected_files
        yield _family(
            "ctbatch_jobs", "Jobs by state.", "state", {state.value: jobs.get(state, 0) for state in JobState}
        )
        outcomes = {outcome.value: slices.get(outcome, 0) for outcome in Outcome}
        yield _family("ctbatch_slices", "Slices by outcome.", "outcome", outcomes)
        waits = "How often open work was put off since its last progress, because something was not available."
        yield _family("ctbatch_put_offs", waits, "work", put_offs)
        for name, help_, field in (
            ("ctbatch_ready", "Pieces of work that may be claimed now.", "ready"),
            (
                "ctbatch_oldest_ready_seconds",
                "Longest time since the last message for a piece of work that may be claimed now.",
                "oldest_seconds",
            ),
            ("ctbatch_running", "Pieces of work under a lease that holds.", "running"),
            ("ctbatch_expired_leases", "Pieces of work whose lease ran out.", "expired"),
        ):
            yield _family(name, help_, "work", {kind: getattr(found, field) for kind, found in backlogs.items()})
        yield GaugeMetricFamily(
            "ctbatch_damaged_files", "Stored files that were found damaged or missing.", value=damaged
        )
        left = "Unused files that the sweeper leaves, because the database does not refer to so many."
        yield GaugeMetricFamily("ctbatch_unexpected_files", left, value=unexpected)
        ended = "Seconds since the last sweep ended. Absent before the first sweep."
        since = GaugeMetricFamily("ctbatch_last_sweep_seconds", ended)
        if swept is not None:
            since.add_metric([], swept)
        yield since


class StageCollector(KeptCollector):
    """The processor time of each stage. All processes add their time to it in the database."""

    def find(self) -> Iterable[HistogramMetricFamily]:
        """Yield the family. A stage without time has the value 0."""
        with read_scope() as s:
            sums = published.sums(s)
        help_ = "Processor time of a stage for one slice. For the stage receive: for one submission."
        family = HistogramMetricFamily("ctbatch_stage_core_seconds", help_, labels=["stage"])
        for stage, spent in sums.items():
            totals = accumulate(spent.counts)
            names = [*map(str, BOUNDS), "+Inf"]
            family.add_metric([stage], list(zip(names, totals, strict=True)), spent.seconds)
        yield family


class DiskCollector(KeptCollector):
    """The free disk space of this machine."""

    def find(self) -> Iterable[GaugeMetricFamily]:
        """Yield the family."""
        folders = {"storage": storage().folder, "home": current().home}
        free = {name: shutil.disk_usage(folder).free for name, folder in folders.items() if folder.exists()}
        yield _family("ctbatch_free_disk_bytes", "Free disk below storage and the home.", "of", free)


class ProofCollector(KeptCollector):
    """The results of the newest proofs on each host, from the database."""

    def find(self) -> Iterable[GaugeMetricFamily]:
        """Yield the two families. An engine without a measured difference is left out of the family of differences."""
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


def _family(name: str, help_: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], value)
    return family


def install(app: Flask) -> None:
    """Measure the time of every request, and serve `/metrics`.

    If there are several web processes, they count together in the folder PROMETHEUS_MULTIPROC_DIR.
    """
    registry = CollectorRegistry()
    for collector in (LedgerCollector(), StageCollector(), DiskCollector(), ProofCollector()):
        registry.register(collector)
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
