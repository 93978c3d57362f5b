"""The Celery app of training and evaluation workers: `celery -A training.app worker -Q training`, or
`-Q evaluation,datasets`.

Messages are acknowledged early. With late acknowledgement, a message would be delivered again while the run goes on,
and the run would be trained twice. If a worker dies, its lease runs out, and another worker claims the run, evaluation
or dataset.
"""

from db.broker import make_celery
from worker.process import prepare

app = make_celery("training", acks_late=False)
app.conf.include = ["training.tasks"]
prepare("training")
