"""Runs the peer Celery: sends one plain Celery task for each slice. There are as many worker processes as cores.

The task decodes the slice, calls `model.predict` and writes one row.
"""

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from cli.benchmarks.peers.exchange import Job, done, insert, open_database, wait_for_go
from cli.benchmarks.peers.network import Network, prepare

WARM_UP = 8  # tasks before the measurement, enough for each process to run one

app = Celery("peer", broker=os.environ.get("PEER_BROKER", "memory://"))
app.conf.task_ignore_result = True
app.conf.worker_proc_alive_timeout = 180  # seconds to load Keras; Celery's default is only 4 s
loaded: dict[str, Any] = {}


@worker_process_init.connect
def load(**_: object) -> None:
    """Load the network and open the database when a worker process starts."""
    loaded["network"] = Network(Path(os.environ["PEER_PACKAGE"]), os.environ["PEER_ENGINE"])
    loaded["database"] = open_database(Path(os.environ["PEER_DATABASE"]))


@app.task(name="predict")
def predict(name: str, file: str) -> None:
    """Predict one slice."""
    (answer,) = loaded["network"].answers(prepare(base64.b64decode(file))[None])
    insert(loaded["database"], [(name, answer)])


def main() -> None:
    """Send a task for each slice, and wait until each slice has a row."""
    job = Job.of_arguments()
    app.conf.broker_url = job.broker
    settings = {"BROKER": job.broker, "PACKAGE": job.package, "ENGINE": job.engine, "DATABASE": job.database}
    environment = os.environ | {f"PEER_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-P", "-m", "celery", "-A", "cli.benchmarks.peers.celery_tasks", "worker"]
    worker = subprocess.Popen(command, env=environment, stdout=sys.stderr)  # noqa: S603  our own worker
    database = open_database(job.database)
    try:
        first = base64.b64encode(next(iter(job.slices()))[1]).decode()
        for number in range(WARM_UP):
            predict.delay(f"warm-up {number}", first)
        _wait_for_rows(database, WARM_UP)
        with database:
            database.execute("DELETE FROM prediction")
        wait_for_go()
        count = 0
        for name, file in job.slices():
            predict.delay(name, base64.b64encode(file).decode())
            count += 1
        _wait_for_rows(database, count)
        done()
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(20)


def _wait_for_rows(database: Any, count: int) -> None:
    while database.execute("SELECT count(*) FROM prediction").fetchone()[0] < count:
        time.sleep(0.05)


if __name__ == "__main__":
    main()
