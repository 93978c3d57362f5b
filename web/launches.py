"""From a request to a training run: the same steps for the API and for the page."""

from sqlalchemy.orm import Session

from db import datasets, registry, runs
from db.base import read_scope, session_scope
from db.datasets import DatasetError
from db.labelled import rows_of
from db.models import Dataset, ModelVersion, Split, User
from db.runs import RunError
from db.splits import split_of
from training.config import Config, ConfigError, preset, with_settings
from training.estimate import estimate
from web.api.training_schemas import RunIn
from web.errors import Problem, sentence
from worker.imaging.names import label


def launch(user: User, asked: RunIn) -> int:
    """Split the dataset, if it is not yet, and launch a run on it; its id.

    Raises Problem 409 (not ready, leaks), 422 (no such dataset, model, preset or setting).
    """
    with read_scope() as s:
        dataset, model = _dataset(datasets.find_dataset(s, asked.dataset), asked.dataset), None
        if asked.from_model:
            model = _model(registry.find_version(s, asked.from_model), asked.from_model)
    initial = [f"initial=model:{model.label}"] if model else []
    try:
        config = with_settings(preset(asked.preset), [*initial, *asked.settings])
    except ConfigError as error:
        raise Problem(422, "invalid", sentence(error)) from error
    try:
        with session_scope() as s:  # kept although the run may be refused: its page shows what leaks
            split = split_of(s, s.get_one(Dataset, dataset.id), seed=asked.seed)
        with session_scope() as s:
            run = runs.create_run(
                s,
                user=user,
                dataset=s.get_one(Dataset, dataset.id),
                split=split,
                preset=asked.preset,
                config=config.model_dump(mode="json"),
                estimate=_estimate(s, config, split),
                seed=asked.seed,
                name=label(" ".join(asked.name.split())),
                from_version=model,
                allowed_leaks=asked.allow_leaks,
            )
            return run.id
    except (RunError, DatasetError) as error:
        raise Problem(409, "conflict", sentence(error)) from error


def _estimate(s: Session, config: Config, split: Split) -> dict[str, float]:
    sizes = [len(rows_of(s, split.dataset_id, split, part)) for part in ("train", "validation")]
    return estimate(config, *sizes).as_dict()


def _dataset(found: Dataset | None, named: str) -> Dataset:
    if found is None:
        raise Problem(422, "invalid", f"There is no dataset {named}.")
    return found


def _model(found: ModelVersion | None, named: str) -> ModelVersion:
    if found is None:
        raise Problem(422, "invalid", f"There is no model version {named}.")
    return found
