"""The Celery app of training and evaluation workers: `celery -A training.app worker -Q training`, or
`-Q evaluation,datasets`.

Messages are acknowledged early. With late acknowledgement a message would be delivered again while the run goes on, and
it would be trained twice. If a worker dies, the lease in the row of the run, evaluation or dataset brings it
back.
"""

from db.broker import make_celery
from worker.process import prepare

app = make_celery("training", acks_late=False)
app.conf.include = ["training.tasks"]
prepare("training")
