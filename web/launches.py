"""From a request to a training run, for the API and the page; what cannot be launched becomes a Problem."""

from collections.abc import Iterator
from contextlib import contextmanager

from db.datasets import DatasetError
from db.models import User
from db.runs import BadName, RunError
from training.config import ConfigError
from training.launch import MODEL, Asked, NothingNamed, Prepared
from training.launch import launch as launch_run
from training.launch import prepare as prepare_run
from web.api.training_schemas import RunIn
from web.errors import Problem, sentence


def launch(user: User, asked: RunIn) -> int:
    """Launch a training run; its id. Raises Problem as `prepare` does."""
    prepared = prepare(asked)
    with _refusals():
        return launch_run(prepared, user)


def prepare(asked: RunIn) -> Prepared:
    """Tell what a training run would take, without launching it.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, preset or setting; a name that cannot be).
    """
    initial = [f"initial={MODEL}{asked.from_model}"] if asked.from_model else []
    wanted = Asked(
        dataset=asked.dataset,
        preset=asked.preset,
        settings=[*initial, *asked.settings],
        seed=asked.seed,
        name=asked.name.strip(),
        allowed_leaks=asked.allow_leaks,
        as_given=asked.groups_as_given,
    )
    with _refusals():
        return prepare_run(wanted)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (NothingNamed, ConfigError, BadName) as error:
        raise Problem(422, "invalid", sentence(error)) from error
    except (RunError, DatasetError) as error:
        raise Problem(409, "conflict", sentence(error)) from error
