"""The Celery app of ingest and inference workers: `celery -A worker.app worker -Q ingest` (or `inference`)."""

from db.broker import make_celery
from worker.process import prepare

app = make_celery("worker")
app.conf.include = ["worker.tasks"]
prepare("worker")
