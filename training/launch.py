"""From what was asked for to a training run: the same steps for the command line, the page and the API."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy.orm import Session

from db import registry, runs
from db.base import session_scope
from db.datasets import find_dataset
from db.labelled import PARTS, DatasetError, rows_of
from db.leaks import SEEN
from db.models import Dataset, ModelVersion, Split, User
from db.splits import split_of
from training.config import Config, preset, with_settings
from training.estimate import Estimate, estimate

MODEL, FILE = "model:", "file:"  # what the setting `initial` begins with


class NothingNamed(LookupError):
    """There is no such dataset or model version; one line for people."""


@dataclass(frozen=True)
class Asked:
    """A run as people ask for it. `dataset`: name, name/number or id; `settings`: changes to the preset;
    `as_given`: whether groups that share near-identical slices may land in different parts of the split."""

    dataset: str
    preset: str
    settings: Sequence[str] = ()
    seed: int = 7
    name: str = ""
    allowed_leaks: Sequence[str] = ()
    as_given: bool = False


@dataclass(frozen=True)
class Launched:
    """A run that waits for a worker. `slices`: how many, by part; `takes`: time and disk, at most."""

    run_id: int
    dataset: str
    slices: dict[str, int]
    takes: Estimate


def launch(
    asked: Asked, user: User | None = None, writing: Callable[[], AbstractContextManager[Session]] = session_scope
) -> Launched:
    """Split the dataset, if it is not yet, and launch a run on it.

    What a version that the run starts from knows stays in the parts that it had. Where a part would lack a class for
    that, and `seen-by-parent` is allowed, the parts are drawn anew.
    `writing` opens a transaction. The split is kept even where the run is refused: its page shows what leaks.

    Raises NothingNamed, ConfigError, DatasetError (it cannot be split), RunError (it is not ready, or leaks).
    """
    config = with_settings(preset(asked.preset), asked.settings)
    with writing() as s:
        dataset = _dataset(s, asked.dataset)
        start = _version(s, config)
        split_id = _split(s, dataset, asked, start).id
        dataset_id = dataset.id
    with writing() as s:
        dataset, split = s.get_one(Dataset, dataset_id), s.get_one(Split, split_id)
        slices = {part: len(rows_of(s, dataset_id, split, part)) for part in PARTS}
        takes = estimate(config, slices["train"], slices["validation"])
        run = runs.create_run(
            s,
            user=user,
            dataset=dataset,
            split=split,
            preset=asked.preset,
            config=config.model_dump(mode="json"),
            estimate=takes.as_dict(),
            seed=asked.seed,
            name=asked.name,
            from_version=start,
            allowed_leaks=asked.allowed_leaks,
        )
        return Launched(run.id, dataset.title, slices, takes)


def _dataset(s: Session, label: str) -> Dataset:
    found = find_dataset(s, label)
    if found is None:
        raise NothingNamed(f"there is no dataset {label}")
    return found


def _split(s: Session, dataset: Dataset, asked: Asked, start: ModelVersion | None) -> Split:
    try:
        return split_of(s, dataset, seed=asked.seed, as_given=asked.as_given, after=start)
    except DatasetError:
        if start is None or SEEN not in asked.allowed_leaks:
            raise
        return split_of(s, dataset, seed=asked.seed, as_given=asked.as_given)


def _version(s: Session, config: Config) -> ModelVersion | None:
    """The model version that the run starts from, however that was said: it is the lineage."""
    if not config.initial.startswith(MODEL):
        return None
    label = config.initial.removeprefix(MODEL)
    found = registry.find_version(s, label)
    if found is None:
        raise NothingNamed(f"there is no model version {label}")
    return found
