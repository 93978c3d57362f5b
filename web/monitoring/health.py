"""`/healthz` says whether this process is alive. `/readyz` says whether it can serve."""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass

from apiflask import APIBlueprint
from flask import Flask, current_app, jsonify
from flask.typing import ResponseReturnValue

from db import broker
from db.database import check_writable, read_scope
from db.installation import check_storage
from db.ledger.backlog import is_worked_on
from db.migrate import check_revision
from db.storage import storage
from web.monitoring.kept import Kept

log = logging.getLogger(__name__)

blueprint = APIBlueprint("health", __name__, enable_openapi=False)

READY_SECONDS, NOT_READY_SECONDS = 15.0, 0.5  # how long an answer is kept; "not ready" only briefly


@dataclass(frozen=True)
class Readiness:
    """The checks by name, and whether each passed. `warnings`: failed checks that do not stop the web process."""

    checks: dict[str, bool]
    warnings: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Return whether all necessary checks passed."""
        return all(passed or name in self.warnings for name, passed in self.checks.items())


@blueprint.get("/healthz")
def alive() -> ResponseReturnValue:
    """Answer that this process is alive."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def ready() -> ResponseReturnValue:
    """Report whether this process can serve. The status is 503 if it cannot."""
    readiness: Readiness = current_app.extensions["readiness"].get()
    body = jsonify(
        status="ready" if readiness.ready else "not ready", checks=readiness.checks, warnings=readiness.warnings
    )
    return body, 200 if readiness.ready else 503


def _check_database() -> None:
    check_revision()
    check_writable()


def _check_storage() -> None:
    try:
        storage().check_writable()
    except OSError as error:
        if error.errno != errno.ENOSPC:  # the check `disk` reports a full disk
            raise
    with read_scope() as s:
        check_storage(s)


def _check_workers() -> None:
    with read_scope() as s:
        if not is_worked_on(s):
            raise LookupError("work waits, but no process takes it; start workers and a sweeper")


NEEDED: dict[str, Callable[[], None]] = {
    "database": _check_database,
    "storage": _check_storage,
}
NOT_NEEDED: dict[str, Callable[[], None]] = {
    "disk": lambda: storage().check_disk(),  # uploads are refused, but results can be read and jobs cancelled
    "broker": lambda: broker.ping(timeout=1.0),
    "workers": _check_workers,
}


def find_readiness() -> Readiness:
    """Carry out all checks."""
    checks = {name: _passes(name, check) for name, check in (NEEDED | NOT_NEEDED).items()}
    return Readiness(checks, tuple(name for name in NOT_NEEDED if not checks[name]))


def _passes(name: str, check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception as error:  # any failure means "not ready"
        log.warning("A check failed: %s", name, extra={"error": type(error).__name__})
        return False
    return True


def install(app: Flask) -> None:
    """Serve the two addresses."""
    app.extensions["readiness"] = Kept(find_readiness, lambda r: READY_SECONDS if r.ready else NOT_READY_SECONDS)
    app.register_blueprint(blueprint)
