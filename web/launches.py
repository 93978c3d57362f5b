"""From a request to a training run: the same steps for the API and for the page."""

from db import datasets, registry, runs
from db.base import read_scope, session_scope
from db.datasets import DatasetError
from db.models import Dataset, ModelVersion, User
from db.runs import RunError
from db.splits import split_of
from web.api.training_schemas import RunIn
from web.errors import Problem, sentence
from worker.imaging.names import label


def launch(user: User, asked: RunIn) -> int:
    """Split the dataset, if it is not yet, and launch a run on it; its id.

    Its config names the preset's changes only: the worker that trains puts the whole together, and ends the run with a
    clear error where a setting does not exist. Raises Problem 409 (not ready, leaks), 422 (no such dataset or model).
    """
    with read_scope() as s:
        dataset, model = _dataset(datasets.find_dataset(s, asked.dataset), asked.dataset), None
        if asked.from_model:
            model = _model(registry.find_version(s, asked.from_model), asked.from_model)
    initial = [f"initial=model:{model.label}"] if model else []
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
                config={"settings": [*initial, *asked.settings]},
                seed=asked.seed,
                name=label(" ".join(asked.name.split())),
                from_version=model,
                allowed_leaks=asked.allow_leaks,
            )
            return run.id
    except (RunError, DatasetError) as error:
        raise Problem(409, "conflict", sentence(error)) from error


def _dataset(found: Dataset | None, named: str) -> Dataset:
    if found is None:
        raise Problem(422, "invalid", f"There is no dataset {named}.")
    return found


def _model(found: ModelVersion | None, named: str) -> ModelVersion:
    if found is None:
        raise Problem(422, "invalid", f"There is no model version {named}.")
    return found
