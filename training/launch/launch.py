"""Turns a request into a training run. The command line, the page and the API use these steps."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from db.database import current, read_scope, session_scope
from db.datasets.datasets import find_dataset
from db.datasets.slices import DatasetError, count_parts
from db.models import Dataset, ModelVersion, Split, SplitRule, TrainingRun, User
from db.registry import versions
from db.registry.manifest import KERAS_FILE
from db.storage import storage
from db.training import runs
from db.training.caveats import unknown_sources
from db.training.leaks import SEEN
from db.training.splits import draw_split, keep_split, plan_split
from training.config import Config, ConfigError, Origin, checked, preset, settings_of, with_settings
from training.launch.estimate import Estimate, estimate
from training.launch.installed import check_launch
from training.launch.measured_speed import measured_speed

Opening = Callable[[], AbstractContextManager[Session]]


class NothingNamed(LookupError):
    """The request names a dataset, a model version or a file that does not exist here. The message is one line."""


class RunRequest(BaseModel):
    """A request for a run.

    `dataset`: name, name/number or id. `settings`: changes to the preset, in the form of `--set`. `from_model`: the
    label of the version to start from. `from_weights`: the SHA-256 of a weights file in storage. Without `from_model`
    and `from_weights`, the preset decides. `groups_as_given`: groups that share near-identical slices may be in
    different parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    preset: str
    settings: tuple[str, ...] = ()
    seed: int = 7
    name: str = ""
    from_model: str | None = None
    from_weights: str | None = None
    allow_leaks: tuple[str, ...] = ()
    groups_as_given: bool = False

    @property
    def changed(self) -> set[str]:
        """The names of the settings, such as `stages.head.epochs`."""
        return {setting.partition("=")[0].strip() for setting in self.settings}

    def config(self) -> Config:
        """Return the preset, with the requested initial weights and settings. Raises ConfigError."""
        if self.from_model and self.from_weights:
            raise ConfigError("a run starts from a model version or a file of weights, not both; choose one")
        if "preset" in self.changed:
            raise ConfigError("the preset is not a setting; choose it as the preset of the run")
        if "initial" in self.changed and (self.from_model or self.from_weights):
            raise ConfigError(
                "the setting initial contradicts the model version or the file of weights that the run starts from;"
                " leave out one of the two"
            )
        config = preset(self.preset)
        if self.from_model:
            config = config.model_copy(update={"initial": Origin(kind="model", value=self.from_model)})
        if self.from_weights:
            config = config.model_copy(update={"initial": Origin(kind="file", value=self.from_weights)})
        return with_settings(config, self.settings)


@dataclass(frozen=True)
class LaunchPlan:
    """A run that can be launched.

    `slices`: the number of slices by part. `leaks`: the leaks of the split, all of which are allowed. `notes`:
    lines that say which slices of the version to start from are not here, so that nobody can find them in the split.
    `takes`: the estimate of time and disk.
    """

    request: RunRequest
    config: Config
    dataset: Dataset
    split: Split
    from_version: ModelVersion | None
    slices: dict[str, int]
    leaks: list[str]
    notes: list[str]
    takes: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the slices, the estimate and the notes of the run as JSON."""
        shown = {"dataset": self.dataset.label, "slices": self.slices, "notes": self.notes}
        return shown | {"estimate": self.takes.as_dict()}


def prepare(request: RunRequest, writing: Opening = session_scope, reading: Opening = read_scope) -> LaunchPlan:
    """Split the dataset, unless it is split already, check the split, and estimate the run. Launch nothing.

    Slices of the version that the run starts from stay in their earlier parts. If a part then lacks a class, and
    `seen-by-parent` is allowed, all parts are drawn anew. The split is stored even if the run is refused, so that the
    dataset's page can show the leaks. `writing` and `reading` open transactions.

    Raises NothingNamed, ConfigError, DatasetError (the dataset cannot be split), RunError (the dataset is not ready, or
    the split has a leak), BadName, TrainingNotInstalled (no worker could take the run).
    """
    check_launch(current().broker_url)
    config = request.config()
    with reading() as s:
        dataset, version = _find_dataset(s, request.dataset), _find_origin(s, config.initial)
        if version:
            config = _with_network_of(version, config, request.changed)
        runs.check_name(request.name or dataset.name)
    split = _split(reading, dataset, request, version)
    if split.id is None:
        with writing() as s:
            split = keep_split(s, split)
    with reading() as s:
        slices, speed = count_parts(s, split), measured_speed(s)
        leaks = runs.check_split(s, dataset, split, version, request.allow_leaks)
        notes = unknown_sources(s, version) if version else []
    return LaunchPlan(request, config, dataset, split, version, slices, leaks, notes, estimate(config, slices, speed))


def launch(plan: LaunchPlan, user: User | None = None, writing: Opening = session_scope) -> int:
    """Launch the run for a worker to take, and return its id."""
    new = runs.NewRun(
        name=plan.request.name,
        preset=plan.request.preset,
        config=plan.config.model_dump(mode="json"),
        seed=plan.request.seed,
        dataset=plan.dataset,
        split=plan.split,
        from_version=plan.from_version,
        leaks=plan.leaks,
        estimate=plan.takes.as_dict(),
    )
    with writing() as s:
        return runs.create_run(s, new, user).id


def request_of(run: TrainingRun) -> RunRequest:
    """Return the request that launches a run like this one. Its settings are those that differ from the preset.

    Raises ConfigError: this version does not have the preset or a setting of the run, or the run has no dataset.
    """
    if run.dataset is None or run.split is None:
        raise ConfigError("the run has no dataset, so it cannot be launched again")
    config = checked(run.config)
    kind, value = config.initial.kind, config.initial.value
    implied = {"file": ("initial=",), "model": ("initial=", "pixels=")}.get(kind, ())
    return RunRequest(
        dataset=run.dataset.label,
        preset=config.preset,
        settings=tuple(setting for setting in settings_of(config) if not setting.startswith(implied)),
        seed=run.seed,
        name=run.name if run.name != run.dataset.name else "",
        from_model=value if kind == "model" else None,
        from_weights=value if kind == "file" else None,
        allow_leaks=tuple(run.allowed_leaks),
        groups_as_given=run.split.rule == SplitRule.AS_GIVEN,
    )


def _with_network_of(version: ModelVersion, config: Config, changed: Collection[str]) -> Config:
    """Return the config with the pixel scale and the head of a version.

    Raises ConfigError if a setting names another scale, or another number of units in the hidden layer.
    """
    own = {name: version.facts.config.get(name, getattr(config, name)) for name in ("pixels", "hidden")}
    if own["pixels"] != config.pixels and "pixels" in changed:
        raise ConfigError(f"{version.label} takes pixels on the scale {own['pixels']}; leave out the setting pixels")
    if own["hidden"] != config.hidden and "hidden" in changed:
        raise ConfigError(f"{version.label} has {own['hidden']} hidden units; leave out the setting hidden")
    return checked(config.model_dump(mode="json") | own)


def can_start_from(version: ModelVersion) -> bool:
    """Return whether a run can start from a version. An imported version may lack the file for Keras."""
    return KERAS_FILE in version.files


def _find_dataset(s: Session, label: str) -> Dataset:
    dataset = find_dataset(s, label)
    if dataset is None:
        raise NothingNamed(f"there is no dataset {label}")
    return dataset


def _split(reading: Opening, dataset: Dataset, request: RunRequest, start: ModelVersion | None) -> Split:
    """Find or draw the split.

    If slices of `start` cannot stay in their parts, draw a split without `start`, provided `seen-by-parent` is allowed.
    """

    def draw(after: ModelVersion | None) -> Split:
        with reading() as s:
            plan = plan_split(s, dataset, seed=request.seed, groups_as_given=request.groups_as_given, after=after)
        return draw_split(plan)

    try:
        return draw(start)
    except DatasetError:
        if start is None or SEEN not in request.allow_leaks:
            raise
        return draw(None)


def _find_origin(s: Session, origin: Origin) -> ModelVersion | None:
    """Return the model version that the run starts from, if it is one. Raises NothingNamed, ConfigError."""
    if origin.kind == "file" and not (storage().exists(origin.value) or storage().restore(origin.value)):
        raise NothingNamed("the server does not have this file of weights; send it again")
    if origin.kind != "model":
        return None
    version = versions.find_version(s, origin.value)
    if version is None:
        raise NothingNamed(f"there is no model version {origin.value}")
    if not can_start_from(version):
        raise ConfigError(f"the model version {origin.value} holds no {KERAS_FILE}, so no run can start from it")
    return version
