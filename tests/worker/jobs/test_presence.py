"""An inference worker notes that it runs, so that what serves on its host counts."""

import socket
import threading

from db.database import read_scope
from db.models import ModelVersion
from db.registry import engine_proofs
from tests.web.actors import end_workers, load_engines
from worker.jobs import presence


def test_worker_renews_the_rows_of_its_host_only(champion: ModelVersion) -> None:
    here, stop = socket.gethostname(), threading.Event()
    for host in (here, "another"):
        load_engines(champion.id, host, int8=True)
        end_workers(host)
    stop.set()
    presence.renew_until(stop)
    with read_scope() as s:
        assert [one.host for one in engine_proofs.list_servings(s)] == [here]
