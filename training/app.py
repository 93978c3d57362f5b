"""The Celery app of training and evaluation workers: `celery -A training.app worker -Q training`, or
`-Q evaluation,datasets`.

Messages are acknowledged early: a late one would be delivered again while the run goes on, and train twice. The
lease in the row of the run, the evaluation or the dataset brings back one whose worker died.
"""

from db.broker import make_celery
from worker.process import prepare

app = make_celery("training", acks_late=False)
app.conf.include = ["training.tasks"]
prepare("training")
