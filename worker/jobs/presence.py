"""Notes in the database that an inference worker runs on this host, also while it is idle."""

import logging
import socket
import threading

from sqlalchemy.exc import SQLAlchemyError

from db.database import session_scope
from db.registry import engine_proofs

log = logging.getLogger(__name__)


def start() -> None:
    """Renew the rows of this host in a thread, as long as this process lives."""
    threading.Thread(target=renew_until, args=(threading.Event(),), name="presence", daemon=True).start()


def renew_until(stop: threading.Event) -> None:
    """Renew the rows of this host at once, and then again and again, until the event is set."""
    while True:
        try:
            with session_scope() as s:
                engine_proofs.keep_seen(s, socket.gethostname())
        except SQLAlchemyError as error:
            log.warning("this worker is not noted as running", extra={"error": type(error).__name__})
        if stop.wait(engine_proofs.SEEN_SECONDS):
            return
