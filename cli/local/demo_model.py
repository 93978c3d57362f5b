"""Provides the demo model: the one that ships with ctbatch, or a new one that a training worker makes now."""

from collections.abc import Callable

from cli.errors import Unavailable
from cli.local.session import act_as_operator, database_errors, operator_name, reading, writing
from cli.local.training_runs import follow_run
from cli.remote.find_server import settings_with_broker, settings_with_local_broker
from db.evaluation.promotion import promote_demo_model
from db.registry import champions
from db.registry.demo_model import DemoModelDamaged, import_demo_model
from db.training import runs
from training.launch.installed import check_launch


def ensure_demo_model(*, train: bool = False, reason: str = "") -> str:
    """Return the label of the champion. If there is no champion, first promote the demo model.

    `train`: train a new demo model now instead of using the one that ships with ctbatch. `reason`: kept with the
    promotion.

    Raises:
        JobFailed: the training run failed.
        TrainingNotInstalled: no worker could train the model.
        Unavailable: the demo model's file is damaged, no broker is known, or no training worker takes the run.
    """
    with reading() as session:
        if champion := champions.champion(session):
            return champion.label
    if train:
        return _train()
    settings_with_local_broker()  # so that an idle worker loads the model at once
    return _import(lambda recipe: promote_demo_model(recipe, reason=reason, who=operator_name()))


def imported_demo_model() -> str:
    """Register the demo model that ships, unless it is registered already. Return its label. Raises Unavailable."""
    return _import(import_demo_model)


def _import(using: Callable[[str], str]) -> str:
    from worker.imaging.recipe import RECIPE

    act_as_operator()
    try:
        with database_errors():
            return using(RECIPE)
    except DemoModelDamaged as error:
        raise Unavailable(str(error)) from error


def _train() -> str:
    """Let a training worker make and promote a demo model. Show the progress, and return the model's label."""
    settings = settings_with_broker()  # without a broker, the worker hears of the run from the sweeper, a minute later
    check_launch(settings.broker_url)
    with writing() as session:
        run_id = runs.create_demo_run(session, None).id
    return follow_run(run_id, "training of the demo model").model_version or ""
