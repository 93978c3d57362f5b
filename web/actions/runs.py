"""Launching training runs from requests, for the API and the page. A refused launch becomes a Problem."""

from collections.abc import Iterator
from contextlib import contextmanager

from db.datasets.slices import DatasetError
from db.models import User
from db.storage import storage
from db.training.runs import BadName, RunError
from training.config import ConfigError
from training.launch.installed import TrainingNotInstalled
from training.launch.launch import FILE, MODEL, LaunchPlan, NothingNamed, RunRequest
from training.launch.launch import launch as launch_run
from training.launch.launch import prepare as prepare_run
from web.actions.uploads import only_part, part_path, plain_part, publish
from web.errors import Problem, as_problem, sentence
from web.schemas.runs import RunIn


def launch(user: User, run: RunIn) -> int:
    """Launch a training run and return its id. Raises Problem as `prepare` does."""
    prepared = prepare(run)
    with _refusals():
        return launch_run(prepared, user)


def prepare(run: RunIn) -> LaunchPlan:
    """Estimate what a training run would take, without launching it.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, preset or setting; a name that is not allowed),
    503 (training is not installed here).
    """
    request = RunRequest(
        dataset=run.dataset,
        preset=run.preset,
        settings=[*_initial(run), *run.settings],
        seed=run.seed,
        name=run.name.strip(),
        allowed_leaks=run.allow_leaks,
        as_given=run.groups_as_given,
    )
    with _refusals():
        return prepare_run(request)


def _initial(run: RunIn) -> list[str]:
    """Return the setting that says what the run starts from, if it is not the preset's own weights."""
    if run.from_model and run.from_weights:
        raise Problem(422, "invalid", "A run starts from a model version or a file of weights, not both. Choose one.")
    if run.from_model:
        return [f"initial={MODEL}{run.from_model}"]
    if not run.from_weights:
        return []
    if not storage().exists(run.from_weights):
        raise Problem(422, "invalid", "The server does not have this file of weights, or not any more. Send it again.")
    return [f"initial={FILE}{run.from_weights}"]


def receive_weights() -> str:
    """Receive a file of initial weights from this request. Return its SHA-256, by which a run names it.

    It is kept for a day, or for as long as a run that names it. Raises Problem 413, 415, 422: there is no file, or it
    does not hold a ResNet50. Then nothing is kept.
    """
    part = only_part("one file of weights")
    from training.launch.weights_file import WeightsError, WeightsTooLarge, check_weights_file  # loads h5py

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
