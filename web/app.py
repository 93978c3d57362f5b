"""The web application. `create_app(settings)` puts its parts together."""

from importlib.metadata import version

from apiflask import APIFlask
from flask import request
from werkzeug.exceptions import HTTPException

import db.database
from db.settings import Settings, get_settings
from web import compression, errors, static_versions
from web.actions.request import MAX_OTHER_BODY_BYTES, Request, carries_files
from web.actions.uploads import MAX_FIELD_BYTES, MAX_PARTS
from web.api import PREFIX, openapi
from web.api import audit as api_audit
from web.api import datasets as api_datasets
from web.api import findings as api_findings
from web.api import jobs as api_jobs
from web.api import models as api_models
from web.api import results as api_results
from web.api import reviews as api_reviews
from web.api import runs as api_runs
from web.api import workers as api_workers
from web.monitoring import health, metrics
from web.security import audit, headers, proxies
from web.security.auth import SESSION_LIFE, current_user
from web.security.cookies import Sessions
from web.security.csrf import csrf
from web.security.secret_key import secret_key
from web.server.front import Front, Kind
from web.views import (
    datasets,
    filters,
    jobs,
    models,
    progress,
    results,
    run_config,
    runs,
    submit,
    workers,
)
from web.views.account import audit as audit_page
from web.views.account import sign_in, tokens

HEALTH_THREADS = 2
ALIVE = "/healthz"  # must answer even if storage hangs, because a process that does not answer is killed


def create_app(settings: Settings | None = None) -> APIFlask:
    """Return an application with these settings, or else with those of the environment. The whole process uses them."""
    settings = settings or get_settings()
    db.database.use(settings)
    app = APIFlask(
        __name__,
        title="ctbatch",
        version=version("ctbatch"),
        json_errors=False,
        docs_path=None,
        spec_path=f"{PREFIX}/openapi.json",
    )
    app.request_class = Request
    app.session_interface = Sessions()
    proxies.install(app, settings)
    app.config.update(
        SECRET_KEY=secret_key(settings),
        MAX_UPLOAD_BYTES=settings.max_upload_bytes,
        MAX_FORM_PARTS=MAX_PARTS,
        MAX_FORM_MEMORY_SIZE=MAX_FIELD_BYTES,
        PERMANENT_SESSION_LIFETIME=SESSION_LIFE,
        SESSION_COOKIE_NAME="ctbatch",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.secure_cookies,
        SESSION_REFRESH_EACH_REQUEST=False,
        WTF_CSRF_CHECK_DEFAULT=False,  # web.security.guards checks it once the user is known
        WTF_CSRF_TIME_LIMIT=None,  # a token lasts as long as its session, because pages stay open during uploads
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    audit.install(app)
    compression.install(app)
    metrics.install(app)
    health.install(app)
    errors.install(app)
    headers.install(app)
    static_versions.install(app)
    filters.install(app)
    progress.install(app)
    run_config.install(app)
    csrf.init_app(app)
    openapi.install(app)
    on_jobs = (api_jobs, api_findings, api_results, api_reviews)
    for module in (*on_jobs, api_models, api_datasets, api_runs, api_workers, api_audit):
        app.register_blueprint(module.blueprint)
    for page in (sign_in, jobs, results, submit, models, datasets, runs, workers, tokens, audit_page):
        app.register_blueprint(page.blueprint)
    app.context_processor(lambda: {"user": None if request.endpoint == "static" else current_user()})
    return app


def make_front(app: APIFlask, settings: Settings) -> Front:
    """Return the application behind the front, which gunicorn serves. The settings say how many threads it has."""
    addresses = app.url_map.bind("localhost")

    def kind_of(method: str, path: str) -> Kind:
        try:
            endpoint, _ = addresses.match(path, method)
        except HTTPException:  # an error or a redirect takes no longer than a page
            return Kind.PAGE
        if path == ALIVE:
            return Kind.ALIVE
        if endpoint.partition(".")[0] in (health.blueprint.name, metrics.blueprint.name):
            return Kind.HEALTH
        return Kind.FILES if carries_files(app.view_functions[endpoint]) else Kind.PAGE

    threads = {
        Kind.PAGE: settings.web_threads,
        Kind.FILES: settings.web_transfers,
        Kind.HEALTH: HEALTH_THREADS,
        Kind.ALIVE: 1,
    }
    return Front(app, kind_of, threads, MAX_OTHER_BODY_BYTES)
