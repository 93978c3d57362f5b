"""The demo model: the one that ships with ctbatch, or one that a training worker makes on the spot."""

from collections.abc import Callable

from cli.errors import Unavailable
from cli.local.session import database_errors, reading, writing
from cli.local.training_runs import follow
from cli.remote.find_server import settings_with_broker
from db.evaluation.promotion import promote_demo_model
from db.registry import champions
from db.registry.demo_model import DemoModelDamaged, import_demo_model
from db.training import runs
from training.launch.installed import check_launch


def ensure_demo_model(*, train: bool = False) -> str:
    """Return the champion's label. If there is none, the demo model is promoted; with `train` it is trained first.

    Raises:
        JobFailed: the training run failed.
        TrainingNotInstalled: no worker could train it.
        Unavailable: the demo model's file is damaged, no broker is known, or no training worker took the run.
    """
    with reading() as session:
        if found := champions.champion(session):
            return found.label
    return _trained() if train else _shipped()


def imported_demo_model() -> str:
    """Register the demo model that ships, if it is not here yet, and return its label. Raises Unavailable."""
    return _imported(import_demo_model)


def _shipped() -> str:
    return _imported(promote_demo_model)


def _imported(how: Callable[[str], str]) -> str:
    from worker.imaging.recipe import RECIPE

    try:
        with database_errors():
            return how(RECIPE)
    except DemoModelDamaged as error:
        raise Unavailable(str(error)) from error


def _trained() -> str:
    """Have a training worker make and promote the demo model, show how far it is, and return its label."""
    settings = settings_with_broker()  # else the training worker hears of the run from the sweeper, a minute later
    check_launch(settings.broker_url)
    with writing() as session:
        run_id = runs.create_demo_run(session, None).id
    return follow(run_id, "making the demo model").model_version or ""
