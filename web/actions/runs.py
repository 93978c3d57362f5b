"""From a request to a training run, for the API and the page; what cannot be launched becomes a Problem."""

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
from web.actions.uploads import FIELD, check_multipart, file_parts, part_path, plain_part, publish
from web.errors import Problem, as_problem, sentence
from web.schemas.runs import RunIn


def launch(user: User, asked: RunIn) -> int:
    """Launch a training run; its id. Raises Problem as `prepare` does."""
    prepared = prepare(asked)
    with _refusals():
        return launch_run(prepared, user)


def prepare(asked: RunIn) -> LaunchPlan:
    """Tell what a training run would take, without launching it.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, preset or setting; a name that cannot be), 503
    (training is not installed here).
    """
    wanted = RunRequest(
        dataset=asked.dataset,
        preset=asked.preset,
        settings=[*_initial(asked), *asked.settings],
        seed=asked.seed,
        name=asked.name.strip(),
        allowed_leaks=asked.allow_leaks,
        as_given=asked.groups_as_given,
    )
    with _refusals():
        return prepare_run(wanted)


def _initial(asked: RunIn) -> list[str]:
    """The setting that says what the run starts from, where that is not the preset's own."""
    if asked.from_model and asked.from_weights:
        raise Problem(422, "invalid", "A run starts from a model version or from a file of weights, not from both.")
    if asked.from_model:
        return [f"initial={MODEL}{asked.from_model}"]
    if not asked.from_weights:
        return []
    if not storage().exists(asked.from_weights):
        raise Problem(422, "invalid", "This file of weights is not here, or not any more: send it again.")
    return [f"initial={FILE}{asked.from_weights}"]


def receive_weights() -> str:
    """Receive a file of initial weights from this request; its SHA-256, by which a run names it.

    It is kept for a day, or for as long as a run that names it. Raises Problem 413, 415, 422: there is no file, or it
    holds no ResNet50; then nothing is kept.
    """
    check_multipart()
    parts = file_parts(FIELD)
    if len(parts) != 1:
        raise Problem(422, "no-files", "Send one file of weights, in a part named 'files'.")
    # h5py is loaded only where a file came.
    from training.launch.weights_file import WeightsError, WeightsTooLarge, check_weights_file

    try:
        check_weights_file(part_path(parts[0]), "the file")
    except WeightsTooLarge as error:
        raise Problem(413, "too-large", sentence(error)) from error
    except WeightsError as error:
        raise Problem(422, "invalid", sentence(error)) from error
    publish(parts)
    return plain_part(parts[0]).sha256


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
