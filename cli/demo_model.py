"""The demo model: made by a training worker where the registry has no champion yet."""

from cli.errors import JobFailed
from cli.operator import reading, writing
from cli.server import settings_with_broker
from cli.training import follow
from db import registry, runs
from training.installed import check_launch


def ensure_demo_model() -> str:
    """Return the champion's label; where there is none, have the demo model made, show how far it is, and promote it.

    Raises:
        JobFailed: the training run failed.
        TrainingNotInstalled: no worker could make it.
        Unavailable: no broker is known, or no training worker took it.
    """
    with reading() as session:
        if found := registry.champion(session):
            return found.label
    settings = settings_with_broker()  # else the training worker hears of the run from the sweeper, a minute later
    check_launch(settings.broker_url)
    with writing() as session:
        run_id = runs.create_demo_run(session, None).id
    label = follow(run_id, "making the demo model").model_version or ""
    with writing() as session:
        version = registry.find_version(session, label)
        if version is None:
            raise JobFailed(f"the training run ended, but its model version {label} is not there")
        if registry.champion(session) is None:
            registry.promote(session, version, None, "the first model version")
    return label
