"""From what was asked for to a training run: the same steps for the command line, the page and the API."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from db.database import current, read_scope, session_scope
from db.datasets.datasets import find_dataset
from db.datasets.slices import DatasetError, count_parts
from db.models import Dataset, ModelVersion, Split, User
from db.registry import versions
from db.registry.manifest import KERAS_FILE
from db.training import runs
from db.training.leaks import SEEN
from db.training.splits import find_split, split_of
from training.config import Config, ConfigError, preset, with_settings
from training.launch.estimate import Estimate, estimate
from training.launch.installed import check_launch

T = TypeVar("T")
Opening = Callable[[], AbstractContextManager[Session]]

MODEL, FILE = "model:", "file:"  # what the setting `initial` begins with


class NothingNamed(LookupError):
    """There is no such dataset or model version; one line for people."""


@dataclass(frozen=True)
class RunRequest:
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
class LaunchPlan:
    """A run that nothing stands against. `slices`: how many, by part; `takes`: time and disk, at most."""

    asked: RunRequest
    config: Config
    dataset: Dataset
    split: Split
    from_version: ModelVersion | None
    slices: dict[str, int]
    takes: Estimate

    def as_dict(self) -> dict[str, Any]:
        """What the run would take, as JSON."""
        return {"dataset": self.dataset.label, "slices": self.slices, "estimate": self.takes.as_dict()}


def prepare(asked: RunRequest, writing: Opening = session_scope, reading: Opening = read_scope) -> LaunchPlan:
    """Split the dataset, if it is not yet, and tell what a run on it would take; none is launched.

    What a version that the run starts from knows stays in the parts that it had. Where a part would lack a class for
    that, and `seen-by-parent` is allowed, the parts are drawn anew. The split is kept even where the run is refused:
    its page shows what leaks. `writing` and `reading` open transactions.

    Raises NothingNamed, ConfigError, DatasetError (it cannot be split), RunError (it is not ready, or leaks), BadName,
    TrainingNotInstalled (no worker could take it).
    """
    check_launch(current().broker_url)
    if asked.name:
        runs.check_name(asked.name)
    config = with_settings(preset(asked.preset), asked.settings)
    with reading() as s:
        dataset, version = _dataset(s, asked.dataset), _version(s, config)
        split = _split(partial(find_split, s), dataset, asked, version)
    if split is None:  # only now, for drawing holds up all who write
        with writing() as s:
            split = _split(partial(split_of, s), s.merge(dataset), asked, version)
    with reading() as s:
        slices = count_parts(s, split)
        runs.check_split(s, dataset, split, version, asked.allowed_leaks)
    takes = estimate(config, slices)
    return LaunchPlan(asked, config, dataset, split, version, slices, takes)


def launch(prepared: LaunchPlan, user: User | None = None, writing: Opening = session_scope) -> int:
    """Launch the run, for a worker to take; its id."""
    asked = prepared.asked
    with writing() as s:
        run = runs.create_run(
            s,
            user=user,
            dataset=prepared.dataset,
            split=prepared.split,
            preset=asked.preset,
            config=prepared.config.model_dump(mode="json"),
            estimate=prepared.takes.as_dict(),
            seed=asked.seed,
            name=asked.name,
            from_version=prepared.from_version,
            allowed_leaks=asked.allowed_leaks,
        )
        return run.id


def can_start_from(version: ModelVersion) -> bool:
    """Whether a run can start from it: an imported one may hold other engines' files only."""
    return KERAS_FILE in version.files


def _dataset(s: Session, label: str) -> Dataset:
    found = find_dataset(s, label)
    if found is None:
        raise NothingNamed(f"there is no dataset {label}")
    return found


def _split(of: Callable[..., T], dataset: Dataset, asked: RunRequest, start: ModelVersion | None) -> T:
    """`of`: split_of or find_split."""
    try:
        return of(dataset, seed=asked.seed, as_given=asked.as_given, after=start)
    except DatasetError:
        if start is None or SEEN not in asked.allowed_leaks:
            raise
        return of(dataset, seed=asked.seed, as_given=asked.as_given)


def _version(s: Session, config: Config) -> ModelVersion | None:
    """The model version that the run starts from, however that was said: it is the lineage."""
    if not config.initial.startswith(MODEL):
        return None
    label = config.initial.removeprefix(MODEL)
    found = versions.find_version(s, label)
    if found is None:
        raise NothingNamed(f"there is no model version {label}")
    if not can_start_from(found):
        raise ConfigError(f"the model version {label} holds no {KERAS_FILE}, so no run can start from it")
    return found
