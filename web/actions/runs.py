"""Launches training runs from requests, for the API and the page. A refused launch becomes a Problem."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from db.datasets.slices import DatasetError
from db.models import User
from db.training.runs import BadName, RunError
from training.config import ConfigError
from training.errors import WeightsError, WeightsTooLarge
from training.launch.installed import TrainingNotInstalled
from training.launch.launch import LaunchPlan, NothingNamed, RunRequest
from training.launch.launch import launch as launch_run
from training.launch.launch import prepare as prepare_run
from training.launch.weights_file import check_weights_file
from web.actions.keys import once
from web.actions.uploads import only_part, part_path, plain_part, publish
from web.errors import Problem, as_problem, sentence
from web.schemas.runs import RunIn


def launch(user: User, run: RunIn) -> tuple[int, bool]:
    """Launch a training run. Return its id, and whether it is new. Raises Problem as `prepare` does."""
    plan = prepare(run)
    with _refusals():
        return once(user, "run", run.model_dump(), lambda s: launch_run(plan, user, writing=lambda: nullcontext(s)))


def prepare(run: RunIn) -> LaunchPlan:
    """Estimate what a training run would take, without launching it.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, file, preset or setting; a name that is not
    allowed), 503 (training is not installed here).
    """
    with _refusals():
        return prepare_run(RunRequest(**run.model_dump() | {"name": run.name.strip()}))


def receive_weights() -> str:
    """Receive a file of initial weights from this request. Return its SHA-256, with which a run names the file.

    The file is kept for a day, and as long as a run names it. Raises Problem 413, 415, 422: there is no file, or it
    does not hold a ResNet50. In these cases nothing is kept.
    """
    part = only_part("one file of weights")
    try:
        check_weights_file(part_path(part), "the file")
    except WeightsTooLarge as error:
        raise Problem(413, "too-large", sentence(error)) from error
    except WeightsError as error:
        raise Problem(422, "invalid", sentence(error)) from error
    publish([part])
    return plain_part(part).sha256


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (NothingNamed, ConfigError, BadName) as error:
        raise Problem(422, "invalid", sentence(error)) from error
    except (RunError, DatasetError) as error:
        raise Problem(409, "conflict", sentence(error)) from error
    except TrainingNotInstalled as error:
        raise as_problem(error) from error
