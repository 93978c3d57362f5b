"""From a request to a training run, for the API and the page; what cannot be launched becomes a Problem."""

from db.datasets import DatasetError
from db.models import User
from db.runs import RunError
from training.config import ConfigError
from training.launch import MODEL, Asked, NothingNamed
from training.launch import launch as launch_run
from web.api.training_schemas import RunIn
from web.errors import Problem, sentence
from worker.imaging.names import label


def launch(user: User, asked: RunIn) -> int:
    """Launch a training run; its id.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, preset or setting).
    """
    initial = [f"initial={MODEL}{asked.from_model}"] if asked.from_model else []
    wanted = Asked(
        dataset=asked.dataset,
        preset=asked.preset,
        settings=[*initial, *asked.settings],
        seed=asked.seed,
        name=label(" ".join(asked.name.split())),
        allowed_leaks=asked.allow_leaks,
        as_given=asked.groups_as_given,
    )
    try:
        return launch_run(wanted, user).run_id
    except (NothingNamed, ConfigError) as error:
        raise Problem(422, "invalid", sentence(error)) from error
    except (RunError, DatasetError) as error:
        raise Problem(409, "conflict", sentence(error)) from error
